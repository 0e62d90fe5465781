"""Training on what a teacher model expects, beside the text itself."""

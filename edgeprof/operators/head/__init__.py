"""Language-model head."""

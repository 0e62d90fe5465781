"""What a trained model is worth: held-out loss, samples, recall, and how often it falls into endless repetition."""

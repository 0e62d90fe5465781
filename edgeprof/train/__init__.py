"""Training of a configuration: data, loop, checkpoints, evaluation."""

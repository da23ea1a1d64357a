"""Training of one run: preparation, training loop, evaluation."""

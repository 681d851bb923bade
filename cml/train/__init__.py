"""Training: one loop for tasks, one for codecs."""

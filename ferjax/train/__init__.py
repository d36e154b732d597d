"""Training: the step, the loop, the feed, and the run from a configuration to its best checkpoint."""

"""Trains networks: the step, the loop, the batches, and runs from a configuration to the best checkpoint."""

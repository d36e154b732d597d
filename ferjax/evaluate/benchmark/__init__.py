"""Latency, memory, size, work and accuracy of model files: `ferjax benchmark FILES`."""

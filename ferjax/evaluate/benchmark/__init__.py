"""Latency, memory, size, work and accuracy of model files: python -m ferjax.benchmark FILES."""

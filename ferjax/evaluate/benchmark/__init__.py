"""Benchmarks model files: latency, memory, size, operations and accuracy (`ferjax benchmark FILE…`)."""

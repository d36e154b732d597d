"""Trained networks and their files: checkpoints, ferjax's .safetensors, and other frameworks' weights."""

"""Reads and writes trained networks: checkpoints, .safetensors files, and weights of other frameworks."""

from ferjax.weights.single_file import load
from ferjax.weights.trained import Trained

__all__ = ["Trained", "load"]

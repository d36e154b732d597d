"""Trained networks and their files: checkpoints, ferjax's .safetensors, and other frameworks' weights."""

from ferjax.weights.single_file import load
from ferjax.weights.trained import Trained

__all__ = ["Trained", "load"]

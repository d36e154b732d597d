"""Compresses trained networks: pruning, channel removal, folding, quantization, or a target file size."""

from ferjax.compress.budget import fit
from ferjax.compress.pipeline import Steps, apply, compress, report

__all__ = ["Steps", "apply", "compress", "fit", "report"]

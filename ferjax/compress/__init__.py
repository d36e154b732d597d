"""Compression after training: pruned, slimmed, folded, rounded, or to the size that a file may have."""

from ferjax.compress.budget import fit
from ferjax.compress.pipeline import Wish, apply, compress, report

__all__ = ["Wish", "apply", "compress", "fit", "report"]

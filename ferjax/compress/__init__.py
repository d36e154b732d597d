"""Compression after training: pruned, slimmed, folded, rounded, or to the size that a file may have."""

from ferjax.compress.budget import fit
from ferjax.compress.compressing import Wish, apply, compress
from ferjax.compress.model import Model, report

__all__ = ["Model", "Wish", "apply", "compress", "fit", "report"]

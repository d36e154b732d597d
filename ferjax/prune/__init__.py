"""Pruning: an optax transform that keeps pruned weights on exactly zero, and what is left of a network after it."""

from ferjax.prune.remaining import apply_masks, compression_ratio, layer_sparsity
from ferjax.prune.transform import SCORES, PruneState, find_masks, prune

__all__ = [
    "SCORES",
    "PruneState",
    "apply_masks",
    "compression_ratio",
    "find_masks",
    "layer_sparsity",
    "prune",
]

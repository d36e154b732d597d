"""Provides pruning as an optax transform that keeps pruned weights at exactly zero, and measures of sparsity."""

from ferjax.prune.layers import DISTRIBUTIONS
from ferjax.prune.sparsity import apply_masks, compression_ratio, layer_sparsity, masked_share
from ferjax.prune.transform import SCORES, PruneState, find_masks, prune, prunes

__all__ = [
    "DISTRIBUTIONS",
    "SCORES",
    "PruneState",
    "apply_masks",
    "compression_ratio",
    "find_masks",
    "layer_sparsity",
    "masked_share",
    "prune",
    "prunes",
]

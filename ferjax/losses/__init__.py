"""Defines the losses: one value per example, hyperparameters as keywords.

Targets are probabilities (N, C): one-hot labels, votes of several annotators, or targets of mixed images. The caller
takes the mean over the batch.
"""

from ferjax.losses.classification import cross_entropy, focal, smooth_targets
from ferjax.losses.distillation import (
    attention_transfer,
    decoupled_distillation,
    decoupled_divergence,
    distillation,
    divergence,
    hard_distillation,
)

__all__ = [
    "attention_transfer",
    "cross_entropy",
    "decoupled_distillation",
    "decoupled_divergence",
    "distillation",
    "divergence",
    "focal",
    "hard_distillation",
    "smooth_targets",
]

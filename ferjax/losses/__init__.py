"""Losses: one value per example, targets as probabilities, hyper-parameters by keyword.

Targets are (N, C) probabilities, so that plain labels (one-hot), votes of several annotators and mixed images
all take the same path. The caller takes the mean over the batch.
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

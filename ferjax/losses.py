"""Losses: one value per example, targets as probabilities, hyper-parameters by keyword.

Targets are (N, C) probabilities, so that plain labels (one-hot), votes of several annotators and mixed images
all take the same path. The caller takes the mean over the batch.
"""

import jax
import jax.numpy as jnp
import optax

from ferjax.cli import InputError


def cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    *,
    label_smoothing: float = 0.0,
    class_weights: jax.Array | None = None,
) -> jax.Array:
    """Cross-entropy, optionally with smoothed targets and class weights (Paraschiv 2026, eq. 11 to 15).

    The loss of example i is w_y · Σ_c q̃_c · (−log softmax(z)_c), where q̃ are the smoothed targets and
    w_y = Σ_c q_c · w_c is taken from the targets as given. The mean over the batch is the paper's loss: it is
    not divided by the sum of the weights, as `torch.nn.CrossEntropyLoss` would.

    Args:
      logits: (N, C), any floating type; computed in float32 or wider.
      targets: (N, C) probabilities that sum to 1 in each row.
      label_smoothing: ε in [0, 1), see `smooth_targets`.
      class_weights: (C,) weight w_c = N / (C · N_c) of each class (eq. 1), or None for 1 each.

    Returns:
      (N,) losses in nats, float32 (float64 for float64 logits).

    Raises:
      InputError: if the shapes do not fit or ε is out of range.
    """
    if logits.ndim != 2 or logits.shape != targets.shape:
        raise InputError(
            f"cross_entropy needs logits and targets of one shape (N, C), got {logits.shape} and {targets.shape};"
            " turn integer labels into probabilities with jax.nn.one_hot"
        )
    dtype = jnp.float64 if logits.dtype == jnp.float64 else jnp.float32
    logits, targets = logits.astype(dtype), targets.astype(dtype)
    losses = optax.softmax_cross_entropy(logits, smooth_targets(targets, epsilon=label_smoothing))
    if class_weights is None:
        return losses
    if jnp.shape(class_weights) != targets.shape[1:]:
        raise InputError(f"class_weights must have shape {targets.shape[1:]}, got {jnp.shape(class_weights)}")
    weights = jnp.asarray(class_weights, dtype)[None, :]
    return losses * jnp.sum(targets * weights, axis=-1)


def smooth_targets(targets: jax.Array, *, epsilon: float) -> jax.Array:
    """Moves a share ε of the probability to the other classes (Paraschiv 2026, eq. 13).

    A one-hot target becomes 1 − ε on its class and ε / (C − 1) on each other one; Szegedy et al. (2016) and
    `optax.smooth_labels` give ε / C to every class instead. Soft targets are smoothed linearly: the result is
    the mean, under the targets, of the smoothed one-hot targets.

    Args:
      targets: (..., C) probabilities, floating.
      epsilon: ε in [0, 1).

    Returns:
      Array of the targets' shape and type; rows that summed to 1 still do.

    Raises:
      InputError: if ε is outside [0, 1) or there is only one class to share it with.
    """
    if not 0.0 <= epsilon < 1.0:
        raise InputError(f"label smoothing must be in [0, 1), got {epsilon!r}; 0 turns it off, the papers use 0.1")
    if epsilon == 0.0:
        return targets
    classes = targets.shape[-1]
    if classes < 2:
        raise InputError(f"label smoothing needs two or more classes, got targets of shape {targets.shape}")
    others = epsilon / (classes - 1)
    return targets * (1.0 - epsilon - others) + others

"""Defines cross-entropy and focal loss, with label smoothing and class weights."""

import jax
import jax.numpy as jnp
import optax

from ferjax.errors import InputError


def cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    *,
    label_smoothing: float = 0.0,
    class_weights: jax.Array | None = None,
) -> jax.Array:
    """Returns the cross-entropy with optional label smoothing and class weights (Paraschiv 2026, eq. 11 to 15).

    The loss of example i is w_y · Σ_c q̃_c · (−log softmax(z)_c), where q̃ are the smoothed targets and
    w_y = Σ_c q_c · w_c uses the targets before smoothing. The loss of the paper is the mean over the batch; it is not
    divided by the sum of the weights, unlike `torch.nn.CrossEntropyLoss`.

    Args:
      logits: (N, C), any floating type; computed in float32 or wider.
      targets: (N, C) probabilities, rows sum to 1.
      label_smoothing: ε in [0, 1), see `smooth_targets`.
      class_weights: (C,), such as w_c = N / (C · N_c) (eq. 1); None for 1 each.

    Returns:
      (N,) losses in nats, float32 (float64 for float64 logits).

    Raises:
      InputError: if the shapes do not match or ε is out of range.
    """
    logits, targets = same_rows("cross_entropy", logits, targets)
    losses = optax.softmax_cross_entropy(logits, smooth_targets(targets, epsilon=label_smoothing))
    return _weighted(losses, targets, class_weights)


def focal(
    logits: jax.Array,
    targets: jax.Array,
    *,
    gamma: float = 2.0,
    label_smoothing: float = 0.0,
    class_weights: jax.Array | None = None,
) -> jax.Array:
    """Returns the focal loss (Lin et al. 2017, eq. 4 and 5), a cross-entropy with less weight on easy examples.

    The loss of example i is w_y · Σ_c q̃_c · (1 − p_c)^γ · (−log p_c) with p = softmax(z); w is α in the paper. `gamma`
    is γ, 0 or more; 0 is `cross_entropy`, 2 is best in the paper. The other arguments are those of `cross_entropy`.

    Returns:
      (N,) losses, float32 (float64 for float64 logits).

    Raises:
      InputError: if the shapes do not match, γ is negative or ε is out of range.
    """
    if not 0.0 <= gamma < float("inf"):
        raise InputError(f"gamma must be 0 or more, got {gamma!r}; 0 is cross-entropy, the paper uses 2")
    logits, targets = same_rows("focal", logits, targets)
    log_p = jax.nn.log_softmax(logits)
    # At 0, the derivative of a power below 1 is infinite.
    rest = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(logits.dtype).eps)
    losses = -jnp.sum(smooth_targets(targets, epsilon=label_smoothing) * rest**gamma * log_p, axis=-1)
    return _weighted(losses, targets, class_weights)


def smooth_targets(targets: jax.Array, *, epsilon: float) -> jax.Array:
    """Smooths targets: moves the probability ε to the other classes (Paraschiv 2026, eq. 13).

    A one-hot target becomes 1 − ε for its class and ε / (C − 1) for the others; Szegedy et al. (2016) and
    `optax.smooth_labels` use ε / C for all classes instead. Soft targets are smoothed linearly: the result is the mean
    of the smoothed one-hot targets, weighted by the targets.

    Args:
      targets: (..., C) probabilities, floating.
      epsilon: ε in [0, 1).

    Returns:
      Smoothed targets, same shape and dtype; row sums of 1 are preserved.

    Raises:
      InputError: if ε is outside [0, 1) or there is only one class.
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


def same_rows(name: str, logits: jax.Array, *others: jax.Array) -> tuple[jax.Array, ...]:
    """Converts logits and other arrays, all (N, C), to float32, or to float64 if the logits are float64.

    Raises:
      InputError: if the shapes differ; the message starts with `name`.
    """
    shapes = [jnp.shape(a) for a in (logits, *others)]
    if len(shapes[0]) != 2 or len(set(shapes)) != 1:
        raise InputError(
            f"{name} requires logits and targets of the same shape (N, C), got {' and '.join(map(str, shapes))};"
            " convert integer labels with jax.nn.one_hot"
        )
    dtype = jnp.float64 if logits.dtype == jnp.float64 else jnp.float32
    return tuple(jnp.asarray(a).astype(dtype) for a in (logits, *others))


def _weighted(losses: jax.Array, targets: jax.Array, class_weights: jax.Array | None) -> jax.Array:
    if class_weights is None:
        return losses
    if jnp.shape(class_weights) != targets.shape[1:]:
        raise InputError(f"class_weights must have shape {targets.shape[1:]}, got {jnp.shape(class_weights)}")
    weights = jnp.asarray(class_weights, targets.dtype)[None, :]
    return losses * jnp.sum(targets * weights, axis=-1)

"""Defines the distillation losses: soft targets, hard labels and attention maps of a teacher.

Teacher logits are of the same images and the same order of classes. For several teachers, they are the logarithm of the
mean probabilities or the mean of the logits. Gradients do not reach the teacher.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ferjax.errors import InputError
from ferjax.losses.classification import cross_entropy, same_rows


def divergence(logits: jax.Array, teacher_logits: jax.Array, *, temperature: float = 1.0) -> jax.Array:
    """Returns KL(teacher ‖ student) of the softmaxes at temperature T (Hinton et al. 2015).

    The value is not multiplied by T². For large T, T² · KL tends to Σ_c (z_c − t_c)² / (2C) of the centered logits.

    Args:
      logits: student logits (N, C), any floating type; computed in float32 or wider.
      teacher_logits: teacher logits (N, C).
      temperature: T, greater than 0.

    Returns:
      (N,) divergences in nats, float32 (float64 for float64 logits).

    Raises:
      InputError: if the shapes differ or T is not positive.
    """
    _check_temperature(temperature)
    logits, teacher_logits = same_rows("divergence", logits, teacher_logits)
    student, teacher = _log_probabilities(logits, teacher_logits, temperature)
    return _kl(teacher, student)


def distillation(
    logits: jax.Array,
    targets: jax.Array,
    teacher_logits: jax.Array,
    *,
    alpha: float = 0.7,
    temperature: float = 4.0,
    label_smoothing: float = 0.0,
    class_weights: jax.Array | None = None,
) -> jax.Array:
    """Returns the distillation loss (1 − α) · CE + α · T² · KL(teacher ‖ student).

    See Qin 2025, eq. 2 and 4 (T is τ there), and MicroExpNet (Rejina 2026), eq. 1, whose α and T are the defaults. The
    divergence uses temperature T, the cross-entropy temperature 1.

    Args:
      logits: student logits (N, C).
      targets: (N, C) probabilities.
      teacher_logits: teacher logits (N, C).
      alpha: α in [0, 1]; 0 is `cross_entropy`, 1 does not use the labels.
      temperature: T, greater than 0.
      label_smoothing: label smoothing of the cross-entropy.
      class_weights: class weights of the cross-entropy.

    Returns:
      (N,) losses, float32 (float64 for float64 logits).

    Raises:
      InputError: if the shapes do not match, α is outside [0, 1] or T is not positive.
    """
    _check_alpha(alpha)
    soft = temperature**2 * divergence(logits, teacher_logits, temperature=temperature)
    hard = cross_entropy(logits, targets, label_smoothing=label_smoothing, class_weights=class_weights)
    return (1.0 - alpha) * hard + alpha * soft


def hard_distillation(
    logits: jax.Array,
    targets: jax.Array,
    teacher_logits: jax.Array,
    *,
    alpha: float = 0.5,
    label_smoothing: float = 0.0,
    class_weights: jax.Array | None = None,
) -> jax.Array:
    """Returns the hard distillation loss (1 − α) · CE(target) + α · CE(teacher's class) (Touvron et al. 2021, eq. 3).

    Args:
      logits: student logits (N, C).
      targets: (N, C) probabilities.
      teacher_logits: teacher logits (N, C); the argmax is the class of the teacher.
      alpha: α in [0, 1]; 1/2 in the paper. With a distillation token, use 0 for the head of the class token and 1 for
        the head of the distillation token.
      label_smoothing: smoothing of the targets; the paper does not smooth the teacher's class.
      class_weights: class weights of both terms.

    Returns:
      (N,) losses, float32 (float64 for float64 logits).

    Raises:
      InputError: if the shapes do not match or α is outside [0, 1].
    """
    _check_alpha(alpha)
    logits, teacher_logits = same_rows("hard_distillation", logits, teacher_logits)
    decision = jax.nn.one_hot(teacher_logits.argmax(-1), logits.shape[-1], dtype=logits.dtype)
    labeled = cross_entropy(logits, targets, label_smoothing=label_smoothing, class_weights=class_weights)
    return (1.0 - alpha) * labeled + alpha * cross_entropy(logits, decision, class_weights=class_weights)


def decoupled_distillation(
    logits: jax.Array,
    targets: jax.Array,
    teacher_logits: jax.Array,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    label_smoothing: float = 0.0,
    class_weights: jax.Array | None = None,
) -> jax.Array:
    """Returns cross-entropy plus T² · `decoupled_divergence` (Zhao et al. 2022, "Decoupled Knowledge Distillation").

    The arguments are those of `distillation` and, for α and β, `decoupled_divergence`. T is 4 in the paper.

    Returns:
      (N,) losses, float32 (float64 for float64 logits).

    Raises:
      InputError: if the shapes do not match, α or β is negative or T is not positive.
    """
    parts = decoupled_divergence(logits, targets, teacher_logits, alpha=alpha, beta=beta, temperature=temperature)
    hard = cross_entropy(logits, targets, label_smoothing=label_smoothing, class_weights=class_weights)
    return hard + temperature**2 * parts


def decoupled_divergence(
    logits: jax.Array,
    targets: jax.Array,
    teacher_logits: jax.Array,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> jax.Array:
    """Returns α · TCKD + β · NCKD (Zhao et al. 2022, eq. 7), the two parts of KL(teacher ‖ student) with own weights.

    TCKD is the divergence of the binary distributions (target class, all others), NCKD the divergence of the
    distributions over the other classes. KL = TCKD + (1 − p_target of the teacher) · NCKD (eq. 5), so α = 1 with that β
    is `divergence`. For soft targets, the value is the mean over the classes as target, weighted by the targets.

    Args:
      logits: student logits (N, C), C at least 2.
      targets: (N, C) probabilities.
      teacher_logits: teacher logits (N, C).
      alpha: α, 0 or more; 1 in the paper.
      beta: β, 0 or more; 1 to 8 in the paper.
      temperature: T, greater than 0.

    Returns:
      (N,) values in nats, float32 (float64 for float64 logits). Time and memory are O(N · C²).

    Raises:
      InputError: if the shapes do not match, α or β is negative or T is not positive.
    """
    _check_temperature(temperature)
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0.0 <= value < float("inf"):
            raise InputError(f"decoupled distillation requires {name} of 0 or more, got {value!r}")
    logits, targets, teacher_logits = same_rows("decoupled_divergence", logits, targets, teacher_logits)
    student, teacher = _log_probabilities(logits, teacher_logits, temperature)
    count = logits.shape[-1]
    if count < 2:
        raise InputError(f"decoupled distillation requires two or more classes, got logits of shape {logits.shape}")
    # Row c lists the classes other than c. Log space keeps precision if the teacher's probability of c rounds to 1.
    others = np.array([[o for o in range(count) if o != c] for c in range(count)])
    shares = [jax.nn.log_softmax(x[:, others]) for x in (teacher, student)]
    rests = [jax.nn.logsumexp(x[:, others], axis=-1) for x in (teacher, student)]
    pairs = [jnp.stack([x, rest], axis=-1) for x, rest in zip((teacher, student), rests, strict=True)]
    return jnp.sum(targets * (alpha * _kl(*pairs) + beta * _kl(*shares)), axis=-1)


def attention_transfer(features: jax.Array, teacher_features: jax.Array) -> jax.Array:
    """Returns the squared distance of the attention maps of student and teacher (Zagoruyko & Komodakis 2017, sec. 3.1).

    The attention map is the mean of the squared channels, scaled to norm 1, so the numbers of channels may differ. The
    loss is the squared norm of the difference in eq. 2, which is differentiable where both agree. The authors' code
    divides it by the number of positions and uses a weight of 500.

    Args:
      features: student features, maps (N, H, W, C) or tokens (N, T, C).
      teacher_features: (N, H', W', C') or (N, T, C'); a map of another size is resized to that of the student by
        bilinear interpolation with antialiasing.

    Returns:
      (N,) losses in 0..2, float32 (float64 for float64 features).

    Raises:
      InputError: for other shapes, or different numbers of tokens.
    """
    shapes = features.shape, teacher_features.shape
    maps = len(shapes[0]) == len(shapes[1]) == 4
    tokens = len(shapes[0]) == len(shapes[1]) == 3 and shapes[0][1] == shapes[1][1]
    if not (maps or tokens) or shapes[0][0] != shapes[1][0]:
        raise InputError(
            f"attention_transfer requires two maps (N, H, W, C) or equal numbers of tokens (N, T, C), got {shapes[0]} "
            f"and {shapes[1]}: choose other intermediates"
        )
    dtype = jnp.float64 if features.dtype == jnp.float64 else jnp.float32
    student = jnp.mean(jnp.square(features.astype(dtype)), axis=-1)
    teacher = jnp.mean(jnp.square(jax.lax.stop_gradient(teacher_features).astype(dtype)), axis=-1)
    if teacher.shape != student.shape:
        teacher = jax.image.resize(teacher, student.shape, "linear")
    difference = _unit(student) - _unit(teacher)
    return jnp.sum(jnp.square(difference), axis=-1)


def _unit(maps: jax.Array) -> jax.Array:
    """Returns maps (N, ...) as rows (N, positions) of norm 1; a map of zeros remains zero."""
    rows = maps.reshape(len(maps), -1)
    square = jnp.sum(jnp.square(rows), axis=-1, keepdims=True)
    return rows * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def _log_probabilities(logits: jax.Array, teacher_logits: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """Returns the log-softmax of student and teacher at a temperature."""
    teacher = jax.lax.stop_gradient(teacher_logits)
    return jax.nn.log_softmax(logits / temperature), jax.nn.log_softmax(teacher / temperature)


def _kl(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def _check_temperature(temperature: float) -> None:
    if not 0.0 < temperature < float("inf"):
        raise InputError(f"temperature must be greater than 0, got {temperature!r}; the papers use 4")


def _check_alpha(alpha: float) -> None:
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha must be in [0, 1], got {alpha!r}; 0 is cross-entropy only, 1 the teacher only")

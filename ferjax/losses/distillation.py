"""Losses against a teacher: its logits, its decision, its attention.

Teachers come as logits of the same images, in the same order of classes; several teachers as the logarithm of their
mean probabilities or the mean of their logits. No gradient flows into them.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ferjax.errors import InputError
from ferjax.losses.classification import cross_entropy, same_rows


def divergence(logits: jax.Array, teacher_logits: jax.Array, *, temperature: float = 1.0) -> jax.Array:
    """Kullback-Leibler divergence KL(teacher ‖ student) of the softmaxes at temperature T (Hinton et al. 2015).

    Not multiplied by T². As T grows, T² · KL tends to Σ_c (z_c − t_c)² / (2C) of logits whose mean is taken off.

    Args:
      logits: (N, C) of the student, any floating type; computed in float32 or wider.
      teacher_logits: (N, C).
      temperature: T, greater than 0.

    Returns:
      (N,) divergences in nats, float32 (float64 for float64 logits).

    Raises:
      InputError: if the shapes differ or T is not positive.
    """
    _check_temperature(temperature)
    logits, teacher_logits = same_rows("divergence", logits, teacher_logits)
    student, teacher = _softened(logits, teacher_logits, temperature)
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
    """Distillation as two of the papers write it: (1 − α) · CE + α · T² · KL(teacher ‖ student).

    Qin 2025, eq. 2 and 4 (T is τ there), and MicroExpNet (Rejina 2026), eq. 1, whose α and T are the defaults. The
    divergence is between the softmaxes at T, the cross-entropy at temperature 1.

    Args:
      logits: (N, C) of the student.
      targets: (N, C) probabilities.
      teacher_logits: (N, C).
      alpha: α in [0, 1]; 0 is `cross_entropy`, 1 needs no labels.
      temperature: T, greater than 0.
      label_smoothing: of the cross-entropy.
      class_weights: of the cross-entropy.

    Returns:
      (N,) losses, float32 (float64 for float64 logits).

    Raises:
      InputError: if the shapes do not fit, α is outside [0, 1] or T is not positive.
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
    """Hard distillation: (1 − α) · CE(target) + α · CE(the teacher's decision) (Touvron et al. 2021, eq. 3).

    Args:
      logits: (N, C) of the student.
      targets: (N, C) probabilities.
      teacher_logits: (N, C); the largest one is the decision.
      alpha: α in [0, 1]; the paper's is 1/2. With a distillation token it is 0 for the class token's head and 1 for
        the other.
      label_smoothing: of the first term; the paper does not smooth what the teacher says.
      class_weights: of both terms.

    Returns:
      (N,) losses, float32 (float64 for float64 logits).

    Raises:
      InputError: if the shapes do not fit or α is outside [0, 1].
    """
    _check_alpha(alpha)
    logits, teacher_logits = same_rows("hard_distillation", logits, teacher_logits)
    decision = jax.nn.one_hot(teacher_logits.argmax(-1), logits.shape[-1], dtype=logits.dtype)
    labelled = cross_entropy(logits, targets, label_smoothing=label_smoothing, class_weights=class_weights)
    return (1.0 - alpha) * labelled + alpha * cross_entropy(logits, decision, class_weights=class_weights)


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
    """Cross-entropy plus T² times `decoupled_divergence` (Zhao et al. 2022, "Decoupled Knowledge Distillation").

    Args:
      logits: (N, C) of the student.
      targets: (N, C) probabilities.
      teacher_logits: (N, C).
      alpha: see `decoupled_divergence`.
      beta: see `decoupled_divergence`.
      temperature: T, greater than 0; the paper's is 4.
      label_smoothing: of the cross-entropy.
      class_weights: of the cross-entropy.

    Returns:
      (N,) losses, float32 (float64 for float64 logits).

    Raises:
      InputError: if the shapes do not fit, α or β is negative or T is not positive.
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
    """α · TCKD + β · NCKD (Zhao et al. 2022, eq. 7), its two parts of KL(teacher ‖ student) weighed apart.

    TCKD compares how sure both are of the target class, NCKD how they share out the rest among the other classes.
    KL = TCKD + (1 − p_target of the teacher) · NCKD (eq. 5): α = 1 with that β is `divergence` again. Soft targets give
    the mean, under the targets, of the values for each class as the target.

    Args:
      logits: (N, C) of the student, C at least 2.
      targets: (N, C) probabilities.
      teacher_logits: (N, C).
      alpha: α, 0 or more; the paper's is 1.
      beta: β, 0 or more; the paper's are 1 to 8.
      temperature: T, greater than 0.

    Returns:
      (N,) values in nats, float32 (float64 for float64 logits); time and memory N · C².

    Raises:
      InputError: if the shapes do not fit, α or β is negative or T is not positive.
    """
    _check_temperature(temperature)
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0.0 <= value < float("inf"):
            raise InputError(f"decoupled distillation needs {name} of 0 or more, got {value!r}")
    logits, targets, teacher_logits = same_rows("decoupled_divergence", logits, targets, teacher_logits)
    student, teacher = _softened(logits, teacher_logits, temperature)
    count = logits.shape[-1]
    if count < 2:
        raise InputError(f"decoupled distillation needs two or more classes, got logits of shape {logits.shape}")
    # Row c lists the classes other than c: taken from the logarithms, so that a teacher sure of c loses no digits.
    others = np.array([[o for o in range(count) if o != c] for c in range(count)])
    shares = [jax.nn.log_softmax(x[:, others]) for x in (teacher, student)]
    rests = [jax.nn.logsumexp(x[:, others], axis=-1) for x in (teacher, student)]
    pairs = [jnp.stack([x, rest], axis=-1) for x, rest in zip((teacher, student), rests, strict=True)]
    return jnp.sum(targets * (alpha * _kl(*pairs) + beta * _kl(*shares)), axis=-1)


def attention_transfer(features: jax.Array, teacher_features: jax.Array) -> jax.Array:
    """Distance between where student and teacher look (Zagoruyko & Komodakis 2017, section 3.1).

    The attention map is the mean of the squared channels, scaled to norm 1, so that networks of any width compare and
    no layer has to be learned between them. The loss is the norm of the difference in eq. 2, squared, so that it has
    a gradient where both agree; the authors' code divides it by the number of positions, and so weighs it with 500.

    Args:
      features: (N, H, W, C), or tokens (N, T, C), of the student.
      teacher_features: (N, H', W', C') or (N, T, C'); a map of another size is resized to the student's, bilinearly
        and antialiased.

    Returns:
      (N,) losses in 0..2, float32 (float64 for float64 features).

    Raises:
      InputError: for other shapes, or tokens that differ in number.
    """
    shapes = features.shape, teacher_features.shape
    maps = len(shapes[0]) == len(shapes[1]) == 4
    tokens = len(shapes[0]) == len(shapes[1]) == 3 and shapes[0][1] == shapes[1][1]
    if not (maps or tokens) or shapes[0][0] != shapes[1][0]:
        raise InputError(
            f"attention_transfer needs two maps (N, H, W, C) or as many tokens (N, T, C), got {shapes[0]} and "
            f"{shapes[1]}: choose intermediates that fit"
        )
    dtype = jnp.float64 if features.dtype == jnp.float64 else jnp.float32
    student = jnp.mean(jnp.square(features.astype(dtype)), axis=-1)
    teacher = jnp.mean(jnp.square(jax.lax.stop_gradient(teacher_features).astype(dtype)), axis=-1)
    if teacher.shape != student.shape:
        teacher = jax.image.resize(teacher, student.shape, "linear")
    difference = _unit(student) - _unit(teacher)
    return jnp.sum(jnp.square(difference), axis=-1)


def _unit(maps: jax.Array) -> jax.Array:
    """Returns maps (N, ...) as rows (N, positions) of norm 1; a map of zeros stays zero."""
    rows = maps.reshape(len(maps), -1)
    square = jnp.sum(jnp.square(rows), axis=-1, keepdims=True)
    return rows * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def _softened(logits: jax.Array, teacher_logits: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """Returns the logarithms of both softmaxes at a temperature, student first."""
    teacher = jax.lax.stop_gradient(teacher_logits)
    return jax.nn.log_softmax(logits / temperature), jax.nn.log_softmax(teacher / temperature)


def _kl(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def _check_temperature(temperature: float) -> None:
    if not 0.0 < temperature < float("inf"):
        raise InputError(f"the temperature must be greater than 0, got {temperature!r}; the papers use 4")


def _check_alpha(alpha: float) -> None:
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha must be in [0, 1], got {alpha!r}; 0 is cross-entropy alone, 1 the teacher alone")

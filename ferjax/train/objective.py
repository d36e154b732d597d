"""Builds the training loss from the group `loss` of a configuration, with or without a teacher."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ferjax import data, errors, losses
from ferjax.train.step import LossFn, Outputs, TaughtLossFn

METHODS = ("soft", "hard", "decoupled")
ALPHAS = {"soft": 0.7, "hard": 0.5, "decoupled": 1.0}  # defaults: MicroExpNet, Touvron et al., Zhao et al.


def make_loss(
    *,
    faces: data.FaceData,
    label_smoothing: float = 0.0,
    class_weighted: bool = False,
    focal_gamma: float = 0.0,
    logit_adjustment: float = 0.0,
    method: str = "soft",
    alpha: float | None = None,
    temperature: float = 4.0,
    beta: float = 8.0,
    features: Sequence[str] = (),
    feature_weight: float = 0.0,
    teachers: int = 0,
    heads: tuple[str, ...] = (),
) -> LossFn | TaughtLossFn:
    """Returns the per-example loss: (logits, targets) -> (N,), or a `TaughtLossFn` if there are teachers.

    Args:
      faces: the data; provides the class counts of the training split.
      label_smoothing: ε of Paraschiv eq. 13.
      class_weighted: weight each example by w_c = N / (C · N_c) of its class (Paraschiv eq. 1, 12, 15).
      focal_gamma: γ of the focal loss (Lin et al. 2017), which replaces cross-entropy; not with a teacher.
      logit_adjustment: τ of Menon et al. 2021, eq. 10: in training, τ log π_c of the class's share π_c is added to the
        logits. The network then answers as if classes were less unequal (τ = 1: equally frequent); 0 is off.
      method: `losses.distillation` ("soft"), `hard_distillation` ("hard") or `decoupled_distillation` ("decoupled").
      alpha: weight of the teacher, in [0, 1]; for "decoupled", of its target-class term (default: `ALPHAS`).
      temperature: for "soft" and "decoupled".
      beta: for "decoupled".
      features: "STUDENT:TEACHER" pairs of intermediates for `losses.attention_transfer`.
      feature_weight: weight of their sum, averaged over teachers.
      teachers: number of teachers.
      heads: `models.teacher_heads`; the second learns from the teacher (Touvron et al. 2021, eq. 2, 3), alpha below 1.

    Raises:
      InputError: for an unknown method, a value outside its range, or teacher settings without a teacher.
    """
    weights = jnp.array(data.class_weights(faces.class_counts("train")), jnp.float32) if class_weighted else None
    labelled: dict[str, Any] = {"label_smoothing": label_smoothing, "class_weights": weights}
    if not teachers:
        if key := "alpha" if alpha else "features" if features else "":
            raise errors.InputError(f"loss.{key} requires a teacher: run `ferjax distill --teacher MODEL`")
        plain = functools.partial(losses.focal, gamma=focal_gamma) if focal_gamma else losses.cross_entropy
        return _adjusted(functools.partial(plain, **labelled), faces, logit_adjustment)
    if focal_gamma:
        raise errors.InputError(f"loss.focal_gamma must be 0 with a teacher, got {focal_gamma}")
    if method not in METHODS:
        raise errors.unknown("loss.method", method, METHODS)
    share = ALPHAS[method] if alpha is None else alpha
    _check_share(method, share, heads)
    if not feature_weight >= 0 or bool(features) != bool(feature_weight):
        given = f"got {list(features)} and {feature_weight}"
        raise errors.InputError(f"loss.features and a positive loss.feature_weight require each other, {given}")
    used = method if uses_teacher(method, alpha) else "none"
    term = functools.partial(_term(used, temperature=temperature, beta=beta), **labelled)
    answer = _answer_loss(_adjusted(term, faces, logit_adjustment), share, heads)
    # One example, so that any other value outside its range raises before anything is written.
    one = jnp.zeros((1, len(faces.class_names)), jnp.float32)
    answer(Outputs(one, dict.fromkeys(heads, one)), one, Outputs(one, {}))
    return _with_features(answer, [_pair(text) for text in features], feature_weight, teachers)


def uses_teacher(method: str, alpha: float | None) -> bool:
    """Returns whether the loss uses the teacher's logits: always for "decoupled", else unless alpha is 0."""
    return method == "decoupled" or bool(ALPHAS[method] if alpha is None else alpha)


def taps(features: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the student's and the teacher's intermediates in `loss.features`."""
    pairs = [_pair(text) for text in features]
    return tuple(dict.fromkeys(own for own, _ in pairs)), tuple(dict.fromkeys(other for _, other in pairs))


def _adjusted(loss: Callable[..., jax.Array], faces: data.FaceData, strength: float) -> Callable[..., jax.Array]:
    """Returns a loss of (logits, …) that adds strength · log(share of the class) to the logits."""
    if not 0 <= strength < float("inf"):
        raise errors.InputError(f"loss.logit_adjustment must be 0 or more, got {strength}; 0 is off")
    if not strength:
        return loss
    counts = np.array(faces.class_counts("train"))
    offsets = jnp.array(strength * np.log(counts / counts.sum()), jnp.float32)[None, :]
    return lambda logits, *more, **options: loss(logits + offsets.astype(logits.dtype), *more, **options)


def _check_share(method: str, share: float, heads: tuple[str, ...]) -> None:
    if heads and method == "decoupled":
        raise errors.InputError(
            f"loss.method=decoupled requires a network with one head, this one has {len(heads)}: set it to soft or hard"
        )
    if method != "decoupled" and not 0.0 <= share <= 1.0:
        raise errors.InputError(f"loss.alpha must be in [0, 1], got {share!r}")
    if heads and share == 1.0:
        raise errors.InputError(
            "loss.alpha=1 leaves the head for the labels untrained, and this network predicts with the mean of both "
            "heads: lower it, for example loss.alpha=0.5"
        )


def _term(method: str, *, temperature: float, beta: float) -> Callable[..., jax.Array]:
    terms: dict[str, Callable[..., jax.Array]] = {
        "soft": functools.partial(losses.distillation, temperature=temperature),
        "hard": losses.hard_distillation,
        "decoupled": functools.partial(losses.decoupled_distillation, beta=beta, temperature=temperature),
        "none": lambda logits, targets, _, *, alpha, **more: losses.cross_entropy(logits, targets, **more),
    }
    return terms[method]


def _answer_loss(term: Callable[..., jax.Array], alpha: float, heads: tuple[str, ...]) -> TaughtLossFn:
    def loss(student: Outputs, targets: jax.Array, taught: Outputs) -> jax.Array:
        if not heads or not alpha:  # without the teacher's part, the mean of both heads learns
            return term(student.logits, targets, taught.logits, alpha=alpha)
        labels, distilled = (student.taps[head] for head in heads)
        own = term(labels, targets, taught.logits, alpha=0.0)
        return (1.0 - alpha) * own + alpha * term(distilled, targets, taught.logits, alpha=1.0)

    return loss


def _with_features(
    answer: TaughtLossFn, pairs: Sequence[tuple[str, str]], weight: float, teachers: int
) -> TaughtLossFn:
    def loss(student: Outputs, targets: jax.Array, taught: Outputs) -> jax.Array:
        total = answer(student, targets, taught)
        for own, other in pairs:
            for number in range(teachers):
                apart = losses.attention_transfer(student.taps[own], taught.taps[f"{number}/{other}"])
                total = total + weight / teachers * apart
        return total

    return loss


def _pair(text: str) -> tuple[str, str]:
    own, colon, other = text.partition(":")
    if not (own and colon and other):
        raise errors.InputError(
            f"loss.features must hold STUDENT:TEACHER intermediates, such as stage3:stage4, got {text!r}"
        )
    return own, other

"""What training minimizes: the group `loss` of a configuration, with labels alone or with a teacher beside them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ferjax import data, errors, losses
from ferjax.train.step import LossFn, Outputs, TaughtLossFn

METHODS = ("soft", "hard", "decoupled")
ALPHAS = {"soft": 0.7, "hard": 0.5, "decoupled": 1.0}  # MicroExpNet's, Touvron's and Zhao's, if nothing is said


def make_loss(
    *,
    faces: data.FaceData,
    label_smoothing: float = 0.0,
    class_weighted: bool = False,
    focal_gamma: float = 0.0,
    method: str = "soft",
    alpha: float | None = None,
    temperature: float = 4.0,
    beta: float = 8.0,
    features: Sequence[str] = (),
    feature_weight: float = 0.0,
    teachers: int = 0,
    heads: tuple[str, ...] = (),
) -> LossFn | TaughtLossFn:
    """Returns the per-example loss: (logits, targets) -> (N,), or with teachers what `training.TaughtLossFn` says.

    Args:
      faces: the data, for the class counts of its training split.
      label_smoothing: ε of Paraschiv eq. 13.
      class_weighted: weigh examples by w_c = N / (C · N_c) of their class (Paraschiv eq. 1, 12, 15).
      focal_gamma: γ of the focal loss (Lin et al. 2017) in the place of cross-entropy; without a teacher only.
      method: with a teacher, "soft" is `losses.distillation`, "hard" `losses.hard_distillation`, "decoupled"
        `losses.decoupled_distillation`.
      alpha: the teacher's share, in [0, 1]; for "decoupled" the weight of its target-class part. If not given, 0.7 for
        "soft", 1/2 for "hard", 1 for "decoupled".
      temperature: for "soft" and "decoupled".
      beta: for "decoupled".
      features: "STUDENT:TEACHER" pairs of intermediates that `losses.attention_transfer` brings together.
      feature_weight: of their sum, added to the rest; the mean over several teachers.
      teachers: how many there are.
      heads: see `models.teacher_heads`: the teacher's part goes to the second head (Touvron et al. 2021, eq. 2 and 3).
        `alpha` is below 1 then, and 0 is the loss without a teacher, of the mean of both.

    Raises:
      InputError: for an unknown method, a value outside its range, or a teacher's share without a teacher.
    """
    weights = jnp.array(data.class_weights(faces.class_counts("train")), jnp.float32) if class_weighted else None
    labelled: dict[str, Any] = {"label_smoothing": label_smoothing, "class_weights": weights}
    if not teachers:
        if alpha or features:
            key = "alpha" if alpha else "features"
            raise errors.InputError(f"loss.{key} is set and there is no teacher: run distill.py with --teacher WORKDIR")
        plain = functools.partial(losses.focal, gamma=focal_gamma) if focal_gamma else losses.cross_entropy
        return functools.partial(plain, **labelled)
    if focal_gamma:
        raise errors.InputError("loss.focal_gamma and a teacher do not combine: the papers distil with cross-entropy")
    if method not in METHODS:
        raise errors.unknown("loss.method", method, METHODS)
    share = ALPHAS[method] if alpha is None else alpha
    _check_share(method, share, heads)
    if not feature_weight >= 0 or bool(features) != bool(feature_weight):
        raise errors.InputError("loss.features and a positive loss.feature_weight belong together: set both or neither")
    terms: dict[str, Callable[..., jax.Array]] = {
        "soft": functools.partial(losses.distillation, temperature=temperature),
        "hard": losses.hard_distillation,
        "decoupled": functools.partial(losses.decoupled_distillation, beta=beta, temperature=temperature),
        "none": lambda logits, targets, _, *, alpha, **more: losses.cross_entropy(logits, targets, **more),
    }
    term = functools.partial(terms[method if listens(method, alpha) else "none"], **labelled)
    answer = _answer_loss(term, share, heads)
    # One example, so that any other value out of range is said before anything is written.
    one = jnp.zeros((1, len(faces.class_names)), jnp.float32)
    answer(Outputs(one, dict.fromkeys(heads, one)), one, Outputs(one, {}))
    return _with_features(answer, [_pair(text) for text in features], feature_weight, teachers)


def listens(method: str, alpha: float | None) -> bool:
    """Whether a student learns from a teacher's answers: a share of 0 leaves them out, but for "decoupled"."""
    return method == "decoupled" or bool(ALPHAS[method] if alpha is None else alpha)


def taps(features: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the names of the intermediates in `loss.features`, of the student and of the teacher."""
    pairs = [_pair(text) for text in features]
    return tuple(dict.fromkeys(own for own, _ in pairs)), tuple(dict.fromkeys(other for _, other in pairs))


def _check_share(method: str, share: float, heads: tuple[str, ...]) -> None:
    if heads and method == "decoupled":
        raise errors.InputError(
            "loss.method=decoupled takes one head, this student has a head for its teacher: soft or hard"
        )
    if method != "decoupled" and not 0.0 <= share <= 1.0:
        raise errors.InputError(
            f"loss.alpha must be in [0, 1], got {share!r}; 0 is the labels alone, 1 the teacher alone"
        )
    if heads and share == 1.0:
        raise errors.InputError(
            "loss.alpha=1 teaches nothing to the student's head for the labels, and it answers with the mean of both "
            "heads: give the labels a share, such as loss.alpha=0.5"
        )


def _answer_loss(term: Callable[..., jax.Array], alpha: float, heads: tuple[str, ...]) -> TaughtLossFn:
    def loss(student: Outputs, targets: jax.Array, taught: Outputs) -> jax.Array:
        if not heads or not alpha:  # the labels alone are learned by what both heads answer together
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
            f"loss.features takes STUDENT:TEACHER intermediates such as stage3:stage4, got {text!r}"
        )
    return own, other

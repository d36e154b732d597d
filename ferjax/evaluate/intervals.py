"""Estimates confidence intervals of metrics, and of the difference of two models on the same images.

numpy only. Resampling N examples with replacement is drawing the cells of their confusion matrix from a multinomial
distribution, so the cost of a resample does not depend on N.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ferjax.errors import InputError
from ferjax.evaluate import metrics


class Interval(NamedTuple):
    """A value and its interval."""

    value: float
    low: float
    high: float


def wilson(correct: int, count: int, z: float = 1.959964) -> Interval:
    """Returns correct / count (count at least 1) and its Wilson (1927) score interval; the default z gives 95 %."""
    share, spread = correct / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    # Clipped, because rounding can put the upper bound of n successes in n trials below 1.
    return Interval(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))


def bootstrap(
    confusion: npt.ArrayLike, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """Returns accuracy, macro-F1 and weighted-F1 with their bootstrap percentile intervals (Efron 1979).

    Args:
      confusion: (C, C) counts from `metrics.confusion`.
      resamples: number of resamples.
      level: share of the resamples inside the interval, in (0, 1).
      seed: seed of the draws.

    A class with one or two examples is absent from many resamples and has F1 = 0 there, so the lower bound of macro-F1
    is then too low.

    Raises:
      InputError: if there is no example, or the level is outside (0, 1).
    """
    counts = np.asarray(confusion)
    drawn = _draw(counts.ravel(), resamples, level, seed).reshape(-1, *counts.shape)
    return {name: _interval(f(counts[None])[0], f(drawn), level) for name, f in _SCORES.items()}


def paired_bootstrap(
    labels: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    num_classes: int,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Returns the differences second minus first of accuracy, macro-F1 and weighted-F1, on the same resamples.

    Args:
      labels: (N,) true classes.
      first: (N,) predictions of the first model.
      second: (N,) predictions of the second model.
      num_classes: C.
      resamples: see `bootstrap`.
      level: see `bootstrap`.
      seed: see `bootstrap`.

    Raises:
      InputError: if the lengths differ or there is no example.
    """
    side = (num_classes,) * 3
    for predictions in (first, second):
        metrics.confusion(labels, predictions, num_classes)  # validates the arguments
    cells = np.ravel_multi_index([np.asarray(v, np.int64) for v in (labels, first, second)], side)
    counts = np.bincount(cells, minlength=num_classes**3)
    drawn = _draw(counts, resamples, level, seed).reshape(-1, *side)

    def difference(tables: np.ndarray, score: Score) -> np.ndarray:
        return score(tables.sum(axis=2)) - score(tables.sum(axis=3))  # the sum over `first` is the table of `second`

    whole = counts.reshape(1, *side)
    return {name: _interval(difference(whole, f)[0], difference(drawn, f), level) for name, f in _SCORES.items()}


class McNemar(NamedTuple):
    """McNemar's test.

    Attributes:
      first_only: number of images that only the first model classifies correctly.
      second_only: number of images that only the second model classifies correctly.
      p_value: exact, two-sided.
    """

    first_only: int
    second_only: int
    p_value: float


def mcnemar(labels: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike) -> McNemar:
    """Returns McNemar's (1947) exact test for two models scored on the same N images."""
    truth = np.asarray(labels)
    one, other = (np.asarray(predictions) == truth for predictions in (first, second))
    b, c = int((one & ~other).sum()), int((other & ~one).sum())
    n, few = b + c, min(b, c)
    choose = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(few + 1)]
    tail = math.fsum(math.exp(log - n * math.log(2)) for log in choose)
    return McNemar(b, c, min(1.0, 2 * tail))


def _accuracy(tables: np.ndarray) -> np.ndarray:
    return np.trace(tables, axis1=1, axis2=2) / tables.sum(axis=(1, 2))


def _f1(tables: np.ndarray) -> np.ndarray:
    hits = np.diagonal(tables, axis1=1, axis2=2)
    # F1 = 2 TP / (2 TP + FP + FN); an absent class has 0.
    return 2 * hits / np.maximum(tables.sum(axis=1) + tables.sum(axis=2), 1)


def _weighted_f1(tables: np.ndarray) -> np.ndarray:
    support = tables.sum(axis=2)
    return (_f1(tables) * support).sum(axis=1) / support.sum(axis=1)


Score = Callable[[np.ndarray], np.ndarray]
_SCORES: dict[str, Score] = {
    "accuracy": _accuracy,
    "macro_f1": lambda tables: _f1(tables).mean(axis=1),
    "weighted_f1": _weighted_f1,
}


def _draw(counts: np.ndarray, resamples: int, level: float, seed: int) -> np.ndarray:
    total = int(counts.sum())
    if not total or resamples < 1:
        raise InputError(f"an interval requires examples and resamples, got {total} and {resamples}")
    if not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1, got {level}")
    return np.random.default_rng(seed).multinomial(total, counts / total, size=resamples)


def _interval(value: float, drawn: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))

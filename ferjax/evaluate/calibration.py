"""Measures and corrects the calibration of confidences in numpy: calibration error, temperature scaling, abstention."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ferjax.errors import InputError


class Bins(NamedTuple):
    """A reliability diagram of B bins, without the empty ones.

    Attributes:
      edges: (B, 2) lower and upper confidence.
      confidence: (B,) mean confidence.
      accuracy: (B,) share of correct predictions.
      counts: (B,) number of examples.
    """

    edges: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray

    def error(self) -> float:
        """Returns the expected calibration error Σ counts / N · |accuracy − confidence| (Naeini et al. 2015)."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float((self.counts * gaps).sum() / self.counts.sum())


def softmax(logits: npt.ArrayLike, temperature: float = 1.0) -> np.ndarray:
    """Returns the softmax of logits / temperature over the last axis, float64."""
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def reliability(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 15, adaptive: bool = False) -> Bins:
    """Returns the reliability diagram of the predicted classes.

    Args:
      probabilities: (N, C), N at least 1.
      labels: (N,) true classes.
      bins: number of bins, at least 1.
      adaptive: bins of equal count (Nguyen & O'Connor 2015) instead of equal width.

    Raises:
      InputError: if an argument is out of range or the shapes do not fit.
    """
    values, truth = _checked(probabilities, labels)
    if bins < 1:
        raise InputError(f"the number of bins must be at least 1, got {bins}")
    return _binned(values.max(axis=1), values.argmax(axis=1) == truth, bins, adaptive=adaptive)


def _binned(confidence: np.ndarray, correct: np.ndarray, bins: int, *, adaptive: bool = False) -> Bins:
    """Returns the bins of confidences (N,) in 0..1 and of what is correct of each prediction (N,), in 0..1."""
    if adaptive:
        order = np.argsort(confidence, kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order)) * bins // len(order)
    else:
        place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    kept = np.unique(place)
    count = np.array([(place == b).sum() for b in kept])
    mean = np.array([confidence[place == b].mean() for b in kept])
    share = np.array([correct[place == b].mean() for b in kept])
    if adaptive:
        edges = np.array([(confidence[place == b].min(), confidence[place == b].max()) for b in kept])
    else:
        edges = np.stack([kept / bins, (kept + 1) / bins], axis=1)
    return Bins(edges, mean, share, count)


def brier(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Returns the Brier score, the mean over examples of Σ_c (p_c − 1[c = y])² (Brier 1950), in 0..2."""
    values, truth = _checked(probabilities, labels)
    return float(((values - np.eye(values.shape[1])[truth]) ** 2).sum(axis=1).mean())


def negative_log_likelihood(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Returns the mean of −log p of the true class, in nats."""
    values, truth = _checked(probabilities, labels)
    own = np.take_along_axis(values, truth[:, None], axis=1)
    return float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean())


def scores(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> dict[str, float]:
    """Returns `ece` and `ece_adaptive` (calibration error), `brier` and `nll` of probabilities (N, C)."""
    return {
        "ece": reliability(probabilities, labels).error(),
        "ece_adaptive": reliability(probabilities, labels, adaptive=True).error(),
        "brier": brier(probabilities, labels),
        "nll": negative_log_likelihood(probabilities, labels),
    }


def vote_scores(probabilities: npt.ArrayLike, votes: npt.ArrayLike) -> dict[str, float]:
    """Compares probabilities with the votes of several annotators, as those of FER+ (Barsoum et al. 2016).

    Args:
      probabilities: (N, C), N at least 1.
      votes: (N, C) shares of the votes; rows sum to 1.

    Returns:
      `kl`, the mean of Σ_c v_c log(v_c / p_c) in nats, and `ece`, the calibration error with the share of annotators
      who chose the predicted class in place of correct or wrong.

    Raises:
      InputError: if the shapes do not fit.
    """
    shares = np.asarray(votes, np.float64)
    values, predicted = _checked(probabilities, shares.argmax(axis=1))[0], np.asarray(probabilities).argmax(axis=1)
    if shares.shape != values.shape:
        raise InputError(f"expected votes of shape {values.shape}, got {shares.shape}")
    tiny = np.finfo(np.float64).tiny
    kl = (shares * (np.log(np.maximum(shares, tiny)) - np.log(np.maximum(values, tiny)))).sum(axis=1).mean()
    chosen = np.take_along_axis(shares, predicted[:, None], axis=1)[:, 0]
    return {"kl": float(kl), "ece": _binned(values.max(axis=1), chosen, 15).error()}


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Returns the temperature in [0.05, 20] with the smallest negative log-likelihood (Guo et al. 2017).

    The log-likelihood of logits (N, C) is concave in β = 1 / T; bisection finds the root of its derivative
    Σ (z_y − E_p[z]). Raises InputError if the shapes do not fit or there is no example.
    """
    values, truth = _checked(logits, labels)
    values = values - values.max(axis=1, keepdims=True)
    own = np.take_along_axis(values, truth[:, None], axis=1)[:, 0]

    def slope(beta: float) -> float:
        return float(((softmax(values * beta) * values).sum(axis=1) - own).sum())

    low, high = np.log(1 / 20), np.log(20)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(np.exp(middle)) > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


class Coverage(NamedTuple):
    """Coverage and accuracy at K thresholds of the confidence.

    Attributes:
      threshold: (K,) confidences, descending.
      coverage: (K,) share of examples with at least this confidence, ascending to 1.
      accuracy: (K,) share of correct predictions among them.
    """

    threshold: np.ndarray
    coverage: np.ndarray
    accuracy: np.ndarray

    def abstention(self, accuracy: float) -> tuple[float, float, float] | None:
        """Returns (threshold, coverage, accuracy) at the largest coverage that reaches an accuracy, or None."""
        reached = np.flatnonzero(self.accuracy >= accuracy)
        if not len(reached):
            return None
        last = reached[-1]
        return float(self.threshold[last]), float(self.coverage[last]), float(self.accuracy[last])


def coverage(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> Coverage:
    """Returns accuracy against coverage (El-Yaniv & Wiener 2010); equal confidences share a threshold."""
    values, truth = _checked(probabilities, labels)
    confidence, correct = values.max(axis=1), values.argmax(axis=1) == truth
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    last = np.append(sorted_confidence[1:] != sorted_confidence[:-1], True)
    answered = np.arange(1, len(order) + 1)
    share = np.cumsum(correct[order]) / answered
    return Coverage(sorted_confidence[last], (answered / len(order))[last], share[last])


def auroc(positives: npt.ArrayLike, negatives: npt.ArrayLike) -> float:
    """Returns the probability that a positive has a higher score than a negative; ties count half.

    Raises InputError if one of the two is empty.
    """
    high, low = np.ravel(positives), np.sort(np.ravel(negatives))
    if not len(high) or not len(low):
        raise InputError(f"AUROC requires positive and negative scores, got {len(high)} and {len(low)}")
    below, up_to = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
    return float((below + up_to).sum() / (2 * len(high) * len(low)))


def _checked(values: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    table, truth = np.asarray(values, np.float64), np.asarray(labels)
    if table.ndim != 2 or truth.shape != table.shape[:1] or not len(table):
        raise InputError(f"expected values (N, C) and labels (N,), N at least 1, got {table.shape} and {truth.shape}")
    if truth.dtype.kind not in "iu" or truth.min() < 0 or truth.max() >= table.shape[1]:
        raise InputError(f"labels must be integers in 0..{table.shape[1] - 1}, got {truth.min()} to {truth.max()}")
    return table, truth.astype(np.int64)

"""Computes classification metrics from a confusion matrix: row = true class, column = predicted class.

numpy only. 0/0 is 0, and all classes count: a class that is absent and never predicted has F1 = 0 and lowers macro-F1,
as in scikit-learn with `labels=range(C), zero_division=0`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ferjax.errors import InputError


def confusion(labels: npt.ArrayLike, predictions: npt.ArrayLike, num_classes: int) -> np.ndarray:
    """Returns the confusion matrix, (C, C) int64 counts.

    Args:
      labels: (N,) true classes, integers in [0, num_classes).
      predictions: (N,) predicted classes, integers in [0, num_classes).
      num_classes: C.

    Raises:
      InputError: if the lengths differ or a value is out of range.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.ndim != 1 or labels.shape != predictions.shape:
        raise InputError(f"labels and predictions must both be (N,), got {labels.shape} and {predictions.shape}")
    for kind, values in (("labels", labels), ("predictions", predictions)):
        if values.size and (values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= num_classes):
            found = f"{values.dtype} from {values.min()} to {values.max()}"
            raise InputError(f"{kind} must be integers in 0..{num_classes - 1}, got {found}")
    cells = labels.astype(np.int64) * num_classes + predictions.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def accuracy(confusion: np.ndarray) -> float:
    """Returns the accuracy, in 0..1."""
    counts = _checked(confusion)
    return float(np.trace(counts) / counts.sum())


def macro_f1(confusion: np.ndarray) -> float:
    """Returns the unweighted mean of F1 over all C classes, in 0..1."""
    return float(per_class(confusion)["f1"].mean())


def weighted_f1(confusion: np.ndarray) -> float:
    """Returns the mean of F1 weighted by the support of each class, in 0..1."""
    scores = per_class(confusion)
    return float(np.average(scores["f1"], weights=scores["support"]))


def per_class(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Returns (C,) arrays `precision`, `recall`, `f1`, in 0..1, and `support`, the number of true examples.

    Raises InputError if the counts are not a square table with at least one example.
    """
    counts = _checked(confusion)
    hits, support, predicted = np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)
    return {
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + predicted),
        "support": support,
    }


def summary(confusion: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Returns all metrics of a confusion matrix as plain JSON values.

    Args:
      confusion: (C, C) counts.
      class_names: the C names, in the order of the counts.

    Returns:
      `accuracy`, `macro_f1`, `weighted_f1` in 0..1; `per_class`: name -> precision, recall, f1, support;
      `confusion` as a list of rows; `n`, the number of examples.

    Raises:
      InputError: if the counts are malformed or the number of names differs.
    """
    counts = _checked(confusion)
    if len(class_names) != len(counts):
        raise InputError(f"expected {len(counts)} class names, got {len(class_names)}: {', '.join(class_names)}")
    scores = per_class(counts)
    return {
        "accuracy": accuracy(counts),
        "macro_f1": macro_f1(counts),
        "weighted_f1": weighted_f1(counts),
        "per_class": {name: {k: v[c].item() for k, v in scores.items()} for c, name in enumerate(class_names)},
        "confusion": counts.tolist(),
        "n": int(counts.sum()),
    }


def classification_report(summary: Mapping[str, Any]) -> str:
    """Returns a `summary` as a text table: one line per class, then the totals."""
    width = max(12, *map(len, summary["per_class"]))
    lines = [f"{'':{width}}  precision  recall      f1  support"]
    lines += [
        f"{name:{width}}  {s['precision']:9.3f}  {s['recall']:6.3f}  {s['f1']:6.3f}  {s['support']:7d}"
        for name, s in summary["per_class"].items()
    ]
    lines.append("")
    for key, title in (("accuracy", "accuracy"), ("macro_f1", "macro-F1"), ("weighted_f1", "weighted-F1")):
        lines.append(f"{title:{width}}  {'':9}  {'':6}  {summary[key]:6.3f}  {summary['n']:7d}")
    return "\n".join(lines)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


def _checked(confusion: np.ndarray) -> np.ndarray:
    counts = np.asarray(confusion)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.dtype.kind not in "iu" or counts.min() < 0:
        raise InputError(f"confusion must be (C, C) counts, got {counts.dtype} of shape {counts.shape}")
    if not counts.any():
        raise InputError("cannot score without examples: all counts of the confusion matrix are 0")
    return counts


def best_row(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the row of the best epoch: highest sparsity, then highest validation accuracy, then earliest."""
    return max(history, key=lambda row: (row.get("sparsity", 0.0), row["validation_accuracy"], -row["epoch"]))

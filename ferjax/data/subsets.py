"""Selects subsets of a split by class."""

from collections.abc import Callable

import numpy as np

Pick = Callable[[np.ndarray, int], np.ndarray]


def by_class(labels: np.ndarray, counts: np.ndarray, pick: Pick) -> np.ndarray:
    """Returns the indices of a number of examples of each class, in ascending order.

    Args:
      labels: int (N,), 0 or more.
      counts: int (C,): number of examples per class; all if a class has fewer.
      pick: (indices of a class, count) -> selected indices: `first`, `spread` or `drawn(seed)`.
    """
    return np.sort(np.concatenate([pick(np.flatnonzero(labels == c), count) for c, count in enumerate(counts)]))


def first(indices: np.ndarray, count: int) -> np.ndarray:
    """Returns the first `count` indices."""
    return indices[:count]


def spread(indices: np.ndarray, count: int) -> np.ndarray:
    """Returns `count` evenly spaced indices; `count` is at most their number."""
    return indices[np.arange(count) * len(indices) // max(count, 1)]


def drawn(seed: int) -> Pick:
    """Returns a function that draws indices at random; successive calls continue one random sequence."""
    rng = np.random.default_rng(seed)
    return lambda indices, count: rng.permutation(indices)[:count]


def stratified(labels: np.ndarray, size: int) -> np.ndarray:
    """Returns the indices of `size` examples, ascending, with the class proportions of `labels`; all if N <= size.

    Counts are rounded by largest remainders; within a class the examples are evenly spaced.
    """
    if len(labels) <= size:
        return np.arange(len(labels))
    exact = np.bincount(labels) * size / len(labels)
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: size - counts.sum()]] += 1
    return by_class(labels, counts, spread)


def balanced(labels: np.ndarray, size: int, *, seed: int) -> np.ndarray:
    """Returns the indices of `size` random examples, ascending, with class counts as equal as possible.

    Args:
      labels: int (N,), 0 or more.
      size: number of examples; all if N <= size.
      seed: random seed of the examples and of the classes that have one more.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels[order]
    rank = np.empty(len(labels), np.int64)  # rank of each example within its class
    for members in (np.flatnonzero(shuffled == c) for c in np.unique(labels)):
        rank[members] = np.arange(len(members))
    counts = np.bincount(shuffled[np.argsort(rank, kind="stable")[:size]])
    return np.sort(order[by_class(shuffled, counts, first)])

"""Subsets of a split by class: how many examples of each class, and which of them."""

from collections.abc import Callable

import numpy as np

Pick = Callable[[np.ndarray, int], np.ndarray]


def by_class(labels: np.ndarray, counts: np.ndarray, pick: Pick) -> np.ndarray:
    """Returns the places of some examples of each class, in order.

    Args:
      labels: int (N,), from 0.
      counts: int (C,): how many examples of each class; all if there are fewer.
      pick: (places of a class, how many) -> those that are taken: `first`, `spread` or `drawn(seed)`.
    """
    return np.sort(np.concatenate([pick(np.flatnonzero(labels == c), count) for c, count in enumerate(counts)]))


def first(places: np.ndarray, count: int) -> np.ndarray:
    """Returns the first places."""
    return places[:count]


def spread(places: np.ndarray, count: int) -> np.ndarray:
    """Returns places at even distances, so that nothing is drawn; `count` is at most their number."""
    return places[np.arange(count) * len(places) // max(count, 1)]


def drawn(seed: int) -> Pick:
    """Returns a function that draws places; each call continues one random sequence."""
    rng = np.random.default_rng(seed)
    return lambda places, count: rng.permutation(places)[:count]


def stratified(labels: np.ndarray, size: int) -> np.ndarray:
    """Returns the places of `size` examples, in order, each class by its share of all; all if there are fewer.

    Shares are rounded by largest remainders; within a class the examples are spread evenly.
    """
    if len(labels) <= size:
        return np.arange(len(labels))
    exact = np.bincount(labels) * size / len(labels)
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: size - counts.sum()]] += 1
    return by_class(labels, counts, spread)


def balanced(labels: np.ndarray, size: int, *, seed: int) -> np.ndarray:
    """Returns the places of `size` examples, in order, drawn as equally many of each class as there are.

    Args:
      labels: int (N,), from 0.
      size: number of examples; all if there are fewer.
      seed: of the draw, which also says which classes give one more.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels[order]
    turn = np.empty(len(labels), np.int64)  # the how-manieth of its class each example is
    for members in (np.flatnonzero(shuffled == c) for c in np.unique(labels)):
        turn[members] = np.arange(len(members))
    counts = np.bincount(shuffled[np.argsort(turn, kind="stable")[:size]])
    return np.sort(order[by_class(shuffled, counts, first)])

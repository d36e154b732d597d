"""Computes the order of the examples in an epoch, for data on the device and on disk.

The order is a pure function of seed and epoch. Every process can compute its part of any batch, and a resumed run sees
the same examples. The random numbers are those of `jax.random` (Threefry-2x32, Salmon et al. 2011), computed in NumPy:
processes that read images must not initialize JAX, which would occupy the accelerator.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from ferjax import errors

OrderOf = Callable[[int], np.ndarray]
SAMPLINGS = ("shuffled", "balanced")
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def sampler(sampling: str, labels: np.ndarray, class_names: Sequence[str], *, seed: int) -> OrderOf:
    """Returns a picklable function epoch -> order of the examples.

    Args:
      sampling: "shuffled" takes each example once per epoch, "balanced" each class equally often.
      labels: int (count,).
      class_names: the classes.
      seed: seed of the run.

    Raises:
      InputError: for an unknown sampling, or an empty class with "balanced".
    """
    if sampling not in SAMPLINGS:
        raise errors.unknown("sampling", sampling, SAMPLINGS)
    if sampling == "shuffled":
        return functools.partial(epoch_order, seed=seed, count=len(labels))
    counts = np.bincount(labels, minlength=len(class_names))
    if empty := [name for name, n in zip(class_names, counts, strict=True) if not n]:
        raise errors.InputError(
            f"fit.sampling=balanced requires training images of every class; there are none of {', '.join(empty)}"
        )
    return functools.partial(balanced_order, labels, seed=seed, num_classes=len(class_names))


class BatchRows:
    """Picklable function from a step to the examples that this process contributes to its batch."""

    def __init__(self, order_of: OrderOf, *, batch_size: int, steps_per_epoch: int, own: np.ndarray):
        """Stores the arguments.

        Args:
          order_of: epoch -> order of the examples.
          batch_size: examples per step, over all processes.
          steps_per_epoch: number of complete batches in an epoch.
          own: int (n,), this process's positions in a batch.
        """
        self.order_of, self.batch_size, self.steps_per_epoch, self.own = order_of, batch_size, steps_per_epoch, own
        self._known: tuple[int, np.ndarray] | None = None

    def __call__(self, step: int) -> np.ndarray:
        """Returns int (n,), the examples of a step, counted over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        known = self._known  # read once: another thread may be an epoch ahead
        if known is None or known[0] != epoch:
            known = self._known = (epoch, np.asarray(self.order_of(epoch)))
        return known[1][position * self.batch_size + self.own]


def epoch_order(epoch: int, *, seed: int, count: int) -> np.ndarray:
    """Returns a permutation int32 (count,) of the examples for an epoch, counted from 0."""
    return _permutation(_fold_in(_fold_in(_key(seed), 0x5EED), epoch), count)


def balanced_order(labels: np.ndarray, epoch: int, *, seed: int, num_classes: int) -> np.ndarray:
    """Returns an order int32 (count,) in which all classes are equally frequent (±1 example).

    The examples of each class are shuffled for each epoch. A rare class repeats its examples equally often (±1); of a
    frequent class, each epoch contains another part.

    Args:
      labels: int (count,); every class is present.
      epoch: counted from 0.
      seed: seed of the run.
      num_classes: C.
    """
    labels = np.asarray(labels)
    within, among = _split(_fold_in(_fold_in(_key(seed), 0xBA1A), epoch))
    shuffled = _permutation(within, len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.bincount(labels, minlength=num_classes)
    starts = np.cumsum(sizes) - sizes
    places = _permutation(among, len(labels))
    wanted, turn = places % num_classes, places // num_classes
    return by_class[starts[wanted] + turn % sizes[wanted]]


def view_order(order_of: OrderOf, views: int, epoch: int) -> np.ndarray:
    """Returns the indices of an epoch's examples among all stored views: view (image + epoch) mod K of each image.

    Args:
      order_of: epoch -> order of the images.
      views: K, see `ferjax.train.stored_views`.
      epoch: counted from 0.
    """
    order = np.asarray(order_of(epoch))
    return order + len(order) * ((order + epoch) % views)


def _key(seed: int) -> tuple[int, int]:
    """Computes `jax.random.key` for 32-bit integers: only the lower half of the key comes from the seed."""
    return 0, seed & 0xFFFFFFFF


def _fold_in(key: tuple[int, int], data: int) -> tuple[int, int]:
    high, low = _threefry(key, np.zeros(1, np.uint32), np.array([int(data) & 0xFFFFFFFF], np.uint32))
    return int(high[0]), int(low[0])


def _split(key: tuple[int, int]) -> list[tuple[int, int]]:
    high, low = _threefry(key, np.zeros(2, np.uint32), np.arange(2, dtype=np.uint32))
    return [(int(h), int(l)) for h, l in zip(high, low, strict=True)]


def _permutation(key: tuple[int, int], count: int) -> np.ndarray:
    """Sorts by random keys, repeatedly, so that the effect of equal keys stays below 1 / count."""
    order = np.arange(count, dtype=np.int32)
    for _ in range(math.ceil(3 * math.log(max(1, count)) / math.log(0xFFFFFFFF))):
        key, each = _split(key)
        high, low = _threefry(each, np.zeros(count, np.uint32), np.arange(count, dtype=np.uint32))
        order = order[np.argsort(high ^ low, kind="stable")]
    return order


def _threefry(key: tuple[int, int], x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Encrypts counters uint32 (n,), (n,) in 20 rounds; all sums are modulo 2^32."""
    keys = np.array([*key, key[0] ^ key[1] ^ _PARITY], np.uint32)
    x, y = x + keys[0], y + keys[1]
    for group in range(5):
        for bits in _ROTATIONS[group % 2]:
            x = x + y
            y = x ^ ((y << np.uint32(bits)) | (y >> np.uint32(32 - bits)))
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x, y

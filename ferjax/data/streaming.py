"""Batches of images that are read while training, by grain, in processes of their own.

One element of the pipeline is one batch, so that the order of the batches is the sampler's, whatever the number of
workers. A batch crosses from a worker to the process that trains through a pipe. grain's default, a block of shared
memory for each, costs the one that trains less (4 instead of 12 ms for 64 images of 224x224x3), but blocks that
grain's threads still hold at the end are left behind with a warning, and containers have 64 MB of it.
"""

import contextlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ferjax.errors import InputError

RowsOf = Callable[[int], np.ndarray]
_AHEAD = 2  # batches that each worker, and each queue between it and the training, holds ready


def batches(images: Any, rows: RowsOf, first: int, last: int, *, workers: int) -> Iterator[np.ndarray]:
    """Yields images[rows(first)], images[rows(first + 1)], …, images[rows(last - 1)], reading ahead.

    Closing the iterator (a generator's `close`) ends the workers.

    Args:
      images: what reads uint8 (n, H, W, C) for an array of n numbers, and can be sent to another process.
      rows: step -> int (n,), called in the workers, to which it is sent.
      first: the first step to read for.
      last: the step before which to end.
      workers: processes that read; 0 reads in a thread of this one.

    Raises:
      InputError: if a file cannot be read, naming it; if grain is not installed; if a worker ended.
    """
    try:
        import grain
    except ImportError as error:
        raise InputError(
            f"data larger than data.resident_bytes are read by grain, which is not here ({error}): "
            "pip install 'ferjax[train]', or raise data.resident_bytes to keep the data in memory"
        ) from error
    ready = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_AHEAD)
    pipeline = grain.MapDataset.source(_Steps(images, rows, first, last)).to_iter_dataset(ready)
    if workers:
        no_shared_memory = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
        pipeline = grain.experimental.WithOptionsIterDataset(pipeline, no_shared_memory)
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_AHEAD)
        pipeline = pipeline.mp_prefetch(options)
    iterator = iter(pipeline)
    try:
        with _without_main():  # the workers start with the first element
            batch = _next(iterator)
        while batch is not None:
            yield batch
            batch = _next(iterator)
    finally:
        iterator.close()


class _Steps:
    """What grain reads from: element i is the batch of step first + i, or what is wrong with it."""

    def __init__(self, images: Any, rows: RowsOf, first: int, last: int):
        self.images, self.rows, self.first, self.last = images, rows, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> np.ndarray | str:
        try:
            return self.images[self.rows(self.first + index)]
        except InputError as error:  # as an element it reaches the user without a worker's traceback
            return str(error)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)})"


def _next(iterator: Iterator[Any]) -> np.ndarray | None:
    """Returns the next batch, None after the last."""
    try:
        found = next(iterator, None)
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise InputError(
            f"a process that reads images ended ({' '.join(str(error).split())}): is there memory left? "
            "Set data.workers=0 to read in the process that trains; the same command continues the run"
        ) from error
    if isinstance(found, str):
        raise InputError(found)
    return found


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hides the script that runs: a new process would import it again, with JAX and all, and needs none of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main

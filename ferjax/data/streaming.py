"""Reads batches of images from disk during training, in worker processes of grain.

One element of the pipeline is one batch, so the order of the batches does not depend on the number of workers. Batches
are sent through pipes. The default of grain is shared memory, which costs the training process less (4 instead of 12 ms
for 64 images of 224x224x3), but leaks blocks that grain's threads hold at the end, and containers have 64 MB of it.
"""

import contextlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ferjax.errors import InputError

RowsOf = Callable[[int], np.ndarray]
_PREFETCH = 2  # batches per worker and per queue


def batches(images: Any, rows: RowsOf, first: int, last: int, *, workers: int) -> Iterator[np.ndarray]:
    """Yields images[rows(first)], images[rows(first + 1)], …, images[rows(last - 1)], with prefetch.

    Closing the iterator (a generator's `close`) ends the workers.

    Args:
      images: picklable array; indexing with n integers reads uint8 (n, H, W, C).
      rows: picklable function, step -> int (n,).
      first: first step.
      last: step after the last one.
      workers: number of reading processes; 0 reads in a thread of this process.

    Raises:
      InputError: if a file cannot be read, grain is not installed, or a worker process cannot start or died.
    """
    try:
        import grain
    except ImportError as error:
        raise InputError(
            f"reading data larger than data.resident_bytes requires grain ({error}): "
            "pip install 'ferjax[train]', or increase data.resident_bytes to keep the data in memory"
        ) from error
    ready = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCH)
    pipeline = grain.MapDataset.source(_Steps(images, rows, first, last)).to_iter_dataset(ready)
    if workers:
        no_shared_memory = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
        pipeline = grain.experimental.WithOptionsIterDataset(pipeline, no_shared_memory)
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_PREFETCH)
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
    """Data source of grain: element i is the batch of step first + i, or an error message."""

    def __init__(self, images: Any, rows: RowsOf, first: int, last: int):
        self.images, self.rows, self.first, self.last = images, rows, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> np.ndarray | str:
        try:
            return self.images[self.rows(self.first + index)]
        except InputError as error:  # an exception would add the worker's traceback
            return str(error)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)})"


def _next(iterator: Iterator[Any]) -> np.ndarray | None:
    """Returns the next batch, or None after the last."""
    try:
        found = next(iterator, None)
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise InputError(
            f"a worker process that reads images died, possibly out of memory ({' '.join(str(error).split())}). "
            "Set data.workers=0 to read in the training process; the same command continues the run"
        ) from error
    except OSError as error:
        if error.filename is not None:
            raise
        raise InputError(
            f"the processes that read images cannot start ({error.strerror}): they need semaphores in /dev/shm. Free "
            "some space there (in a container: --shm-size), or set data.workers=0"
        ) from error
    if isinstance(found, str):
        raise InputError(found)
    return found


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hides the running script: a worker process would import it again, with JAX, and does not need it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main

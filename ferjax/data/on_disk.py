"""Provides an array interface, uint8 (N, H, W, C), to images on disk; indexing reads the images.

Files are read by position and not memory-mapped: mapped pages count as memory of the process, and reading past the end
of a truncated mapped file kills the process (SIGBUS).
"""

import dataclasses
import io
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ferjax.data import streaming
from ferjax.errors import InputError

ReadRows = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class DiskImages:
    """An array of images on disk that indexing of the first axis reads. It can be pickled.

    Attributes:
      read: picklable function, rows int64 (n,) -> uint8 (n, H, W, C).
      shape: (N, H, W, C).
      rows: rows of `read`, int64 (N,); all rows in order if None.
      workers: processes that read during training; 0 reads in a thread of the training process.
    """

    read: ReadRows
    shape: tuple[int, int, int, int]
    rows: np.ndarray | None = None
    workers: int = 0

    dtype = np.dtype(np.uint8)
    ndim = 4

    @property
    def nbytes(self) -> int:
        """Size of all images in memory, in bytes."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Reads one image (H, W, C) for an integer, or (n, H, W, C) for a slice, an integer or a bool array.

        Raises:
          InputError: if a file cannot be read, naming it.
        """
        chosen = self._places(index)
        found = self.read(np.atleast_1d(chosen))
        return found if chosen.ndim else found[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads all images into memory."""
        return self[:].astype(dtype or self.dtype, copy=False)

    def choose(self, rows: np.ndarray) -> "DiskImages":
        """Returns a subset of the images without reading them."""
        chosen = self._places(rows)
        return dataclasses.replace(self, shape=(len(chosen), *self.shape[1:]), rows=chosen)

    def convert(self, function: Callable[[np.ndarray], np.ndarray], shape: tuple[int, int, int]) -> "DiskImages":
        """Returns images that `function` converts to `shape` (H, W, C) when they are read."""
        return dataclasses.replace(self, read=_Converted(self.read, function, shape), shape=(len(self), *shape))

    def batches(self, rows: streaming.RowsOf, first: int, last: int) -> Iterator[np.ndarray]:
        """Yields the images of rows(first), …, rows(last - 1) with prefetch; see `ferjax.data.streaming.batches`."""
        return streaming.batches(self, rows, first, last, workers=self.workers)

    def _places(self, index: Any) -> np.ndarray:
        """Converts an index of the first axis to rows of `read`, int64 () or (n,)."""
        if self.rows is not None:
            return self.rows[index]
        count = len(self)
        if isinstance(index, slice):
            return np.arange(*index.indices(count))
        places = np.asarray(index)
        if places.dtype == bool:
            if places.shape != (count,):
                raise IndexError(f"a bool index must have shape ({count},), got {places.shape}")
            return np.flatnonzero(places)
        if places.ndim > 1 or places.dtype.kind not in "iu":
            raise IndexError(f"an index must be an integer, a slice or an array of integers or bools, got {index!r}")
        if places.size and not -count <= places.min() <= places.max() < count:
            raise IndexError(f"index {index!r} is out of range for {count:,} images")
        return np.where(places < 0, places + count, places)


@dataclasses.dataclass(frozen=True)
class _Converted:
    """Reads rows and converts each image to another shape."""

    read: ReadRows
    function: Callable[[np.ndarray], np.ndarray]
    shape: tuple[int, int, int]

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), *self.shape), np.uint8)
        for place, image in enumerate(self.read(rows)):
            found[place] = self.function(image)
        return found


def concatenate(parts: Sequence[np.ndarray | DiskImages]) -> DiskImages:
    """Concatenates several arrays of images without reading them."""
    starts = np.cumsum([0, *map(len, parts)])
    return DiskImages(_Concatenated(tuple(parts), starts), (int(starts[-1]), *parts[0].shape[1:]))


@dataclasses.dataclass(frozen=True)
class _Concatenated:
    """Reads rows from several arrays."""

    parts: tuple[Any, ...]
    starts: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), *self.parts[0].shape[1:]), np.uint8)
        owners = np.searchsorted(self.starts, rows, side="right") - 1
        for owner in np.unique(owners):
            places = owners == owner
            found[places] = self.parts[owner][rows[places] - self.starts[owner]]
        return found


def open_array(path: Path) -> DiskImages:
    """Opens an images.npy without reading its images.

    Raises:
      ValueError: if it is not uint8 (N, H, W, C), or shorter than its header declares.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
        start, size = file.tell(), path.stat().st_size
    if dtype != np.uint8 or fortran or len(shape) != 4:
        raise ValueError(f"{path} holds {dtype} {shape}, not uint8 (N, H, W, C)")
    wanted = start + int(np.prod(shape, dtype=np.int64))
    if size < wanted:
        raise ValueError(f"{path} is truncated: {size:,} bytes instead of {wanted:,}")
    return DiskImages(_ArrayRows(path.absolute(), start, shape[1:]), shape)


class _ArrayRows:
    """Reads rows of an array file, thread-safe; the file is opened by the first call and stays open."""

    def __init__(self, path: Path, start: int, shape: tuple[int, ...]):
        self.path, self.start, self.shape = path, start, shape
        self._file: io.FileIO | None = None
        self._lock = threading.Lock()

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        images = np.empty((len(rows), *self.shape), np.uint8)
        with self._lock:
            for place, row in enumerate(rows.tolist()):
                self._read(row, images[place])
        return images

    def _read(self, row: int, image: np.ndarray) -> None:
        try:
            if self._file is None:
                self._file = io.FileIO(self.path)
                weakref.finalize(self, self._file.close)
            self._file.seek(self.start + row * image.nbytes)
            count = self._file.readinto(image.data)
        except OSError as error:
            raise InputError(
                f"cannot read image {row:,} of {self.path} ({error.strerror}); check the disk, or prepare the data set "
                "again"
            ) from error
        if count != image.nbytes:
            raise InputError(f"{self.path} is truncated in image {row:,}; prepare the data set again")

    def __reduce__(self) -> tuple[Any, ...]:
        return _ArrayRows, (self.path, self.start, self.shape)

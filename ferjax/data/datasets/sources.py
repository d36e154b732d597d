"""What a parser hands on: a list of examples, and the folder, archive or table they are read from."""

import csv
import dataclasses
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image

from ferjax.errors import InputError

EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


class BadExample(ValueError):
    """One example is unusable; the message is what the user reads."""


@dataclasses.dataclass(frozen=True)
class Example:
    """One labelled image that is not decoded yet.

    Attributes:
      split: "train", "validation" or "test".
      name: says which file or row it is.
      label: index into the source's class names.
      read: returns the bytes of a picture file, or a uint8 (H, W) or (H, W, C) array.
      columns: further values by name.
      box: (left, top, right, bottom) to cut out, in pixels.
    """

    split: str
    name: str
    label: int
    read: Callable[[], bytes | np.ndarray]
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    box: tuple[int, int, int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """A parsed data set.

    Attributes:
      class_names: label names in the order of the label numbers.
      size: height and width of the prepared images.
      channels: 1 or 3.
      examples: in the order in which they are to be stored.
      missing: how to get each split that the source may lack, by split.
      notes: one line each about what was left out or chosen.
      crop: cuts the face out of a picture.
      fractions: parts of train, validation and test to divide the examples into, all of them now in train.
    """

    class_names: tuple[str, ...]
    size: int
    channels: int
    examples: list[Example]
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    crop: Callable[[Image.Image], Image.Image] | None = None
    fractions: tuple[float, float, float] | None = None


class Column(NamedTuple):
    """What a further value of a data set looks like.

    Attributes:
      shape: of one image's value.
      dtype: name of the NumPy type.
      unknown: stands where the data set does not say.
    """

    shape: tuple[int, ...]
    dtype: str
    unknown: float


class Row(NamedTuple):
    """One row of a table: where it stands, for messages, and its values by column name."""

    where: str
    values: dict[str, str]

    def bad(self, reason: str, split: str = "train") -> Example:
        """Returns an example that fails with this row's place and the reason when it is read."""
        return bad_example(self.where, f"{self.where}: {reason}", split)


_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)  # the last where a password is wanted


class Tree:
    """A folder, a zip archive or a single table, read alike: posix paths, hidden files left out."""

    def __init__(self, source: Path):
        """Lists `source`.

        Raises:
          InputError: if it does not exist, or is neither a folder, a CSV file nor a complete zip archive.
        """
        self.source, self._root = source, source
        self._zip: zipfile.ZipFile | None = None
        if source.is_dir():
            paths = list(_walk(source))
        elif not source.exists():
            raise InputError(f"{source}: no such file or folder")
        elif source.suffix.lower() == ".csv":
            self._root, paths = source.parent, [source.name]
        else:
            try:
                self._zip = zipfile.ZipFile(source)
            except (zipfile.BadZipFile, ValueError) as error:
                raise InputError(f"{source} is no complete zip archive ({error}); download it again") from error
            paths = self._zip.namelist()
        self.files = sorted(p for p in paths if not p.endswith("/") and _visible(p))
        folders = {p.rstrip("/") for p in paths if p.endswith("/") and _visible(p)}
        self.folders = sorted(folders | {str(q) for p in self.files for q in PurePosixPath(p).parents if q.name})

    def read(self, path: str) -> bytes:
        """Returns the content of one file.

        Raises:
          InputError: if it is damaged or encrypted.
        """
        if self._zip is None:
            return (self._root / path).read_bytes()
        try:
            return self._zip.read(path)
        except _DAMAGE as error:
            raise InputError(f"{path} in {self.source} cannot be read ({error}): {_mend(error)}") from error

    def reader(self, path: str) -> Callable[[], bytes]:
        """Returns a function that reads one file later; one that is damaged is a BadExample."""

        def read() -> bytes:
            try:
                return self.read(path)
            except InputError as error:
                if isinstance(error.__cause__, RuntimeError):  # encrypted: no file of it can be read
                    raise
                raise BadExample(f"{path} does not decode: the archive is damaged there") from error

        return read

    def find(self, *names: str) -> str | None:
        """Returns the path of the first file with one of these names (case ignored), wherever it lies."""
        return next((p for n in names for p in self.files if PurePosixPath(p).name.lower() == n.lower()), None)

    def rows(self, path: str, needed: Iterable[str]) -> Iterator[Row]:
        """Reads a CSV file row by row; column names are stripped of spaces and in lower case.

        Raises:
          InputError: if a needed column is missing or the file is no CSV.
        """
        name = PurePosixPath(path).name
        with self._open(path) as raw:
            reader = csv.reader(io.TextIOWrapper(raw, encoding="utf-8-sig", newline=""))
            try:
                header = [c.strip().lower() for c in next(reader, [])]
                if lacking := [c for c in needed if c not in header]:
                    raise InputError(
                        f"{name} lacks the column {', '.join(lacking)}; it has {', '.join(header) or 'none'}"
                    )
                for number, values in enumerate(reader, 1):
                    where = f"{name} row {number} (line {reader.line_num})"
                    padded = [v.strip() for v in values] + [""] * (len(header) - len(values))
                    yield Row(where, dict(zip(header, padded, strict=False)))
            except UnicodeDecodeError as error:
                raise InputError(f"{name} is no UTF-8 text ({error}): save it as UTF-8") from error
            except (csv.Error, *_DAMAGE) as error:
                raise InputError(f"{name} is damaged at line {reader.line_num}: {error}") from error

    def _open(self, path: str) -> IO[bytes]:
        if self._zip is None:
            return (self._root / path).open("rb")
        try:
            return self._zip.open(path)
        except _DAMAGE as error:
            raise InputError(f"{path} in {self.source} cannot be read ({error}): {_mend(error)}") from error


def _mend(error: Exception) -> str:
    if isinstance(error, RuntimeError):  # encrypted, or compressed in a way that Python does not know
        return "unpack it with its password first" if "encrypted" in str(error) else "unpack it first"
    return "download it again"


def _walk(source: Path) -> Iterator[str]:
    seen = set()
    for folder, below, files in os.walk(source, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            below.clear()  # a link back up
            continue
        seen.add(real)
        relative = Path(folder).relative_to(source)
        yield from ((relative / f).as_posix() for f in files)
        yield from ((relative / f).as_posix() + "/" for f in below)


def _visible(path: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(path).parts)


def is_picture(path: str) -> bool:
    """Whether a file's ending is that of a picture."""
    return PurePosixPath(path).suffix.lower() in PICTURES


def bad_example(name: str, reason: str, split: str = "train") -> Example:
    """Returns an example that fails with `reason` when it is read, so that all such are reported together."""

    def read() -> bytes:
        raise BadExample(reason)

    return Example(split, name, 0, read)


def by_split(examples: Iterable[Example], key: Callable[[Example], Any] = lambda e: 0) -> list[Example]:
    """Returns the examples by split, then by `key`, so that every form of the same data is stored alike."""
    rank = {"train": 0, "validation": 1, "test": 2}
    return sorted(examples, key=lambda e: (rank[e.split], key(e)))

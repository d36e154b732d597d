"""Defines the result of the parsers, `Source`, and reads folders, zip archives and tables alike."""

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

EXPRESSIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


class BadExample(ValueError):
    """An example is unusable; the message is shown to the user."""


@dataclasses.dataclass(frozen=True)
class Example:
    """One labeled image before decoding.

    Attributes:
      split: "train", "validation" or "test".
      name: file or row of the image.
      label: index into the class names of the source.
      read: returns the bytes of an image file, or a uint8 (H, W) or (H, W, C) array.
      columns: further values by name.
      box: crop (left, top, right, bottom) in pixels.
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
      class_names: class names, in the order of the labels.
      size: height and width of the prepared images in pixels.
      channels: 1 or 3.
      examples: the examples in the order of storage.
      missing: split -> how to get it, for the splits that the source may lack.
      notes: messages about what was left out or chosen, one line each.
      crop: crops the face of an image.
      fractions: fractions of train, validation and test to divide the examples into; all are in train before.
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
    """Type of a further value of each image.

    Attributes:
      shape: shape of the value of one image.
      dtype: name of the NumPy type.
      unknown: value if the data set has none.
    """

    shape: tuple[int, ...]
    dtype: str
    unknown: float


class Row(NamedTuple):
    """One row of a table: its location, for messages, and its values by column name."""

    where: str
    values: dict[str, str]

    def bad(self, reason: str, split: str = "train") -> Example:
        """Returns an example whose `read` raises BadExample with the location of this row and the reason."""
        return bad_example(self.where, f"{self.where}: {reason}", split)


_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)  # RuntimeError: a password is required


class Tree:
    """Files of a folder, a zip archive or a single table, as POSIX paths; hidden files are left out."""

    def __init__(self, source: Path):
        """Lists the files of `source`.

        Raises:
          InputError: if it does not exist, or is not a folder, a CSV file or a complete zip archive.
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
                raise InputError(f"{source} is not a complete zip archive ({error}); download it again") from error
            paths = self._zip.namelist()
        self.files = sorted(p for p in paths if not p.endswith("/") and _visible(p))
        folders = {p.rstrip("/") for p in paths if p.endswith("/") and _visible(p)}
        self.folders = sorted(folders | {str(q) for p in self.files for q in PurePosixPath(p).parents if q.name})

    def read(self, path: str) -> bytes:
        """Returns the content of one file; raises InputError if it is damaged or encrypted."""
        if self._zip is None:
            return (self._root / path).read_bytes()
        try:
            return self._zip.read(path)
        except _DAMAGE as error:
            raise InputError(f"{path} in {self.source} cannot be read ({error}): {_remedy(error)}") from error

    def reader(self, path: str) -> Callable[[], bytes]:
        """Returns a function that reads one file; it raises BadExample if the file is damaged."""

        def read() -> bytes:
            try:
                return self.read(path)
            except InputError as error:
                if isinstance(error.__cause__, RuntimeError):  # encrypted: no file can be read
                    raise
                raise BadExample(f"{path} cannot be decoded: the archive is damaged") from error

        return read

    def find(self, *names: str) -> str | None:
        """Returns the path of the first file with one of these names in any folder, ignoring case, or None."""
        return next((p for n in names for p in self.files if PurePosixPath(p).name.lower() == n.lower()), None)

    def rows(self, path: str, needed: Iterable[str]) -> Iterator[Row]:
        """Reads a CSV file row by row; column names are stripped and converted to lower case.

        Raises:
          InputError: if a needed column is missing, or the file is not UTF-8 or not CSV.
        """
        name = PurePosixPath(path).name
        with self._open(path) as raw:
            reader = csv.reader(io.TextIOWrapper(raw, encoding="utf-8-sig", newline=""))
            try:
                header = [c.strip().lower() for c in next(reader, [])]
                if lacking := [c for c in needed if c not in header]:
                    raise InputError(f"{name} has no column {', '.join(lacking)}; found {', '.join(header) or 'none'}")
                for number, values in enumerate(reader, 1):
                    where = f"{name} row {number} (line {reader.line_num})"
                    padded = [v.strip() for v in values] + [""] * (len(header) - len(values))
                    yield Row(where, dict(zip(header, padded, strict=False)))
            except UnicodeDecodeError as error:
                raise InputError(f"{name} is not UTF-8 ({error}); save it as UTF-8") from error
            except (csv.Error, *_DAMAGE) as error:
                raise InputError(f"{name} is damaged at line {reader.line_num}: {error}") from error

    def _open(self, path: str) -> IO[bytes]:
        if self._zip is None:
            return (self._root / path).open("rb")
        try:
            return self._zip.open(path)
        except _DAMAGE as error:
            raise InputError(f"{path} in {self.source} cannot be read ({error}): {_remedy(error)}") from error


def _remedy(error: Exception) -> str:
    if isinstance(error, RuntimeError):  # encrypted, or an unsupported compression
        return "unpack it with its password first" if "encrypted" in str(error) else "unpack it first"
    return "download it again"


def _walk(source: Path) -> Iterator[str]:
    seen = set()
    for folder, below, files in os.walk(source, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            below.clear()  # a link to a parent folder
            continue
        seen.add(real)
        relative = Path(folder).relative_to(source)
        yield from ((relative / f).as_posix() for f in files)
        yield from ((relative / f).as_posix() + "/" for f in below)


def _visible(path: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(path).parts)


def is_picture(path: str) -> bool:
    """Returns whether the suffix of a file is that of an image."""
    return PurePosixPath(path).suffix.lower() in PICTURES


def bad_example(name: str, reason: str, split: str = "train") -> Example:
    """Returns an example whose `read` raises BadExample, so that all bad examples are reported together."""

    def read() -> bytes:
        raise BadExample(reason)

    return Example(split, name, 0, read)


def by_split(examples: Iterable[Example], key: Callable[[Example], Any] = lambda e: 0) -> list[Example]:
    """Sorts examples by split and `key`, so that all forms of a data set are stored in the same order."""
    rank = {"train": 0, "validation": 1, "test": 2}
    return sorted(examples, key=lambda e: (rank[e.split], key(e)))

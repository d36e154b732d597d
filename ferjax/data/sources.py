"""What a parser hands on: a list of examples, and the folder or zip archive they are read from."""

import dataclasses
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ferjax.cli import InputError

EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


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
      missing: how to get each split that the source lacks, by split.
      notes: one line each about what was left out or chosen.
    """

    class_names: tuple[str, ...]
    size: int
    channels: int
    examples: list[Example]
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Tree:
    """A folder or a zip archive, read alike: posix paths relative to its top, hidden files left out."""

    def __init__(self, source: Path):
        """Lists `source`.

        Raises:
          InputError: if it does not exist, or is neither a folder nor a complete zip archive.
        """
        self.source = source
        self._zip: zipfile.ZipFile | None = None
        if source.is_dir():
            paths = [p.relative_to(source).as_posix() + ("/" if p.is_dir() else "") for p in source.rglob("*")]
        elif not source.exists():
            raise InputError(f"{source}: no such file or folder")
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
        """Returns the content of one file."""
        return (self.source / path).read_bytes() if self._zip is None else self._zip.read(path)

    def reader(self, path: str) -> Callable[[], bytes]:
        """Returns a function that reads one file later."""
        return lambda: self.read(path)

    def close(self) -> None:
        """Closes the archive."""
        if self._zip is not None:
            self._zip.close()


def _visible(path: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(path).parts)


def is_picture(path: str) -> bool:
    """Whether a file's ending is that of a picture."""
    return PurePosixPath(path).suffix.lower() in PICTURES


def ordered(examples: Iterable[Example]) -> list[Example]:
    """Returns the examples by split, then by name, so that every form of the same data is stored alike."""
    rank = {"train": 0, "validation": 1, "test": 2}
    return sorted(examples, key=lambda e: (rank[e.split], PurePosixPath(e.name).name, e.name))

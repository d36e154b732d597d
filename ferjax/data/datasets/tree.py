"""Reads a folder, an archive or a single table alike."""

import codecs
import contextlib
import os
import posixpath
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from ferjax.data.datasets import archives
from ferjax.data.datasets.sources import BadExample
from ferjax.errors import InputError
from ferjax.runtime.sources.pictures import is_leftover


class Tree:
    """Files of a folder, a zip or tar archive or a single table, as POSIX paths; hidden files are left out.

    Attributes:
      source: the path of the folder, archive or table; of an archive in another one, for messages only.
      table: the path of the table, if the source is one.
      files: paths of the files, sorted.
      folders: paths of the folders, sorted.
    """

    def __init__(self, source: Path, name_encoding: str | None = None, *, inner: archives.Archive | None = None):
        """Lists the files of `source`.

        Args:
          source: folder, archive or table.
          name_encoding: encoding of the names in an archive that are not marked as UTF-8; detected if None.
          inner: the opened archive at the path `source`, if it is in another one.

        Raises:
          InputError: if it does not exist, or is not a folder, a table or a complete archive.
        """
        self.source, self._root, self._encoding = source, source, name_encoding
        self._archive = inner
        self.table: str | None = None
        if inner is None and source.is_dir():
            paths = list(_walk(source))
        elif inner is None and not source.exists():
            raise InputError(f"{source}: no such file or folder")
        else:
            self._archive = inner or archives.open_archive(source.open("rb"), str(source), name_encoding)
            if self._archive is None:
                _check_table(source)
                self._root, self.table = source.parent, source.name
            paths = [source.name] if self._archive is None else self._archive.paths
        self.files = sorted(p for p in paths if not p.endswith("/") and not is_leftover(p))
        folders = {p.rstrip("/") for p in paths if p.endswith("/") and not is_leftover(p)}
        self._listed_files, self._listings = frozenset(self.files), dict[str, list[str]]()
        self.folders = sorted(folders | {str(q) for p in self.files for q in PurePosixPath(p).parents if q.name})

    def read(self, path: str) -> bytes:
        """Returns the content of one file; raises InputError if it is damaged or encrypted."""
        if self._archive is None:
            return (self._root / path).read_bytes()
        try:
            return self._archive.read(path)
        except archives.DAMAGE as error:
            raise InputError(f"{path} in {self.source} {archives.fault(error)}") from error

    def reader(self, path: str) -> Callable[[], bytes]:
        """Returns a function that reads one file; it raises BadExample if the file is damaged or a broken link."""

        def read() -> bytes:
            try:
                return self.read(path)
            except FileNotFoundError as error:
                raise BadExample(f"{path} is a link to a missing file") from error
            except InputError as error:
                if isinstance(error.__cause__, RuntimeError):  # encrypted: no file can be read
                    raise
                raise BadExample(f"{path} cannot be decoded: the archive is damaged") from error

        return read

    def open(self, path: str) -> IO[bytes]:
        """Opens one file, to be read in one thread only; raises InputError if it is damaged or encrypted."""
        if self._archive is None:
            return (self._root / path).open("rb")
        try:
            return self._archive.open(path)
        except archives.DAMAGE as error:
            raise InputError(f"{path} in {self.source} {archives.fault(error)}") from error

    def find(self, *names: str) -> str | None:
        """Returns the path of the first file with one of these names in any folder, ignoring case, or None."""
        return next((p for n in names for p in self.files if PurePosixPath(p).name.lower() == n.lower()), None)

    def locate(self, path: str, *, any_case: bool = False) -> str | None:
        """Returns the path of a file, also one outside of a folder; None if it is missing.

        Args:
          path: path relative to the folder of the source, normalized.
          any_case: accept letters of another case if only one file has such a name.
        """
        if self._is_file(path) or not any_case:
            return path if self._is_file(path) else None
        found = ""
        for part in PurePosixPath(path).parts:
            alike = [name for name in self._names(found) if name.casefold() == part.casefold()]
            if len(alike) > 1 and part not in alike:
                return None
            found = posixpath.join(found, alike[0] if len(alike) == 1 else part)
        return found if self._is_file(found) else None

    def _is_file(self, path: str) -> bool:
        return (self._root / path).is_file() if self._archive is None else path in self._listed_files

    def _names(self, folder: str) -> list[str]:
        """Returns the names of the files and folders in a folder."""
        if self._archive is None and folder not in self._listings:
            with contextlib.suppress(OSError):
                self._listings[folder] = os.listdir(self._root / folder)
        elif not self._listings:
            for path in self.files + self.folders:
                parent, name = posixpath.split(path)
                self._listings.setdefault(parent, []).append(name)
        return self._listings.get(folder, [])

    def inner(self, path: str) -> "Tree | None":
        """Opens an archive among the files; None if the file is none. Raises InputError if it is damaged."""
        place = self.source / path
        try:
            file = self.open(path) if self._archive is None else archives.unpacked(self.open(path))
        except archives.DAMAGE as error:
            raise InputError(f"{place} {archives.fault(error)}") from error
        archive = archives.open_archive(file, str(place), self._encoding)
        return Tree(place, self._encoding, inner=archive) if archive else None


def holding(source: Path, has_set: Callable[[Tree], bool], name_encoding: str | None = None) -> Tree:
    """Returns the tree of `source` or, if it lacks the data set, of the archive inside that has it.

    Args:
      source: folder, archive or table.
      has_set: tells whether a tree has the files that are looked for.
      name_encoding: encoding of the names in archives; detected if None.

    Raises:
      InputError: if the source cannot be read, or several archives inside have the data set.
    """
    tree = Tree(source, name_encoding)
    if has_set(tree):
        return tree
    found, failed = [], None
    for path in tree.files:
        if path.lower().endswith(archives.SUFFIXES):
            try:
                inner = tree.inner(path)
            except InputError as error:
                failed = failed or error
            else:
                found += [inner] if inner and has_set(inner) else []
    if len(found) > 1:
        raise InputError(f"{source} contains several archives of images: unpack them into one folder")
    if failed and not found:
        raise failed
    return found[0] if found else tree


def refuse_yolo(tree: Tree) -> None:
    """Raises InputError if the tree is an export for object detection, with images/ and labels/*.txt."""
    found = {(PurePosixPath(path).parent.name.lower(), PurePosixPath(path).suffix) for path in tree.files}
    if ("labels", ".txt") in found and any(folder == "images" for folder, _ in found):
        raise InputError(
            f"{tree.source} is a YOLO export (images/ and labels/*.txt), whose class numbers are not those of the data "
            "sets: move the images into one folder per class and use ferjax prepare folder"
        )


def _check_table(source: Path) -> None:
    """Raises InputError unless a file is a table."""
    with source.open("rb") as file:
        head = file.read(2**16)
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise InputError(f"{source} is a web page, not an archive: log in and download the file in a browser")
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{source} is a Git LFS pointer, not the file itself: run git lfs pull")
    if not head or (b"\0" in head and not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))):
        state = "is neither a zip or tar archive nor a table" if head else "is empty"
        raise InputError(f"{source} {state}: use a folder, an archive or a CSV file")


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

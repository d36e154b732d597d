"""Reads tables of labels and pixels."""

import codecs
import contextlib
import csv
import io
import itertools
import posixpath
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import IO, NamedTuple

from ferjax.data.datasets import archives, names
from ferjax.data.datasets.sources import Example, bad_example
from ferjax.data.datasets.tree import Tree
from ferjax.errors import InputError

_DELIMITERS = ",;\t"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Row(NamedTuple):
    """One row of a table: its location, for messages, and its values by column name."""

    where: str
    values: dict[str, str]

    def bad(self, reason: str, split: str = "train") -> Example:
        """Returns an example whose `read` raises BadExample with the location of this row and the reason."""
        return bad_example(self.where, f"{self.where}: {reason}", split)


def rows(
    tree: Tree,
    path: str,
    needed: Sequence[str],
    *,
    without_header: Sequence[Sequence[str]] = (),
    encoding: str = "utf-8-sig",
) -> Iterator[Row]:
    """Reads a table row by row; column names are stripped and converted to lower case.

    Columns are separated by commas, semicolons or tabs.

    Args:
      tree: the files of the data set.
      path: path of the table.
      needed: names of columns that the table must have.
      without_header: the columns of the forms of this table that have no header.
      encoding: encoding of the table, unless it is UTF-16 with a byte order mark; see `find_encoding`.

    Raises:
      InputError: if a needed column is missing, or the file is not in the encoding or not CSV.
    """
    name = PurePosixPath(path).name
    reader = csv.reader(())
    with tree.open(path) as raw:
        try:
            text = _text(raw, encoding)
            first, skipped = text.readline(), 0
            while first and re.fullmatch(r'\s*|"?sep=.?"?\s*', first):  # Excel's note of its separator
                first, skipped = text.readline(), skipped + 1
            delimiter, header = _header(first, needed)
            given = next((h for h in without_header if len(h) == len(header) and not {*h} & {*header}), None)
            if given is None and (lacking := [c for c in needed if c not in header]):
                raise InputError(f"{name} has no column {', '.join(lacking)}; found {_shown(header)}")
            reader = csv.reader(itertools.chain([first], text), delimiter=delimiter)
            columns = list(given) if given is not None else [c.strip().lower() for c in next(reader)]
            for number, values in enumerate(reader, 1):
                if not any(map(str.strip, values)):
                    continue
                where = f"{name} row {number} (line {skipped + reader.line_num})"
                padded = [v.strip() for v in values] + [""] * (len(columns) - len(values))
                yield Row(where, dict(zip(columns, padded, strict=False)))
        except UnicodeError as error:
            raise InputError(f"{name} is not UTF-8 ({error}); save it as UTF-8") from error
        except InputError:
            raise
        except (csv.Error, *archives.DAMAGE) as error:
            raise InputError(f"{name} is damaged at line {max(reader.line_num, 1)}: {error}") from error


def find_encoding(tree: Tree, path: str, name_encoding: str | None = None) -> str:
    """Returns the encoding of a table: UTF-8 if possible, else `name_encoding` or the one code page that fits it.

    Raises:
      InputError: see `names.find_encoding`.
    """
    data = tree.read(path)
    if data.startswith(_UTF16):
        return "utf-16"
    with contextlib.suppress(UnicodeDecodeError):
        data.decode("utf-8")
        return "utf-8-sig"
    words = {word + b"/" for word in re.split(rb'[,;\t\r\n"/]', data)}  # none is part of a character in a code page
    return names.find_encoding(sorted(words), PurePosixPath(path).name, name_encoding)


def _text(raw: IO[bytes], encoding: str) -> io.TextIOWrapper:
    buffered = io.BufferedReader(raw)  # type: ignore[type-var]
    utf16 = buffered.peek(2).startswith(_UTF16)
    return io.TextIOWrapper(buffered, encoding="utf-16" if utf16 else encoding, newline="")


def _header(line: str, needed: Sequence[str]) -> tuple[str, list[str]]:
    """Returns the delimiter of a table and the column names in its first line."""
    headers = [(d, [c.strip().lower() for c in next(csv.reader([line], delimiter=d), [])]) for d in _DELIMITERS]
    return max(headers, key=lambda h: (sum(c in h[1] for c in needed), h[0] == ","))


def _shown(header: Sequence[str]) -> str:
    return textwrap.shorten(", ".join(header), 120, placeholder=" …") or "none"


def posix(path: str) -> str:
    r"""Returns a path with / for \, as in tables written on Windows."""
    return path.replace("\\", "/")


def locate(tree: Tree, table: str, listed: Sequence[str]) -> tuple[list[str | None], str]:
    r"""Finds the files that a table lists, relative to its folder.

    In a table written on Windows, \ separates folders, and letters of another case are accepted if only one file fits.
    If no path exists, as with absolute paths of another computer, leading folders that all paths share are ignored.

    Args:
      tree: the files of the data set.
      table: path of the table.
      listed: paths in the table.

    Returns:
      For each path that of the file, or None if it is missing; and the leading folders that were ignored.
    """
    windows = any("\\" in path or path[1:2] == ":" for path in listed)
    parts = [PurePosixPath(posix(path) if windows else path).parts for path in listed]
    for skipped in range(min(map(len, parts), default=0)):
        lead = parts[0][:skipped]
        if any(path[:skipped] != lead for path in parts):
            break
        folder = str(PurePosixPath(table).parent)
        paths = [posixpath.normpath(posixpath.join(folder, *path[skipped:])) for path in parts]
        found = [tree.locate(path, any_case=windows) for path in paths]
        if any(found):
            return found, str(PurePosixPath(*lead)) if lead else ""
    return [None] * len(listed), ""

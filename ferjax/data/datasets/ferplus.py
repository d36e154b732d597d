"""Reads FER+ (Barsoum et al. 2016): the faces of FER2013 with labels of ten annotators, eight classes."""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from ferjax.cli import counted
from ferjax.data.datasets import fer2013
from ferjax.data.datasets.sources import EXPRESSIONS, BadExample, Column, Example, Source, by_split
from ferjax.data.datasets.tables import Row, rows
from ferjax.data.datasets.tree import Tree, holding
from ferjax.errors import InputError
from ferjax.runtime.sources.pictures import is_picture

GET = (
    "download fer2013new.csv from https://github.com/microsoft/FERPlus and fer2013.csv (or icml_face_data.csv) from "
    "https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge into "
    "one folder"
)
PREPARE = "ferjax prepare ferplus --source FOLDER"
CLASSES = (*EXPRESSIONS, "contempt")
COLUMNS: dict[str, Column] = {"votes": Column((len(CLASSES),), "float32", 0)}
MISSING = {
    "train": "use a source that contains FER2013Train/, or fer2013.csv (icml_face_data.csv)",
    "validation": "use a source that contains FER2013Valid/, or fer2013.csv (icml_face_data.csv)",
    "test": "use a source that contains FER2013Test/, or fer2013.csv (icml_face_data.csv)",
}
VOTES = "fer2013new.csv"
FOLDERS = {"fer2013train": "train", "fer2013valid": "validation", "fer2013test": "test"}  # in lower case
_VOTES = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "nf"]
_NAMES = ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt")


def read(source: Path, *, name_encoding: str | None = None) -> Source:
    """Reads FER+ in either form; the examples are sorted by split and row.

    The forms are fer2013.csv (or icml_face_data.csv) with the labels of the same rows in fer2013new.csv; and the images
    that the script of the authors writes, `FER2013Train/`, `FER2013Valid/` and `FER2013Test/`, with fer2013new.csv or
    the `label.csv` of each folder. Labeled faces without an image are left out.

    As in the authors' code, single votes are removed as outliers. The label is the class with more than half of the
    remaining votes. A face without such a class, or with the majority "unknown" or "not a face", is left out. The
    column `votes` is the distribution of the remaining votes over the classes.

    Args:
      source: folder or archive, or fer2013.csv with fer2013new.csv in the same folder.
      name_encoding: encoding of the names in an archive; detected if None.

    Raises:
      InputError: if a table is missing, or the rows of the tables do not match.
    """
    faces = holding(source, lambda tree: bool(tree.table or tree.find(*fer2013.TABLES)), name_encoding)
    place = source.with_name(VOTES) if faces.table else source
    labels = holding(place, lambda tree: bool(tree.find(VOTES) or _label_tables(tree)), name_encoding)
    counts = collections.Counter[str]()
    if (table := faces.table or faces.find(*fer2013.TABLES)) and (votes := labels.find(VOTES)):
        found = by_split(_examples(_from_tables(faces, table, labels, votes), counts))
    elif _pictures(labels):
        found = by_split(_examples(_from_pictures(labels, counts), counts))
    else:
        lacks = " or ".join(fer2013.TABLES) if labels.find(VOTES) else VOTES
        raise InputError(f"{source} lacks {lacks}; {GET}")
    notes = [f"{counted(counts['no majority'], 'face')} left out: no expression has more than half of the votes"]
    notes += [f"{counted(counts['no image'], 'labeled face')} left out: no image"] if counts["no image"] else []
    return Source(CLASSES, 48, 1, found, MISSING, tuple(notes))


class _Labeled(NamedTuple):
    """One row of votes, its split, and what reads the face; or a bad example."""

    row: Row
    split: str
    face: Callable[[], bytes | np.ndarray] | Example


def _from_tables(faces: Tree, table: str, labels: Tree, votes: str) -> Iterator[_Labeled]:
    needed = ("usage", "image name", *_VOTES)
    for face, vote in zip_longest(rows(faces, table, ("pixels", "usage")), rows(labels, votes, needed)):
        if face is None or vote is None or face.values["usage"] != vote.values["usage"]:
            where = (face or vote).where
            raise InputError(f"{table} and {votes} differ at {where}: their rows must be in the same order")
        split = fer2013.SPLIT_OF.get(vote.values["usage"], "")
        try:
            pixels = fer2013.pixels(face)
        except BadExample as error:
            yield _Labeled(vote, split, face.bad(str(error).removeprefix(f"{face.where}: "), split or "train"))
        else:
            yield _Labeled(vote, split, functools.partial(fer2013.constant, pixels))


def _pictures(tree: Tree) -> dict[tuple[str, str], str]:
    """Returns (split, name in lower case) -> path of the images in FER2013Train/, FER2013Valid/ and FER2013Test/."""
    paths = [(PurePosixPath(path), path) for path in tree.files if is_picture(path)]
    return {
        (FOLDERS[p.parent.name.lower()], p.name.lower()): path for p, path in paths if p.parent.name.lower() in FOLDERS
    }


def _label_tables(tree: Tree) -> dict[str, str]:
    """Returns path -> split of the tables label.csv in FER2013Train/, FER2013Valid/ and FER2013Test/."""
    tables = [path for path in tree.files if PurePosixPath(path).name.lower() == "label.csv"]
    folders = {path: PurePosixPath(path).parent.name.lower() for path in tables}
    return {path: FOLDERS[folder] for path, folder in folders.items() if folder in FOLDERS}


def _from_pictures(tree: Tree, counts: collections.Counter[str]) -> Iterator[_Labeled]:
    def labeled() -> Iterator[tuple[Row, str]]:
        if votes := tree.find(VOTES):
            for row in rows(tree, votes, ("usage", "image name", *_VOTES)):
                yield row, fer2013.SPLIT_OF.get(row.values["usage"], "")
        else:
            for table, split in _label_tables(tree).items():
                forms = (("image name", "box", *_VOTES), ("image name", *_VOTES))
                for row in rows(tree, table, ("image name", *_VOTES), without_header=forms):
                    yield row, split

    pictures = _pictures(tree)
    for row, split in labeled():
        path = pictures.get((split, row.values["image name"].lower()))
        if path is None:
            counts["no image"] += 1
        else:
            yield _Labeled(row, split, tree.reader(path))


def _examples(labeled: Iterable[_Labeled], counts: collections.Counter[str]) -> Iterator[Example]:
    for vote, split, face in labeled:
        try:
            given = np.array([int(vote.values[c]) for c in _VOTES])
        except ValueError:
            yield vote.bad("a vote is not an integer")
            continue
        if not split or given.min() < 0:
            yield vote.bad(
                f"Usage {vote.values.get('usage')!r} is not one of {', '.join(fer2013.SPLIT_OF)}, or votes < 0"
            )
        elif (winner := _majority(given)) is None:
            counts["no majority"] += 1
        elif isinstance(face, Example):
            yield face
        else:
            kept = np.where(given > 1, given, 0)[:8]
            votes = np.zeros(len(CLASSES), np.float32)
            votes[[CLASSES.index(n) for n in _NAMES]] = kept / kept.sum()
            name = vote.values["image name"] or vote.where
            yield Example(split, name, CLASSES.index(winner), face, {"votes": votes})


def _majority(votes: np.ndarray) -> str | None:
    """Returns the class with more than half of the votes without single ones; None if there is none."""
    kept = np.where(votes > 1, votes, 0)
    winner = int(kept.argmax())
    return _NAMES[winner] if winner < len(_NAMES) and 2 * kept[winner] > kept.sum() else None

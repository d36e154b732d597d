"""Reads FER+ (Barsoum et al. 2016): the faces of FER2013 with labels of ten annotators, eight classes."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np

from ferjax.data.datasets import fer2013
from ferjax.data.datasets.sources import EXPRESSIONS, Column, Example, Row, Source, Tree, by_split
from ferjax.errors import InputError

GET = (
    "download fer2013new.csv from https://github.com/microsoft/FERPlus and fer2013.csv (or icml_face_data.csv) from "
    "https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge into "
    "one folder"
)
PREPARE = "ferjax prepare ferplus --source FOLDER"
CLASSES = (*EXPRESSIONS, "contempt")
COLUMNS: dict[str, Column] = {"votes": Column((len(CLASSES),), "float32", 0)}
_VOTES = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "nf"]
_NAMES = ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt")


def read(source: Path) -> Source:
    """Reads fer2013.csv (or icml_face_data.csv) and the labels of the same rows in fer2013new.csv.

    As in the authors' code, single votes are removed as outliers. The label is the class with more than half of the
    remaining votes. A face without such a class, or with the majority "unknown" or "not a face", is left out. The
    column `votes` is the distribution of the remaining votes over the classes. Examples are sorted by split and row.

    Args:
      source: folder or zip file with both tables, or fer2013.csv with fer2013new.csv in the same folder.

    Raises:
      InputError: if a table is missing, or the rows of the tables do not match.
    """
    faces, labels = Tree(source), Tree(source.with_name("fer2013new.csv")) if source.suffix == ".csv" else Tree(source)
    table, votes = faces.find(*fer2013.TABLES), labels.find("fer2013new.csv")
    if table is None or votes is None:
        lacks = "fer2013new.csv" if votes is None else " or ".join(fer2013.TABLES)
        raise InputError(f"{source} lacks {lacks}; {GET}")
    dropped = 0

    def examples() -> Iterator[Example]:
        nonlocal dropped
        needed = ("usage", "image name", *_VOTES)
        pairs = zip_longest(faces.rows(table, ("pixels", "usage")), labels.rows(votes, needed))
        for face, vote in pairs:
            if face is None or vote is None or face.values["usage"] != vote.values["usage"]:
                where = (face or vote).where
                raise InputError(f"{table} and {votes} differ at {where}: their rows must be in the same order")
            split = fer2013.SPLIT_OF.get(vote.values["usage"])
            try:
                counts = np.array([int(vote.values[c]) for c in _VOTES])
            except ValueError:
                yield vote.bad("a vote is not an integer")
                continue
            if split is None or counts.min() < 0:
                yield vote.bad(
                    f"Usage {vote.values['usage']!r} is not one of {', '.join(fer2013.SPLIT_OF)}, or votes < 0"
                )
            elif (example := _example(split, face, vote, counts)) is None:
                dropped += 1
            else:
                yield example

    found = by_split(examples())
    note = f"{dropped:,} faces left out: no expression has more than half of the votes"
    return Source(CLASSES, 48, 1, found, fer2013.MISSING, (note,))


def _example(split: str, face: Row, vote: Row, counts: np.ndarray) -> Example | None:
    counts = np.where(counts > 1, counts, 0)
    winner = int(counts.argmax())
    if winner >= len(_NAMES) or 2 * counts[winner] <= counts.sum():
        return None
    votes = np.zeros(len(CLASSES), np.float32)
    votes[[CLASSES.index(n) for n in _NAMES]] = counts[:8] / counts[:8].sum()
    name = vote.values["image name"] or vote.where
    try:
        pixels = fer2013.pixels(face)
    except ValueError as error:
        return face.bad(str(error).removeprefix(f"{face.where}: "), split)
    return Example(split, name, CLASSES.index(_NAMES[winner]), lambda: pixels, {"votes": votes})

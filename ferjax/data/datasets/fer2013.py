"""Reads FER2013 (Goodfellow et al. 2013): 35,887 gray faces of 48x48 pixels, seven classes."""

import functools
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from ferjax.data.datasets.sources import EXPRESSIONS, BadExample, Example, Row, Source, Tree, by_split, is_picture
from ferjax.errors import InputError, unknown

CLASSES = EXPRESSIONS
GET = "download the archive as fer2013.zip from https://www.kaggle.com/datasets/msambare/fer2013 (free account)"
PREPARE = "ferjax prepare fer2013 --source fer2013.zip"
MISSING = {
    "train": "prepare from a source that contains train/<class>/Training_*.jpg",
    "validation": "prepare from a source that contains test/<class>/PublicTest_*.jpg (or fer2013.csv)",
    "test": "prepare from a source that contains test/<class>/PrivateTest_*.jpg (or fer2013.csv, icml_face_data.csv)",
}
TABLES = ("fer2013.csv", "icml_face_data.csv")
SPLIT_OF = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
# The labels of the CSV files are not in alphabetical order.
_CSV_ORDER = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def read(source: Path) -> Source:
    """Reads FER2013 in any of its forms; the examples are sorted by split and file name or row.

    The Kaggle archive, zipped or unpacked, has `train/<class>/Training_*.jpg` (train), `test/<class>/PublicTest_*.jpg`
    (validation) and `test/<class>/PrivateTest_*.jpg` (test). The other forms are `fer2013.csv` and
    `icml_face_data.csv` (columns emotion, pixels, Usage), alone, in a folder or in a zip file.

    Raises:
      InputError: if the archive is damaged, or has an unknown class folder or a misplaced file.
    """
    tree = Tree(source)
    if source.suffix.lower() == ".csv":
        table: str | None = source.name
    else:
        table = tree.find(*TABLES)
    return _read_folders(tree) if table is None else _read_table(tree, table)


def pixels(row: Row) -> np.ndarray:
    """Returns the image of one row, uint8 (48, 48); raises BadExample unless it has 48 * 48 integers in 0..255."""
    values = row.values["pixels"].split()
    if len(values) != 48 * 48:
        raise BadExample(f"{row.where}: {len(values):,} pixel values instead of 2,304")
    try:
        return np.frombuffer(bytes(map(int, values)), np.uint8).reshape(48, 48)
    except ValueError as error:
        raise BadExample(f"{row.where}: a pixel value is not an integer in 0..255") from error


def _read_table(tree: Tree, table: str) -> Source:
    def examples() -> Iterator[Example]:
        for number, row in enumerate(tree.rows(table, ("emotion", "pixels", "usage"))):
            usage, emotion = row.values["usage"], row.values["emotion"]
            if usage not in SPLIT_OF:
                yield row.bad(f"Usage {usage!r} is not one of {', '.join(SPLIT_OF)}")
            elif emotion not in map(str, range(7)):
                yield row.bad(f"emotion {emotion!r} is not in 0..6", SPLIT_OF[usage])
            else:
                try:
                    face = pixels(row)
                except BadExample as error:
                    yield row.bad(str(error).removeprefix(f"{row.where}: "), SPLIT_OF[usage])
                    continue
                label = EXPRESSIONS.index(_CSV_ORDER[int(emotion)])
                yield Example(SPLIT_OF[usage], f"{usage}_{number:05d}", label, functools.partial(_constant, face))

    return Source(EXPRESSIONS, 48, 1, by_split(examples()), MISSING, (f"read from {PurePosixPath(table).name}",))


def _constant(face: np.ndarray) -> np.ndarray:
    return face


def _read_folders(tree: Tree) -> Source:
    for folder in tree.folders:
        parent, name = PurePosixPath(folder).parent.name, PurePosixPath(folder).name
        if parent in ("train", "test") and name not in EXPRESSIONS:
            raise unknown("class folder", folder, EXPRESSIONS)
    examples = []
    for path in tree.files:
        parts = PurePosixPath(path).parts
        if len(parts) >= 3 and parts[-3] in ("train", "test") and is_picture(path):
            label = EXPRESSIONS.index(parts[-2])
            examples.append(Example(_split(path), "/".join(parts[-3:]), label, tree.reader(path)))
    if not examples:
        raise InputError(f"{tree.source} contains neither train/<class>/*.jpg nor {' nor '.join(TABLES)}; {GET}")
    ignored = len(tree.files) - len(examples)
    notes = (f"{ignored:,} files ignored: not images in train/<class>/ or test/<class>/",) if ignored else ()
    return Source(
        EXPRESSIONS, 48, 1, by_split(examples, lambda e: (PurePosixPath(e.name).name, e.name)), MISSING, notes
    )


def _split(path: str) -> str:
    folder, stem = PurePosixPath(path).parts[-3], PurePosixPath(path).stem
    split = SPLIT_OF.get(stem.split("_")[0])
    if split is None and folder == "test":
        raise InputError(f"{path}: a test file must be named PublicTest_* (validation) or PrivateTest_* (test)")
    if split is not None and (split == "train") != (folder == "train"):
        raise InputError(
            f"{path}: a {stem.split('_')[0]} image in {folder}/ is a leak between splits; move it to its folder"
        )
    return split or "train"

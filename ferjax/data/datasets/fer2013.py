"""Reads FER2013 (Goodfellow et al. 2013): 35,887 gray faces of 48x48 pixels, seven classes."""

import functools
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from ferjax.cli import counted
from ferjax.data.datasets.sources import (
    EXPRESSION_NAMES,
    EXPRESSIONS,
    SPLITS,
    BadExample,
    Example,
    Source,
    by_split,
)
from ferjax.data.datasets.tables import Row, rows
from ferjax.data.datasets.tree import Tree, holding
from ferjax.errors import InputError, unknown
from ferjax.runtime.sources.pictures import is_picture

CLASSES = EXPRESSIONS
GET = "download the archive as fer2013.zip from https://www.kaggle.com/datasets/msambare/fer2013 (free account)"
PREPARE = "ferjax prepare fer2013 --source fer2013.zip"
MISSING = {
    "train": "prepare from a source that contains train/<class>/Training_*.jpg",
    "validation": "prepare from a source that contains test/<class>/PublicTest_*.jpg (or fer2013.csv)",
    "test": "prepare from a source that contains test/<class>/PrivateTest_*.jpg (or fer2013.csv, icml_face_data.csv)",
}
TABLES = ("fer2013.csv", "icml_face_data.csv")
TRAIN_TABLE = "train.csv"  # of the challenge, without the column Usage
SPLIT_OF = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
# The labels of the CSV files are not in alphabetical order.
_CSV_ORDER = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def read(source: Path, *, name_encoding: str | None = None) -> Source:
    """Reads FER2013 in any of its forms; the examples are sorted by split and file name or row.

    The Kaggle archive, packed or unpacked, has `train/<class>/Training_*.jpg` (train), `test/<class>/PublicTest_*.jpg`
    (validation) and `test/<class>/PrivateTest_*.jpg` (test). If no file in `test/` is named so, all of them are the
    test split. The other forms are `fer2013.csv` and `icml_face_data.csv` (columns emotion, pixels, Usage), and the
    `train.csv` of the challenge (without Usage), alone, in a folder or in an archive.

    Args:
      source: folder, archive or table.
      name_encoding: encoding of the names in an archive; detected if None.

    Raises:
      InputError: if the archive is damaged, or has an unknown class folder or a misplaced file.
    """
    tree = holding(source, lambda tree: bool(_table(tree) or _pictures(tree)), name_encoding)
    table = _table(tree)
    return _read_folders(tree) if table is None else _read_table(tree, table)


def _table(tree: Tree) -> str | None:
    return tree.table or tree.find(*TABLES, TRAIN_TABLE)


def pixels(row: Row) -> np.ndarray:
    """Returns the image of one row, uint8 (48, 48); raises BadExample unless it has 48 * 48 integers in 0..255."""
    values = row.values["pixels"].split()
    if len(values) != 48 * 48:
        raise BadExample(f"{row.where}: 2,304 pixel values expected, found {len(values):,}")
    try:
        return np.frombuffer(bytes(map(int, values)), np.uint8).reshape(48, 48)
    except ValueError as error:
        raise BadExample(f"{row.where}: a pixel value is not an integer in 0..255") from error


def _read_table(tree: Tree, table: str) -> Source:
    name = PurePosixPath(table).name
    notes = [f"read from {name}"]

    def examples() -> Iterator[Example]:
        for number, row in enumerate(rows(tree, table, ("emotion", "pixels"))):
            usage, emotion = row.values.get("usage", "Training"), row.values["emotion"]
            if number == 0 and "usage" not in row.values:
                notes.append(f"{name} has no column Usage: all images are in train; --holdout 0.1 divides them")
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
                yield Example(SPLIT_OF[usage], f"{usage}_{number:05d}", label, functools.partial(constant, face))

    found = by_split(examples())
    return Source(EXPRESSIONS, 48, 1, found, MISSING, tuple(notes))


def constant(face: np.ndarray) -> np.ndarray:
    """Returns the face; a `functools.partial` of it is the `read` of an `Example`."""
    return face


def _pictures(tree: Tree) -> list[tuple[str, str]]:
    """Returns path and split of the folder of the images in train/<class>/, validation/<class>/ and test/<class>/."""
    parts = ((path, PurePosixPath(path).parts) for path in tree.files if is_picture(path))
    return [(path, SPLITS[p[-3].lower()]) for path, p in parts if len(p) > 2 and p[-3].lower() in SPLITS]


def _read_folders(tree: Tree) -> Source:
    for folder in tree.folders:
        parent, name = PurePosixPath(folder).parent.name.lower(), PurePosixPath(folder).name.lower()
        if parent in SPLITS and name not in SPLITS and EXPRESSION_NAMES.get(name) not in EXPRESSIONS:
            raise unknown("class folder", folder, EXPRESSIONS)
    pictures = _pictures(tree)
    if not pictures:
        raise InputError(f"{tree.source} contains neither train/<class>/*.jpg nor {' nor '.join(TABLES)}; {GET}")
    undivided = not any(folder == "test" and _usage(path) for path, folder in pictures)
    examples = []
    for path, folder in pictures:
        parts = PurePosixPath(path).parts
        label = EXPRESSIONS.index(EXPRESSION_NAMES[parts[-2].lower()])
        split = folder if undivided and folder == "test" else _split(path, folder)
        examples.append(Example(split, "/".join(parts[-3:]), label, tree.reader(path)))
    ignored = len(tree.files) - len(examples)
    notes = [f"{counted(ignored, 'file')} ignored: not images in train/<class>/ or test/<class>/"] if ignored else []
    if undivided and any(folder == "test" for _, folder in pictures):
        notes.append(
            "no file in test/ is named PublicTest_* or PrivateTest_*: all are the test split, unlike in "
            "papers (PrivateTest_* only)"
        )
    found = by_split(examples, lambda e: (PurePosixPath(e.name).name, e.name))
    return Source(EXPRESSIONS, 48, 1, found, MISSING, tuple(notes))


def _usage(path: str) -> str | None:
    """Returns the split that the name of a file tells, None if it tells none."""
    return SPLIT_OF.get(PurePosixPath(path).stem.split("_")[0])


def _split(path: str, folder: str) -> str:
    usage = _usage(path)
    if usage is None and folder == "test":
        raise InputError(f"{path}: a test file must be named PublicTest_* (validation) or PrivateTest_* (test)")
    if (
        usage
        not in {"train": (None, "train"), "validation": (None, "validation"), "test": ("validation", "test")}[folder]
    ):
        name = PurePosixPath(path)
        raise InputError(
            f"{path}: a {name.stem.split('_')[0]} image in {name.parts[-3]}/ is a leak between splits; move it to its "
            "folder"
        )
    return usage or folder

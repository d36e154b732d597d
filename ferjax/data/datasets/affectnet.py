"""Reads AffectNet (Mollahosseini et al. 2017): about 287,000 labeled color faces, 8 or 7 classes."""

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from ferjax.cli import counted
from ferjax.data.datasets.sources import EXPRESSIONS, SPLITS, Column, Example, Source, bad_example, by_split
from ferjax.data.datasets.tables import Row, posix, rows
from ferjax.data.datasets.tree import Tree, holding, refuse_yolo
from ferjax.errors import InputError
from ferjax.runtime.sources.pictures import is_picture

GET = (
    "ask its authors for access at http://mohammadmahoor.com/pages/databases/affectnet/ and unpack it; "
    "for folders with the names of the classes, use ferjax prepare folder"
)
PREPARE = "ferjax prepare affectnet --source FOLDER"
MISSING = {
    "train": "unpack train_set, or training.csv with its images",
    "validation": "unpack val_set, or validation.csv with its images",
    "test": "ask the authors: its labels are not public, and papers report on validation",
}
COLUMNS = dict.fromkeys(("valence", "arousal"), Column((), "float32", -2))
CLASSES = (*EXPRESSIONS, "contempt")
_ORDER = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt")
# The columns of training.csv and validation.csv; the latter has no header in the archive of the authors.
_HEADER = (
    "subdirectory_filepath",
    *(f"face_{value}" for value in ("x", "y", "width", "height")),
    *("facial_landmarks", "expression", "valence", "arousal"),
)
_OTHERWISE = "if your copy numbers them otherwise, use ferjax prepare folder with --class-names"
_NO_EXPRESSION = ("8", "9", "10")  # none, uncertain, no face


def read(
    source: Path, *, classes: int = 8, size: int = 224, channels: int = 3, name_encoding: str | None = None
) -> Source:
    """Reads AffectNet in any of its forms; the examples are sorted by split and file.

    The forms are `train_set/images/N.jpg` with `train_set/annotations/N_exp.npy` (and `val_set`); `training.csv` and
    `validation.csv`, with or without a header, with the listed images, cropped to the face box if the table has one;
    and class folders with the numbers of AffectNet, `train/0` to `train/7` and `val/0` to `val/7`. Faces labeled none,
    uncertain or no face are left out, and contempt with 7 classes. Valence and arousal become columns if present:
    -1..1, or -2 if unknown.

    Args:
      source: folder, or an archive of it.
      classes: 8, or 7 without contempt.
      size: height and width of the prepared images in pixels.
      channels: 3 for RGB, 1 for gray.
      name_encoding: encoding of the names in an archive; detected if None.

    Raises:
      InputError: if the source has none of the forms, `classes` is not 7 or 8, or it is 8 and contempt is missing.
    """
    if classes not in (7, 8):
        raise InputError(f"AffectNet: classes must be 7 or 8 (with contempt), got {classes}")
    tree = holding(source, lambda tree: any((_arrays(tree), *_tables(tree).values(), _numbered(tree))), name_encoding)
    notes = []
    if _arrays(tree):
        labeled = by_split(_from_arrays(tree), lambda e: e.name)
    elif any(_tables(tree).values()):
        labeled = by_split(e for s, t in _tables(tree).items() if t for e in _from_table(tree, t, s))
    elif _numbered(tree):
        labeled = by_split(_from_folders(tree), lambda e: e.name)
        order = ", ".join(f"{i} {name}" for i, name in enumerate(_ORDER))
        notes.append(f"class folders read with the numbers of AffectNet: {order}; {_OTHERWISE}")
    else:
        refuse_yolo(tree)
        forms = "train_set/annotations/*_exp.npy nor training.csv nor train/0 to train/7"
        raise InputError(f"{source} contains neither {forms}; {GET}")
    kept = [e for e in labeled if e.label < classes]
    if classes == 8 and kept and all(e.label != CLASSES.index("contempt") for e in kept):
        raise InputError(f"{source} has no image of contempt: use --classes 7")
    left = len(labeled) - len(kept)
    notes += [f"{counted(left, 'face')} left out: no expression" + " or contempt" * (classes == 7)] if left else []
    return Source(CLASSES[:classes], size, channels, kept, MISSING, tuple(notes))


def _arrays(tree: Tree) -> bool:
    return any("annotations/" in p and p.endswith("_exp.npy") for p in tree.files)


def _tables(tree: Tree) -> dict[str, str | None]:
    return {"train": tree.find("training.csv"), "validation": tree.find("validation.csv")}


def _numbered(tree: Tree) -> list[tuple[str, str, str]]:
    """Returns path, split and label number of the images in the numbered class folders of train/, val/ and test/."""
    found = []
    for path in filter(is_picture, tree.files):
        parts = PurePosixPath(path).parts
        if len(parts) > 2 and (split := _split(parts[-3])) and _label(parts[-2]) is not None:
            found.append((path, split, parts[-2]))
    return found


def _split(folder: str) -> str | None:
    return SPLITS.get(folder.lower().removesuffix("_set").removesuffix("_class"))


def _label(value: str) -> int | None:
    """Returns the label of an AffectNet number given as text: 8 for no expression, None if it is not 0..10."""
    if value in _NO_EXPRESSION:
        return len(CLASSES)
    return CLASSES.index(_ORDER[int(value)]) if value in map(str, range(8)) else None


def _from_arrays(tree: Tree) -> Iterator[Example]:
    files = set(tree.files)
    for path in tree.files:
        parts = PurePosixPath(path).parts
        if len(parts) < 3 or parts[-2] != "annotations" or not path.endswith("_exp.npy"):
            continue
        split = _split(parts[-3])
        stem = path.removesuffix("_exp.npy")
        image = stem.replace("/annotations/", "/images/") + ".jpg"
        name = "/".join(PurePosixPath(image).parts[-3:])
        label = _label(_scalar(tree, path))
        if split is None:
            raise InputError(f"{path}: annotations must be in train_set/ or val_set/")
        if label is None:
            yield bad_example(path, f"{path} does not contain an expression number in 0..10", split)
        elif image not in files:
            yield bad_example(image, f"{image} is annotated, but missing", split)
        else:
            extra = {"valence": f"{stem}_val.npy", "arousal": f"{stem}_aro.npy"}
            columns = {k: _number(_scalar(tree, p) if p in files else "") for k, p in extra.items()}
            yield Example(split, name, label, tree.reader(image), columns)


def _from_folders(tree: Tree) -> Iterator[Example]:
    for path, split, number in _numbered(tree):
        label = _label(number)
        assert label is not None  # chosen by _numbered
        yield Example(split, "/".join(PurePosixPath(path).parts[-3:]), label, tree.reader(path))


def _scalar(tree: Tree, path: str) -> str:
    """Returns the scalar of a .npy file as text, "" if it has none; never unpickles."""
    try:
        return str(np.load(io.BytesIO(tree.read(path)), allow_pickle=False).item()).strip()
    except (ValueError, EOFError, OSError):
        return ""


def _number(text: str) -> np.float32:
    try:
        return np.float32(text)
    except ValueError:
        return np.float32(-2)


def _from_table(tree: Tree, table: str, split: str) -> Iterator[Example]:
    images = {_tail(path): path for path in tree.files}
    path_column, label_column = _HEADER[0], "expression"
    for row in rows(tree, table, (path_column, label_column), without_header=(_HEADER,)):
        name, label = posix(row.values[path_column]), _label(row.values[label_column])
        path = images.get(_tail(name))
        if label is None:
            yield row.bad(f"expression {row.values[label_column]!r} is not in 0..10", split)
        elif label == len(CLASSES):
            yield Example(split, name, label, bytes)  # counted, then left out
        elif path is None:
            yield row.bad(f"the image {name} is missing", split)
        else:
            columns = {k: _number(row.values[k]) for k in COLUMNS if k in row.values}
            yield Example(split, name, label, tree.reader(path), columns, _box(row))


def _tail(path: str) -> str:
    """Returns folder and name of a file, in lower case."""
    return "/".join(PurePosixPath(path).parts[-2:]).lower()


def _box(row: Row) -> tuple[int, int, int, int] | None:
    try:
        x, y, w, h = (round(float(row.values[f"face_{k}"])) for k in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return None
    return (x, y, x + w, y + h) if w > 0 and h > 0 else None

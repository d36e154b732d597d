"""Reads AffectNet (Mollahosseini et al. 2017): about 287,000 labeled color faces, 8 or 7 classes."""

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from ferjax.data.datasets.sources import EXPRESSIONS, Column, Example, Row, Source, Tree, bad_example, by_split
from ferjax.errors import InputError

GET = "ask its authors for access at http://mohammadmahoor.com/pages/databases/affectnet/ and unpack it"
PREPARE = "ferjax prepare affectnet --source FOLDER"
MISSING = {
    "train": "unpack train_set, or training.csv with its images",
    "validation": "unpack val_set, or validation.csv with its images",
    "test": "ask the authors: its labels are not public, and papers report on validation",
}
COLUMNS = dict.fromkeys(("valence", "arousal"), Column((), "float32", -2))
CLASSES = (*EXPRESSIONS, "contempt")
_ORDER = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt")
_NO_EXPRESSION = ("8", "9", "10")  # none, uncertain, no face


def read(source: Path, *, classes: int = 8, size: int = 224, channels: int = 3) -> Source:
    """Reads either form of AffectNet; the examples are sorted by split and file.

    The forms are `train_set/images/N.jpg` with `train_set/annotations/N_exp.npy` (and `val_set`), and `training.csv`
    and `validation.csv` with the listed images, cropped to the face box if the table has one. Faces labeled none,
    uncertain or no face are left out, and contempt with 7 classes. Valence and arousal become columns if present:
    -1..1, or -2 if unknown.

    Args:
      source: folder, or a zip file of it.
      classes: 8, or 7 without contempt.
      size: height and width of the prepared images in pixels.
      channels: 3 for RGB, 1 for gray.

    Raises:
      InputError: if the source has neither form, or `classes` is not 7 or 8.
    """
    if classes not in (7, 8):
        raise InputError(f"AffectNet: classes must be 7 or 8 (with contempt), got {classes}")
    tree = Tree(source)
    tables = {"train": tree.find("training.csv"), "validation": tree.find("validation.csv")}
    if any("annotations/" in p and p.endswith("_exp.npy") for p in tree.files):
        labeled = by_split(_from_arrays(tree), lambda e: e.name)
    elif any(tables.values()):
        labeled = by_split(e for s, t in tables.items() if t for e in _from_table(tree, t, s))
    else:
        raise InputError(f"{source} contains neither train_set/annotations/*_exp.npy nor training.csv; {GET}")
    kept = [e for e in labeled if e.label < classes]
    left = len(labeled) - len(kept)
    notes = (f"{left:,} faces left out: no expression" + " or contempt" * (classes == 7),) if left else ()
    return Source(CLASSES[:classes], size, channels, kept, MISSING, notes)


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
        split = {"train_set": "train", "val_set": "validation"}.get(parts[-3])
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
    images = {"/".join(PurePosixPath(p).parts[-2:]): p for p in tree.files}
    path_column, label_column = "subdirectory_filepath", "expression"
    for row in tree.rows(table, (path_column, label_column)):
        name, label = row.values[path_column].replace("\\", "/"), _label(row.values[label_column])
        path = images.get("/".join(PurePosixPath(name).parts[-2:]))
        if label is None:
            yield row.bad(f"expression {row.values[label_column]!r} is not in 0..10", split)
        elif label == len(CLASSES):
            yield Example(split, name, label, bytes)  # counted, then left out
        elif path is None:
            yield row.bad(f"the image {name} is missing", split)
        else:
            columns = {k: _number(row.values[k]) for k in COLUMNS if k in row.values}
            yield Example(split, name, label, tree.reader(path), columns, _box(row))


def _box(row: Row) -> tuple[int, int, int, int] | None:
    try:
        x, y, w, h = (round(float(row.values[f"face_{k}"])) for k in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return None
    return (x, y, x + w, y + h) if w > 0 and h > 0 else None

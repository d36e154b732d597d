"""Reads the images of a user: one folder per class, or a CSV file of paths and labels."""

import functools
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from ferjax.cli import counted
from ferjax.data.datasets import names, tables
from ferjax.data.datasets.sources import SPLITS, Example, Source, by_split
from ferjax.data.datasets.tree import Tree, holding, refuse_yolo
from ferjax.data.prepare import detection
from ferjax.errors import InputError, unknown
from ferjax.runtime.sources.pictures import is_picture

FRACTIONS = (0.8, 0.1, 0.1)
_composed = functools.partial(unicodedata.normalize, "NFC")  # macOS decomposes é in file names into e and an accent
_MISSING = {
    "validation": "add its folder or rows, use --holdout, or prepare data without splits",
    "test": "add its folder or rows, or prepare data without splits",
}


def read(
    source: Path,
    *,
    size: int = 48,
    channels: int = 1,
    fractions: Sequence[float] | None = None,
    find_faces: bool = False,
    class_names: Sequence[str] | None = None,
    name_encoding: str | None = None,
) -> Source:
    """Reads a folder or archive with one folder of images per class.

    The class folders may be in train/, validation/ (or val/) and test/; otherwise `fractions` defines the splits. Class
    names are sorted alphabetically, examples by split, class and file name.

    Args:
      source: folder or archive.
      size: height and width of the prepared images in pixels.
      channels: 1 for gray, 3 for RGB.
      fractions: fractions of train, validation and test, each 0..1, with sum 1; FRACTIONS if None.
      find_faces: crop the largest face, rotated until the eyes are level; an image without a face is unusable.
      class_names: names of the classes if their folders are numbers, in the order of the numbers.
      name_encoding: encoding of the names in an archive and of the class folders; detected if None.

    Raises:
      InputError: if there are fewer than two classes, a class has no image, split folders are next to other folders,
        class folders are numbers without names, or `fractions` is given for data with splits.
    """
    tree = holding(source, lambda tree: any(map(is_picture, tree.files)), name_encoding)
    if tree.table:
        raise InputError(f"{source} is a file: use a folder or archive of images, or ferjax prepare csv for a table")
    refuse_yolo(tree)
    top = _top(tree)
    folders = [f.removeprefix(top) for f in tree.folders if f.startswith(top)]
    divided = _in_splits(source, folders)
    depth = 2 if divided else 1
    named = {PurePosixPath(f).parts[depth - 1] for f in folders if len(PurePosixPath(f).parts) >= depth}
    texts = _texts(source, sorted(named), name_encoding)
    class_of, united = _classes(source, texts.values(), class_names)
    classes = tuple(sorted({*class_of.values()}))
    examples = []
    for path in tree.files:
        parts = PurePosixPath(path.removeprefix(top)).parts
        if len(parts) > depth and is_picture(path):
            split = SPLITS[parts[0].lower()] if divided else "train"
            label = classes.index(class_of[texts[parts[depth - 1]]])
            examples.append(Example(split, "/".join(parts), label, tree.reader(path)))
    ignored = len(tree.files) - len(examples)
    shares = _shares(source, fractions, divided=divided)
    notes = [*united, *([f"{counted(ignored, 'file')} ignored: not images"] if ignored else [])]
    made = _source(source, classes, by_split(examples), size, channels, shares, find_faces, notes)
    present = {e.label for e in examples}
    if empty := [c for i, c in enumerate(classes) if i not in present]:
        raise InputError(f"{source}: the class {', '.join(empty)} has no images; add images or remove the class")
    return made


def _texts(source: Path, named: Sequence[str], name_encoding: str | None) -> dict[str, str]:
    """Returns name of a class folder -> the name as text; names on disk may be in a code page."""
    raw = {name: name.encode("utf-8", "surrogateescape") for name in named}  # as Python reads names that are not UTF-8
    odd = [name for name in named if raw[name].decode("utf-8", "replace") != name]
    read = names.decode([raw[name] + b"/" for name in odd], str(source), name_encoding)
    texts = dict(zip(odd, (name.rstrip("/") for name in read), strict=True))
    return {name: _composed(texts.get(name, name)) for name in named}


def _in_splits(source: Path, folders: Sequence[str]) -> bool:
    """Returns whether all folders are in folders of splits; raises InputError if some are."""
    above = {PurePosixPath(f).parts[0] for f in folders}
    splits = {name for name in above if name.lower() in SPLITS}
    divided = bool(above) and above == splits
    nested = {PurePosixPath(f).parts[0] for f in folders if len(PurePosixPath(f).parts) > 1}
    several = len({SPLITS[name.lower()] for name in splits}) > 1
    if splits and not divided and (several or splits & nested):
        raise InputError(
            f"{source} has the split folders {', '.join(sorted(splits))} and other folders, "
            f"{', '.join(sorted(above - splits))}: move every image into a split, or remove the split folders"
        )
    return divided


def read_table(
    source: Path,
    *,
    size: int = 48,
    channels: int = 1,
    fractions: Sequence[float] | None = None,
    find_faces: bool = False,
    class_names: Sequence[str] | None = None,
    name_encoding: str | None = None,
) -> Source:
    """Reads a table with the columns path, label and optionally split.

    Paths are relative to the folder of the table. Class names are sorted alphabetically, examples by split and row.

    Args:
      source: table, or folder or archive that contains one table.
      size: height and width of the prepared images in pixels.
      channels: 1 for gray, 3 for RGB.
      fractions: fractions of train, validation and test if there is no column split; FRACTIONS if None.
      find_faces: crop the largest face, rotated until the eyes are level; an image without a face is unusable.
      class_names: names of the classes if the labels are numbers, in the order of the numbers.
      name_encoding: encoding of the table and of the names in an archive; detected if None.

    Raises:
      InputError: if there is not one table, a column is missing, there are fewer than two classes, labels are numbers
        without names, or `fractions` is given with a column split.
    """
    tree = holding(source, lambda tree: bool(_tables(tree)), name_encoding)
    found = _tables(tree)
    if len(found) != 1:
        state = f"contains several tables, {', '.join(found)}" if found else "contains no table"
        raise InputError(f"{source} {state}: use one CSV file with the columns path, label and optionally split")
    encoding = tables.find_encoding(tree, found[0], name_encoding)
    rows = list(tables.rows(tree, found[0], ("path", "label"), encoding=encoding))
    if broken := next((r for r in rows if re.search(r"[\r\n]", r.values["path"] + r.values["label"])), None):
        raise InputError(f"{broken.where}: path or label contains a line break: check the quotation marks before it")
    class_of, united = _classes(source, {_composed(r.values["label"]) for r in rows} - {""}, class_names)
    classes = tuple(sorted({*class_of.values()}))
    divided = bool(rows) and "split" in rows[0].values
    listed = [row for row in rows if row.values["path"]]
    files, lead = tables.locate(tree, found[0], [row.values["path"] for row in listed])
    places = {row.where: file for row, file in zip(listed, files, strict=True)}
    examples = []
    for row in rows:
        path, label, split = (row.values.get(k, "") for k in ("path", "label", "split"))
        if not label or not path:
            examples.append(row.bad("path or label is empty"))
        elif divided and not split:
            examples.append(row.bad("split is empty"))
        elif divided and split.lower() not in SPLITS:
            raise unknown(f"split in {row.where}", split, SPLITS)
        elif (file := places[row.where]) is None:
            examples.append(row.bad(f"the image {path} is missing"))
        else:
            where = SPLITS[split.lower()] if divided else "train"
            name = tables.posix(path).removeprefix(f"{lead}/")
            examples.append(Example(where, name, classes.index(class_of[_composed(label)]), tree.reader(file)))
    shares = _shares(source, fractions, divided=divided)
    notes = [*united, *([f"leading folders of all paths ignored: {lead}"] if lead else [])]
    return _source(source, classes, by_split(examples), size, channels, shares, find_faces, notes)


def _tables(tree: Tree) -> list[str]:
    return [tree.table] if tree.table else [p for p in tree.files if p.lower().endswith((".csv", ".tsv"))]


def _classes(source: Path, found: Iterable[str], class_names: Sequence[str] | None) -> tuple[dict[str, str], list[str]]:
    """Returns class in the source -> class name, and remarks.

    Letter case, spaces around a name and zeros after a number (1.0, as pandas writes it) make no other class.
    """
    alike: dict[str, list[str]] = {}
    for name in sorted({*found}):
        alike.setdefault(re.sub(r"^(\d+)\.0+$", r"\1", name.strip()).casefold(), []).append(name)
    spelled = {key: key if key.isdecimal() else names[-1].strip() for key, names in alike.items()}
    named = _names(source, {*spelled.values()}, class_names)
    class_of = {name: named[spelled[key]] for key, names in alike.items() for name in names}
    united = [f"one class: {', '.join(map(repr, names))}" for names in alike.values() if len(names) > 1]
    return class_of, united


def _names(source: Path, found: set[str], class_names: Sequence[str] | None) -> dict[str, str]:
    """Returns class in the source -> class name; raises InputError unless numbers, and only they, are given names."""
    numbered = bool(found) and all(name.isdecimal() for name in found)
    if not numbered:
        if class_names:
            raise InputError(f"{source}: the classes have names ({', '.join(sorted(found))}): remove --class-names")
        return {name: name for name in found}
    order = sorted(found, key=lambda name: (int(name), name))
    if not class_names:
        raise InputError(
            f"{source}: the classes are numbers ({', '.join(order)}). Name them in this order with --class-names "
            "NAME,NAME,…; for RAF-DB or AffectNet, use ferjax prepare rafdb or affectnet"
        )
    if len({*class_names}) != len(order) or len(class_names) != len(order) or not all(class_names):
        raise InputError(
            f"--class-names must be {len(order)} different names for {', '.join(order)}; got {class_names}"
        )
    return dict(zip(order, class_names, strict=True))


def _shares(source: Path, fractions: Sequence[float] | None, *, divided: bool) -> Sequence[float] | None:
    if divided and fractions is not None:
        raise InputError(f"{source} already has splits: remove --fractions; --holdout takes validation from train")
    return None if divided else fractions or FRACTIONS


def _top(tree: Tree) -> str:
    """Returns the single folder that contains all images, as in many archives, with a slash, or ""."""
    top = ""
    while True:
        folders = [f.removeprefix(top) for f in tree.folders if f.startswith(top)]
        pictures = [p.removeprefix(top) for p in tree.files if p.startswith(top) and is_picture(p)]
        tops = {path.split("/")[0] for path in folders + pictures}
        deeper = any("/" in folder for folder in folders)
        if len(tops) != 1 or not deeper or {t.lower() for t in tops} <= SPLITS.keys():
            return top
        top += f"{tops.pop()}/"


def _source(
    source: Path,
    classes: tuple[str, ...],
    examples: list[Example],
    size: int,
    channels: int,
    fractions: Sequence[float] | None,
    find_faces: bool,
    notes: Sequence[str],
) -> Source:
    if len(classes) < 2:
        state = f"found {', '.join(classes) or 'none'}"
        raise InputError(
            f"{source} must contain two or more classes, {state}. Put the images of each class into their own folder "
            "or list path and label in a table; unpack archives in archives first"
        )
    crop = detection.largest_face(size, channels) if find_faces else None
    notes = [*(["cropped to the largest face of each image"] if find_faces else []), *notes]
    missing = {} if fractions else _MISSING
    parts = check_fractions(fractions) if fractions else None
    return Source(classes, size, channels, examples, missing, tuple(notes), crop, parts)


def check_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Returns fractions of train, validation and test; raises InputError unless in 0..1, sum 1 and train > 0."""
    if len(fractions) != 3 or min(fractions) < 0 or fractions[0] == 0 or not math.isclose(sum(fractions), 1):
        given = ",".join(map(str, fractions))
        raise InputError(f"fractions of train, validation and test must sum to 1, such as 0.8,0.1,0.1; got {given}")
    train, validation, test = fractions
    return train, validation, test

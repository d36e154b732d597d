"""Reads the images of a user: one folder per class, or a CSV file of paths and labels."""

import functools
import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ferjax.data.datasets.sources import Example, Source, Tree, by_split, is_picture
from ferjax.data.prepare import detection
from ferjax.errors import InputError, unknown

ALIASES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
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
) -> Source:
    """Reads a folder or zip file with one folder of images per class.

    The class folders may be in train/, validation/ (or val/) and test/; otherwise `fractions` defines the splits. Class
    names are sorted alphabetically, examples by split, class and file name.

    Args:
      source: folder or zip file.
      size: height and width of the prepared images in pixels.
      channels: 1 for gray, 3 for RGB.
      fractions: fractions of train, validation and test, each 0..1, with sum 1; FRACTIONS if None.
      find_faces: crop the largest face, rotated until the eyes are level; an image without a face is unusable.

    Raises:
      InputError: if there are fewer than two classes, a class has no image, split folders are next to other folders, or
        `fractions` is given for data with splits.
    """
    tree = Tree(source)
    top = _top(tree)
    folders = [f.removeprefix(top) for f in tree.folders if f.startswith(top)]
    above = {PurePosixPath(f).parts[0] for f in folders}
    splits = {name for name in above if name.lower() in ALIASES}
    divided = bool(above) and above == splits
    nested = {PurePosixPath(f).parts[0] for f in folders if len(PurePosixPath(f).parts) > 1}
    several = len({ALIASES[name.lower()] for name in splits}) > 1
    if splits and not divided and (several or splits & nested):
        raise InputError(
            f"{source} has the split folders {', '.join(sorted(splits))} and other folders, "
            f"{', '.join(sorted(above - splits))}: move every image into a split, or remove the split folders"
        )
    depth = 2 if divided else 1
    named = {PurePosixPath(f).parts[depth - 1] for f in folders if len(PurePosixPath(f).parts) >= depth}
    if odd := [
        name for name in named if any("\ud800" <= letter <= "\udfff" for letter in name)
    ]:  # bytes that are not UTF-8
        raise InputError(f"{source}: the name of the class folder {odd[0]!r} is not UTF-8; rename it")
    classes = tuple(sorted(set(map(_composed, named))))
    examples = []
    for path in tree.files:
        parts = PurePosixPath(path.removeprefix(top)).parts
        if len(parts) > depth and is_picture(path):
            split = ALIASES[parts[0].lower()] if divided else "train"
            label = classes.index(_composed(parts[depth - 1]))
            examples.append(Example(split, "/".join(parts), label, tree.reader(path)))
    ignored = len(tree.files) - len(examples)
    shares = _shares(source, fractions, divided=divided)
    made = _source(source, classes, by_split(examples), size, channels, shares, find_faces, ignored)
    present = {e.label for e in examples}
    if empty := [c for i, c in enumerate(classes) if i not in present]:
        raise InputError(f"{source}: the class {', '.join(empty)} has no images; add images or remove the class")
    return made


def read_table(
    source: Path,
    *,
    size: int = 48,
    channels: int = 1,
    fractions: Sequence[float] | None = None,
    find_faces: bool = False,
) -> Source:
    """Reads a CSV file with the columns path, label and optionally split.

    Paths are relative to the folder of the file. Class names are sorted alphabetically, examples by split and row.

    Args:
      source: CSV file.
      size: height and width of the prepared images in pixels.
      channels: 1 for gray, 3 for RGB.
      fractions: fractions of train, validation and test if there is no column split; FRACTIONS if None.
      find_faces: crop the largest face, rotated until the eyes are level; an image without a face is unusable.

    Raises:
      InputError: if a column is missing, there are fewer than two classes, or `fractions` is given with a column split.
    """
    if source.is_dir() or source.suffix.lower() != ".csv":
        raise InputError(f"{source} is not a .csv file with the columns path, label and optionally split")
    rows = list(Tree(source).rows(source.name, ("path", "label")))
    classes = tuple(sorted({_composed(r.values["label"]) for r in rows} - {""}))
    divided = bool(rows) and "split" in rows[0].values
    examples = []
    for row in rows:
        path, label, split = (row.values.get(k, "") for k in ("path", "label", "split"))
        if not label or not path:
            examples.append(row.bad("path or label is empty"))
        elif divided and split.lower() not in ALIASES:
            raise unknown(f"split in {row.where}", split, ALIASES)
        elif not (source.parent / path).is_file():
            examples.append(row.bad(f"the image {path} is missing"))
        else:
            where = ALIASES[split.lower()] if divided else "train"
            examples.append(Example(where, path, classes.index(_composed(label)), (source.parent / path).read_bytes))
    shares = _shares(source, fractions, divided=divided)
    return _source(source, classes, by_split(examples), size, channels, shares, find_faces)


def _shares(source: Path, fractions: Sequence[float] | None, *, divided: bool) -> Sequence[float] | None:
    if divided and fractions is not None:
        raise InputError(f"{source} already has splits: remove --fractions; --holdout takes validation from train")
    return None if divided else fractions or FRACTIONS


def _top(tree: Tree) -> str:
    """Returns the single folder that contains everything, as in many zip files, with a slash, or ""."""
    top = ""
    while True:
        below = {p.removeprefix(top).split("/")[0] for p in tree.files + tree.folders if p.startswith(top) and p != top}
        inner = [f for f in tree.folders if f.startswith(top) and f != top.rstrip("/")]
        tops = {f.removeprefix(top).split("/")[0] for f in inner}
        deeper = any("/" in f.removeprefix(top) for f in inner)
        if len(below) != 1 or len(tops) != 1 or not deeper or {t.lower() for t in tops} <= ALIASES.keys():
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
    ignored: int = 0,
) -> Source:
    if len(classes) < 2:
        raise InputError(f"{source} must contain two or more classes, found {', '.join(classes) or 'none'}")
    crop = detection.largest_face(size, channels) if find_faces else None
    notes = ["cropped to the largest face of each image"] if find_faces else []
    notes += [f"{ignored:,} files ignored: not images"] if ignored else []
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

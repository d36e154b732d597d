"""A user's own pictures: one folder for each class, or a CSV file of paths and labels."""

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
_composed = functools.partial(unicodedata.normalize, "NFC")  # macOS writes é in a file's name as e and an accent
_MISSING = {
    "validation": "add its folder or rows, hold a part of train out with --holdout, or prepare undivided data",
    "test": "add its folder or rows, or prepare undivided data",
}


def read(
    source: Path,
    *,
    size: int = 48,
    channels: int = 1,
    fractions: Sequence[float] | None = None,
    find_faces: bool = False,
) -> Source:
    """Reads a folder (or zip file) with one folder of pictures for each class.

    Below train/, validation/ (or val/) and test/, the division is kept; otherwise it is made by `fractions`.

    Args:
      source: the folder.
      size: height and width of the prepared images.
      channels: 1 for grey, 3 for RGB.
      fractions: parts of train, validation and test, each 0..1, together 1; FRACTIONS if not given.
      find_faces: cut out the largest face, upright by its eyes; pictures without a face count as bad.

    Returns:
      The examples by split, then class and file name; the class names in alphabetical order.

    Raises:
      InputError: if there are fewer than two classes, or one without pictures; for fractions of what is divided
        already, or folders of splits beside others.
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
            f"{source} has the folders {', '.join(sorted(splits))}, and beside them "
            f"{', '.join(sorted(above - splits))}: divide all of it or nothing"
        )
    depth = 2 if divided else 1
    named = {PurePosixPath(f).parts[depth - 1] for f in folders if len(PurePosixPath(f).parts) >= depth}
    if odd := [name for name in named if any("\ud800" <= letter <= "\udfff" for letter in name)]:  # bytes of no text
        raise InputError(f"{source}: the folder {odd[0]!r} names a class, and its name is no text: rename it")
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
        raise InputError(f"{source}: the class {', '.join(empty)} holds no pictures; add some, or remove the class")
    return made


def read_table(
    source: Path,
    *,
    size: int = 48,
    channels: int = 1,
    fractions: Sequence[float] | None = None,
    find_faces: bool = False,
) -> Source:
    """Reads a CSV file with the columns path and label and, if the division is to be kept, split.

    Paths count from the file's folder.

    Args:
      source: the CSV file.
      size: height and width of the prepared images.
      channels: 1 for grey, 3 for RGB.
      fractions: parts of train, validation and test where there is no column split; FRACTIONS if not given.
      find_faces: cut out the largest face, upright by its eyes; pictures without a face count as bad.

    Returns:
      The examples by split, then row; the class names in alphabetical order.

    Raises:
      InputError: if a column is missing, or there are fewer than two classes; for fractions beside a column split.
    """
    if source.is_dir() or source.suffix.lower() != ".csv":
        raise InputError(f"{source} is no .csv file with the columns path, label and, if you like, split")
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
        raise InputError(f"{source} is divided already: leave out --fractions; --holdout takes validation from train")
    return None if divided else fractions or FRACTIONS


def _top(tree: Tree) -> str:
    """The one folder that wraps everything, as zip files often have it, with a slash; "" if there is none."""
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
        raise InputError(f"{source} must hold two or more classes, found {', '.join(classes) or 'none'}")
    crop = detection.largest_face(size, channels) if find_faces else None
    notes = ["the largest face of each picture cut out"] if find_faces else []
    notes += [f"{ignored:,} files that are no pictures ignored"] if ignored else []
    missing = {} if fractions else _MISSING
    parts = check_fractions(fractions) if fractions else None
    return Source(classes, size, channels, examples, missing, tuple(notes), crop, parts)


def check_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Returns the parts of train, validation and test.

    Raises:
      InputError: if they are not three numbers in 0..1 that sum to 1, or train is 0.
    """
    if len(fractions) != 3 or min(fractions) < 0 or fractions[0] == 0 or not math.isclose(sum(fractions), 1):
        given = ",".join(map(str, fractions))
        raise InputError(f"fractions of train, validation and test must sum to 1, such as 0.8,0.1,0.1; got {given}")
    train, validation, test = fractions
    return train, validation, test

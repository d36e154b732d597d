"""Reads RAF-DB, basic set (Li et al. 2017): 15,339 aligned color faces of 100x100 pixels, seven classes."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ferjax.cli import counted
from ferjax.data.datasets.sources import EXPRESSIONS, SPLITS, Column, Example, Source, bad_example, by_split
from ferjax.data.datasets.tables import posix, rows
from ferjax.data.datasets.tree import Tree, holding
from ferjax.errors import InputError
from ferjax.runtime.sources.pictures import is_picture

CLASSES = EXPRESSIONS
GET = (
    "ask its authors for access at http://www.whdeng.cn/RAF/model1.html and unpack the folder basic; "
    "for other folders with one class each, use ferjax prepare folder"
)
PREPARE = "ferjax prepare rafdb --source basic --holdout 0.1"
MISSING = {
    "validation": "prepare again with --holdout 0.1 (RAF-DB has train and test only)",
    "train": "use a list that contains train_*.jpg",
    "test": "use a list that contains test_*.jpg",
}
COLUMNS = dict.fromkeys(("gender", "race", "age"), Column((), "int32", -1))
# Names of the values of the group columns; -1 is unknown.
GROUPS = {
    "gender": ("male", "female", "unsure"),
    "race": ("Caucasian", "African-American", "Asian"),
    "age": ("0-3", "4-19", "20-39", "40-69", "70+"),
}
LISTS = ("list_patition_label.txt", "list_partition_label.txt")
LABELS = ("train_labels.csv", "test_labels.csv")
_ATTRIBUTES = "_manu_attri.txt"
_NUMBERS = ("1", "2", "3", "4", "5", "6", "7")
_ORDER = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")  # labels 1..7


def read(source: Path, *, size: int = 100, channels: int = 3, name_encoding: str | None = None) -> Source:
    """Reads RAF-DB in any of its forms; the examples are sorted by split and name.

    The forms are `list_patition_label.txt` with the images `<name>_aligned.jpg` in any subfolder; `train_labels.csv`
    and `test_labels.csv` with the images that they list; and images in the folders `train/1` to `train/7` and `test/1`
    to `test/7`. Gender, race and age group are read from `<name>_manu_attri.txt`; a missing value is -1.

    Args:
      source: the folder `basic`, a folder that contains it, or an archive of it.
      size: height and width of the prepared images in pixels.
      channels: 3 for RGB, 1 for gray.
      name_encoding: encoding of the names in an archive; detected if None.

    Raises:
      InputError: if the source has none of the forms, or the list has an invalid line.
    """
    tree = holding(source, lambda tree: bool(tree.find(*LISTS, *LABELS) or _in_class_folders(tree)), name_encoding)
    notes: list[str] = []
    if tree.find(*LISTS):
        examples = _from_list(tree)
    elif tree.find(*LABELS):
        examples = _from_tables(tree)
    elif in_folders := _in_class_folders(tree):
        if any(n == "0" for _, _, n in in_folders):
            raise InputError(f"{source}: RAF-DB has the classes 1 to 7; for 0 to 6, use prepare folder --class-names")
        examples = (Example(s, PurePosixPath(p).name, _label(n), tree.reader(p)) for p, s, n in in_folders)
        ignored = sum(map(is_picture, tree.files)) - len(in_folders)
        notes += [f"{counted(ignored, 'image')} ignored: not in a folder 1 to 7 of a split"] if ignored else []
    else:
        forms = f"{LISTS[0]} nor {LABELS[0]} nor train/1 to train/7"
        raise InputError(f"{source} contains neither {forms}; {GET}")
    found = by_split(examples, lambda e: e.name)
    has_groups = any(p.endswith(_ATTRIBUTES) for p in tree.files)
    notes += [] if has_groups else [f"no files *{_ATTRIBUTES}: no gender, race and age"]
    return Source(EXPRESSIONS, size, channels, found, MISSING, tuple(notes))


def _label(number: str) -> int:
    return EXPRESSIONS.index(_ORDER[int(number) - 1])


def _pictures(tree: Tree) -> dict[str, str]:
    """Returns name without ending, in lower case -> path of the images."""
    return {PurePosixPath(p).stem.lower(): p for p in tree.files if is_picture(p)}


def _in_class_folders(tree: Tree) -> list[tuple[str, str, str]]:
    """Returns path, split and label number of the images in train/<number>/, val/<number>/ and test/<number>/."""
    found = []
    for path in filter(is_picture, tree.files):
        parts = PurePosixPath(path).parts
        if len(parts) > 2 and parts[-3].lower() in SPLITS and parts[-2] in ("0", *_NUMBERS):
            found.append((path, SPLITS[parts[-3].lower()], parts[-2]))
    return found


def _from_list(tree: Tree) -> Iterator[Example]:
    listing = str(tree.find(*LISTS))
    images = _pictures(tree)
    attributes = {PurePosixPath(p).name: p for p in tree.files if p.endswith(_ATTRIBUTES)}
    if not any(stem.endswith("_aligned") for stem in images):
        raise InputError(f"{tree.source} does not contain *_aligned.jpg; unpack aligned.zip there")
    text = tree.read(listing).decode("utf-8-sig", "replace")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        split, stem, label = _parse(line, f"{PurePosixPath(listing).name} line {number}")
        name = f"{stem}_aligned.jpg"
        columns = {} if not attributes else _groups(tree, attributes.get(f"{stem}{_ATTRIBUTES}"))
        path = images.get(f"{stem}_aligned")
        if path is None:
            yield bad_example(name, f"{name} is listed in line {number}, but missing", split)
        else:
            yield Example(split, name, label, tree.reader(path), columns)


def _from_tables(tree: Tree) -> Iterator[Example]:
    images = _pictures(tree)
    for table, split in zip(map(tree.find, LABELS), ("train", "test"), strict=True):
        for row in rows(tree, table, ("image", "label")) if table else ():
            image, number = PurePosixPath(posix(row.values["image"])), row.values["label"]
            path = images.get(image.stem.lower())
            if number not in _NUMBERS:
                yield row.bad(f"label {number!r} is not in 1..7", split)
            elif path is None:
                yield row.bad(f"the image {image.name} is missing", split)
            else:
                yield Example(split, image.name, _label(number), tree.reader(path))


def _parse(line: str, where: str) -> tuple[str, str, int]:
    parts = line.split()
    stem = PurePosixPath(parts[0]).stem
    split = {"train": "train", "test": "test"}.get(stem.split("_")[0])
    if len(parts) != 2 or split is None or parts[1] not in _NUMBERS:
        raise InputError(f"{where}: {line.strip()!r} must be 'train_NAME.jpg N' or 'test_NAME.jpg N' with N in 1..7")
    return split, stem, _label(parts[1])


def _groups(tree: Tree, path: str | None) -> dict[str, int]:
    """Reads gender, race and age group, which follow five lines of landmarks; -1 if missing."""
    lines = tree.read(path).decode("ascii", "replace").split("\n") if path else []
    values = [line.strip() for line in lines if line.strip()][5:8]
    values += [""] * (3 - len(values))
    known = {k: set(map(str, range(len(g)))) for k, g in GROUPS.items()}
    return {k: int(v) if v in known[k] else -1 for k, v in zip(GROUPS, values, strict=True)}

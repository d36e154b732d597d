"""Reads RAF-DB, basic set (Li et al. 2017): 15,339 aligned color faces of 100x100 pixels, seven classes."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ferjax.data.datasets.sources import EXPRESSIONS, Column, Example, Source, Tree, bad_example, by_split
from ferjax.errors import InputError

CLASSES = EXPRESSIONS
GET = "ask its authors for access at http://www.whdeng.cn/RAF/model1.html and unpack the folder basic"
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
_ORDER = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")  # labels 1..7


def read(source: Path, *, size: int = 100, channels: int = 3) -> Source:
    """Reads `list_patition_label.txt` and the images `<name>_aligned.jpg` that it lists, in any subfolder.

    Gender, race and age group are read from `<name>_manu_attri.txt`; a missing value is -1. Examples are sorted by
    split and name.

    Args:
      source: the folder `basic`, a folder that contains it, or a zip file of it.
      size: height and width of the prepared images in pixels.
      channels: 3 for RGB, 1 for gray.

    Raises:
      InputError: if the list is missing or has an invalid line.
    """
    tree = Tree(source)
    listing = tree.find("list_patition_label.txt", "list_partition_label.txt")
    if listing is None:
        raise InputError(f"{source} does not contain list_patition_label.txt; {GET}")
    aligned = {PurePosixPath(p).name: p for p in tree.files if p.endswith("_aligned.jpg")}
    attributes = {PurePosixPath(p).name: p for p in tree.files if p.endswith("_manu_attri.txt")}
    if not aligned:
        raise InputError(f"{source} does not contain *_aligned.jpg; unpack aligned.zip there")

    def examples() -> Iterator[Example]:
        text = tree.read(listing).decode("utf-8-sig", "replace")
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            split, stem, label = _parse(line, f"{PurePosixPath(listing).name} line {number}")
            name = f"{stem}_aligned.jpg"
            columns = {} if not attributes else _groups(tree, attributes.get(f"{stem}_manu_attri.txt"))
            if name not in aligned:
                yield bad_example(name, f"{name} is listed in line {number}, but missing", split)
            else:
                yield Example(split, name, label, tree.reader(aligned[name]), columns)

    found = by_split(examples(), lambda e: e.name)
    return Source(
        EXPRESSIONS,
        size,
        channels,
        found,
        MISSING,
        () if attributes else ("no files *_manu_attri.txt: no gender, race and age",),
    )


def _parse(line: str, where: str) -> tuple[str, str, int]:
    parts = line.split()
    stem = PurePosixPath(parts[0]).stem
    split = {"train": "train", "test": "test"}.get(stem.split("_")[0])
    if len(parts) != 2 or split is None or parts[1] not in map(str, range(1, 8)):
        raise InputError(f"{where}: {line.strip()!r} must be 'train_NAME.jpg N' or 'test_NAME.jpg N' with N in 1..7")
    return split, stem, EXPRESSIONS.index(_ORDER[int(parts[1]) - 1])


def _groups(tree: Tree, path: str | None) -> dict[str, int]:
    """Reads gender, race and age group, which follow five lines of landmarks; -1 if missing."""
    lines = tree.read(path).decode("ascii", "replace").split("\n") if path else []
    values = [line.strip() for line in lines if line.strip()][5:8]
    values += [""] * (3 - len(values))
    known = {k: set(map(str, range(len(g)))) for k, g in GROUPS.items()}
    return {k: int(v) if v in known[k] else -1 for k, v in zip(GROUPS, values, strict=True)}

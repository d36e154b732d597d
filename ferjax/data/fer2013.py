"""FER2013 (Goodfellow et al. 2013): 35,887 grey faces of 48x48 pixels, seven classes."""

from pathlib import Path, PurePosixPath

from ferjax.cli import InputError, unknown
from ferjax.data.sources import EMOTIONS, Example, Source, Tree, is_picture, ordered

GET = (
    "download the archive from https://www.kaggle.com/datasets/msambare/fer2013 (free account), then run: "
    "python -m ferjax.data prepare fer2013 --source fer2013.zip"
)
MISSING = {
    "train": "take an archive that holds train/<class>/Training_*.jpg",
    "validation": "take an archive that holds test/<class>/PublicTest_*.jpg",
    "test": "take an archive that holds test/<class>/PrivateTest_*.jpg",
}
_SPLIT_OF = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}


def read(source: Path) -> Source:
    """Reads the Kaggle archive, zipped or unpacked.

    `train/<class>/Training_*.jpg` is the training split, `test/<class>/PublicTest_*.jpg` validation and
    `test/<class>/PrivateTest_*.jpg` test.

    Args:
      source: the zip file or the folder.

    Returns:
      The examples by split, then file name.

    Raises:
      InputError: if the archive is damaged, has an unknown class folder, or a file in the wrong place.
    """
    return _read_folders(Tree(source))


def _read_folders(tree: Tree) -> Source:
    for folder in tree.folders:
        parent, name = PurePosixPath(folder).parent.name, PurePosixPath(folder).name
        if parent in ("train", "test") and name not in EMOTIONS:
            raise unknown("class folder", folder, EMOTIONS)
    examples = []
    for path in tree.files:
        parts = PurePosixPath(path).parts
        if len(parts) < 3 or parts[-3] not in ("train", "test") or not is_picture(path):
            continue
        examples.append(Example(_split(path), "/".join(parts[-3:]), EMOTIONS.index(parts[-2]), tree.reader(path)))
    if not examples:
        raise InputError(f"{tree.source} holds no train/<class>/*.jpg; {GET}")
    return Source(EMOTIONS, 48, 1, ordered(examples), MISSING)


def _split(path: str) -> str:
    folder, stem = PurePosixPath(path).parts[-3], PurePosixPath(path).stem
    split = _SPLIT_OF.get(stem.split("_")[0])
    if split is None and folder == "test":
        raise InputError(f"{path}: a test file must be named PublicTest_* (validation) or PrivateTest_* (test)")
    if split is not None and (split == "train") != (folder == "train"):
        raise InputError(f"{path}: a {stem.split('_')[0]} image in the folder {folder}/ would leak; move it back")
    return split or "train"

"""How prepared data lies on disk: plain arrays and one manifest, written whole or not at all.

DIR/NAME/manifest.json
DIR/NAME/<split>/images.npy    uint8 (N, H, W, C); or in its place DIR/NAME/records, see `ferjax.data.records`
DIR/NAME/<split>/labels.npy    int32 (N,), index into the manifest's class_names
DIR/NAME/<split>/names.txt     one name a line
DIR/NAME/<split>/<column>.npy  (N, ...), such as votes, gender, twin_in_train
"""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ferjax import folders
from ferjax.data import on_disk, records
from ferjax.data.on_disk import DiskImages
from ferjax.errors import InputError

SPLITS = ("train", "validation", "test")
_READ_WHOLE = 1 << 30  # bytes of images that preparing and checking a set keep in memory

Images = np.ndarray | DiskImages


class Split(NamedTuple):
    """One split.

    Attributes:
      images: uint8 (N, H, W, C), in memory, or `DiskImages` that are read where they are indexed.
      labels: int32 (N,), index into `FaceData.class_names`.
      names: the file or row each image came from.
      columns: further arrays (N, ...) by name.
    """

    images: Images
    labels: np.ndarray
    names: list[str]
    columns: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class FaceData:
    """A prepared data set: the splits that were asked for, and what is known about all of them.

    Attributes:
      name: name of the data set.
      class_names: the label names, in the order of the label numbers.
      splits: the loaded splits by name.
      mean: per channel over the training pixels, on the 0..1 scale.
      std: per channel over the training pixels, on the 0..1 scale.
      sha256: hash of every split's images, labels and columns.
      manifest: the whole manifest.
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str
    manifest: dict[str, Any]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        height, width, channels = self.manifest["image_shape"]
        return height, width, channels

    def class_counts(self, split: str) -> np.ndarray:
        """Returns int64 (C,): the number of images of each class in a loaded split."""
        return np.bincount(self.splits[split].labels, minlength=len(self.class_names))


def class_weights(counts: np.ndarray) -> np.ndarray:
    """Returns w_c = N / (C * N_c) (Paraschiv 2026, eq. 1), float64 (C,).

    Args:
      counts: images per class (C,), each at least 1.

    Raises:
      InputError: if a class has no image.
    """
    counts = np.asarray(counts, np.float64)
    if not counts.size or counts.min() < 1:
        raise InputError(
            f"class weights need at least one image of each class, got counts {counts.astype(int).tolist()}"
        )
    return counts.sum() / (counts.size * counts)


def default_data_dir() -> Path:
    """Returns $FERJAX_DATA, or else the folder ferjax in the user's cache folder."""
    if given := os.environ.get("FERJAX_DATA"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ferjax"


class SplitWriter:
    """Appends images to one split's folder, so that memory does not grow with the data set.

    A context manager: the arrays are complete when the block ends well.
    """

    def __init__(self, folder: Path, image_shape: tuple[int, int, int]):
        """Opens `folder` for images of `image_shape` (H, W, C)."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.image_shape = folder, tuple(image_shape)
        self._file = (folder / "images.npy").open("wb")
        self._labels: list[int] = []
        self._names: list[str] = []
        self._columns: dict[str, list[Any]] = {}
        self._header(0)

    def add(self, image: np.ndarray, label: int, name: str, columns: Mapping[str, Any]) -> None:
        """Appends one uint8 (H, W, C) image."""
        if image.dtype != np.uint8 or image.shape != self.image_shape:
            raise ValueError(f"{name}: need uint8 {self.image_shape}, got {image.dtype} {image.shape}")
        if "\n" in name or "\r" in name:
            raise InputError(f"{name!r}: a file name with a line break cannot be listed; rename the file")
        self._file.write(image.tobytes())
        self._labels.append(label)
        self._names.append(name)
        for key, value in columns.items():
            self._columns.setdefault(key, []).append(value)

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, error: object, *_: object) -> None:
        with self._file:
            if error is None:
                self._header(len(self._labels))
        if error is None:
            np.save(self.folder / "labels.npy", np.array(self._labels, np.int32))
            text = "".join(f"{n}\n" for n in self._names)
            (self.folder / "names.txt").write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")
            for key, values in self._columns.items():
                np.save(self.folder / f"{key}.npy", np.asarray(values))

    def _header(self, count: int) -> None:
        # numpy leaves room for a longer first axis in the header, so that it can be written again in place.
        shape = (count, *self.image_shape)
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def read_split(folder: Path, *, resident_bytes: int = _READ_WHOLE) -> Split:
    """Reads one split's folder; images that take more than `resident_bytes` stay on disk."""
    in_records = (folder.parent / records.FOLDER).is_dir()
    found = records.open_split(folder.parent, folder.name) if in_records else on_disk.open_array(folder / "images.npy")
    images = found if found.nbytes > resident_bytes else found[:]
    names = (folder / "names.txt").read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1]
    columns = {p.stem: np.load(p) for p in sorted(folder.glob("*.npy")) if p.stem not in ("images", "labels")}
    split = Split(images, np.load(folder / "labels.npy"), names, columns)
    lengths = {len(images), len(split.labels), len(names), *(len(c) for c in columns.values())}
    if len(lengths) != 1:
        raise ValueError(f"arrays of different lengths {sorted(lengths)} in {folder}")
    return split


def use_records(folder: Path, class_names: Sequence[str], *, shards: int | None = None) -> None:
    """Puts `ferjax.data.records` in the place of the arrays of images of a prepared set's folder."""
    splits = {s: read_split(folder / s, resident_bytes=0) for s in SPLITS if (folder / s).is_dir()}
    records.write(folder, splits, class_names, shards=shards)
    for split in splits:
        (folder / split / "images.npy").unlink()


def resplit(folder: Path, parts: Mapping[str, np.ndarray]) -> None:
    """Divides folder/train anew.

    Args:
      folder: holds the split's folder.
      parts: the indices of the training images that each split is to hold, in order; a training image
        that is in none is removed. Only "train" may exist already.
    """
    source = read_split(folder / "train")
    for name, indices in parts.items():
        if not len(indices):
            continue
        with SplitWriter(folder / f".{name}", source.images.shape[1:]) as writer:
            for i in indices:
                columns = {k: v[i] for k, v in source.columns.items()}
                writer.add(source.images[i], int(source.labels[i]), source.names[i], columns)
    shutil.rmtree(folder / "train")
    for name in parts:
        if (folder / f".{name}").exists():
            (folder / f".{name}").rename(folder / name)


@contextlib.contextmanager
def staging(data_dir: Path, name: str, *, keep_existing: bool = False) -> Iterator[Path]:
    """Gives an empty folder that becomes data_dir/name if the block ends well, and vanishes otherwise.

    Data prepared before stay in place until then.

    Args:
      data_dir: folder of all data sets.
      name: name of the data set.
      keep_existing: leave a data_dir/name that another process finished meanwhile.

    Raises:
      InputError: if data_dir/name is no data set.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    _tidy(data_dir, name)
    final = data_dir / name
    if final.exists() and not (final / "manifest.json").exists():
        raise InputError(f"{final} is there and holds no data set: take another name, or remove it")
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}.new-", dir=data_dir))
    temporary.chmod(0o755)
    try:
        yield temporary
        _publish(temporary, data_dir, name, keep_existing)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, data_dir: Path, name: str, keep_existing: bool) -> None:
    final, previous = data_dir / name, data_dir / f".{name}.previous"
    for attempt in range(5):
        if keep_existing and (final / "manifest.json").exists():
            return
        try:
            if final.exists():
                shutil.rmtree(previous, ignore_errors=True)
                final.rename(previous)
            temporary.rename(final)
            break
        except OSError:  # another process put its own data there, or the old ones back
            if attempt == 4 or not temporary.exists():
                raise
    shutil.rmtree(previous, ignore_errors=True)


def _tidy(data_dir: Path, name: str) -> None:
    """Puts back data that a kill between two renames left aside, and removes what old kills left."""
    final, previous = data_dir / name, data_dir / f".{name}.previous"
    with contextlib.suppress(OSError):  # another process does the same, or the folder is read-only
        if previous.exists() and not final.exists():
            previous.rename(final)
    folders.remove_abandoned(data_dir, f".{name}.new-*")


def read_manifest(data_dir: Path, name: str) -> dict[str, Any] | None:
    """Returns the manifest of data_dir/name, None if it was never prepared.

    Raises:
      InputError: if the manifest is damaged.
    """
    if data_dir.is_dir():
        _tidy(data_dir, name)
    path = data_dir / name / "manifest.json"
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return dict(manifest) | {"counts": dict(manifest["counts"])}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error}); prepare {name} again") from error

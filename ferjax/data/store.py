"""How prepared data lies on disk: plain arrays and one manifest, written whole or not at all.

DIR/NAME/manifest.json
DIR/NAME/<split>/images.npy    uint8 (N, H, W, C)
DIR/NAME/<split>/labels.npy    int32 (N,), index into the manifest's class_names
DIR/NAME/<split>/names.txt     one name a line
DIR/NAME/<split>/<column>.npy  (N, ...), such as votes, gender, twin_in_train
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ferjax import __version__
from ferjax.cli import InputError

SPLITS = ("train", "validation", "test")
_READ_WHOLE = 1 << 30  # bytes; larger image arrays are memory-mapped


class Split(NamedTuple):
    """One split in memory.

    Attributes:
      images: uint8 (N, H, W, C).
      labels: int32 (N,), index into `FaceData.class_names`.
      names: the file or row each image came from.
      columns: further arrays (N, ...) by name.
    """

    images: np.ndarray
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

    @property
    def class_weights(self) -> np.ndarray:
        """float64 (C,): w_c = N / (C * N_c) of the training split, in the order of `class_names`."""
        return np.array([self.manifest["class_weights"][c] for c in self.class_names])

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
    """Appends images to one split's folder, so that memory does not grow with the data set."""

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

    def close(self) -> None:
        """Writes the final length, the labels, the names and the columns."""
        self._header(len(self._labels))
        self._file.close()
        np.save(self.folder / "labels.npy", np.array(self._labels, np.int32))
        write_names(self.folder / "names.txt", self._names)
        for key, values in self._columns.items():
            np.save(self.folder / f"{key}.npy", np.asarray(values))

    def _header(self, count: int) -> None:
        # numpy leaves room for a longer first axis in the header, so that it can be written again in place.
        shape = (count, *self.image_shape)
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def write_names(path: Path, names: Iterable[str]) -> None:
    """Writes one name a line; names that are no valid Unicode survive."""
    path.write_text("".join(f"{n}\n" for n in names), encoding="utf-8", errors="surrogateescape", newline="\n")


def read_split(folder: Path) -> Split:
    """Reads one split's folder; large image arrays are memory-mapped, read-only."""
    path = folder / "images.npy"
    images = np.load(path, mmap_mode="r" if path.stat().st_size > _READ_WHOLE else None)
    names = (folder / "names.txt").read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1]
    columns = {p.stem: np.load(p) for p in sorted(folder.glob("*.npy")) if p.stem not in ("images", "labels")}
    split = Split(images, np.load(folder / "labels.npy"), names, columns)
    lengths = {len(images), len(split.labels), len(names), *(len(c) for c in columns.values())}
    if len(lengths) != 1:
        raise ValueError(f"arrays of different lengths {sorted(lengths)} in {folder}")
    return split


def write_manifest(folder: Path, name: str, class_names: Iterable[str], **more: Any) -> dict[str, Any]:
    """Completes the splits written in `folder`: marks exact twins, counts, hashes, writes manifest.json.

    Args:
      folder: holds one folder for each split, one of them "train".
      name: name of the data set.
      class_names: the label names in order.
      **more: further JSON values to keep in the manifest.

    Returns:
      The manifest.

    Raises:
      InputError: if there is no training split, a class without training images, or flat images.
    """
    class_names = list(class_names)
    paths = {s: folder / s for s in SPLITS if (folder / s).is_dir()}
    if "train" not in paths:
        raise InputError(f"{name}: no training images found; found splits: {', '.join(paths) or 'none'}")
    splits = {s: read_split(p) for s, p in paths.items()}
    counts = {s: np.bincount(d.labels, minlength=len(class_names)) for s, d in splits.items()}
    if empty := [c for c, n in zip(class_names, counts["train"], strict=True) if not n]:
        raise InputError(f"{name}: no training image of class {', '.join(empty)}; add some, or remove the class")
    _mark_twins(splits, paths)
    mean, std = _moments(splits["train"].images)
    if min(std) == 0:
        raise InputError(f"{name}: all training pixels of a channel are equal; is this the right data?")
    manifest = {
        "name": name,
        "class_names": class_names,
        "image_shape": list(splits["train"].images.shape[1:]),
        "counts": {s: dict(zip(class_names, c.tolist(), strict=True)) for s, c in counts.items()},
        "class_weights": dict(zip(class_names, class_weights(counts["train"]).tolist(), strict=True)),
        "mean": mean,
        "std": std,
        "columns": sorted({c for d in splits.values() for c in d.columns}),
        "sha256": _sha256(splits),
        **more,
        "ferjax_version": __version__,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def _mark_twins(splits: dict[str, Split], paths: dict[str, Path]) -> None:
    """Adds the column twin_in_train: an image with the very same pixels is in the training split.

    For a training image: another one.
    """
    keys = {s: [hashlib.blake2b(i.tobytes(), digest_size=16).digest() for i in d.images] for s, d in splits.items()}
    seen: dict[bytes, int] = {}
    for key in keys["train"]:
        seen[key] = seen.get(key, 0) + 1
    for split, data in splits.items():
        own = 1 if split == "train" else 0
        twins = np.array([seen.get(k, 0) > own for k in keys[split]], bool)
        data.columns["twin_in_train"] = twins
        np.save(paths[split] / "twin_in_train.npy", twins)


def _moments(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel on the 0..1 scale, exactly, by counting pixel values."""
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(images), 1024):
        block = images[start : start + 1024]
        counts += [np.bincount(block[..., c].ravel(), minlength=256) for c in range(images.shape[-1])]
    values = np.arange(256) / 255
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ values
    return mean.tolist(), np.sqrt(np.maximum(share @ values**2 - mean**2, 0)).tolist()


def _sha256(splits: dict[str, Split]) -> str:
    digest = hashlib.sha256()
    for name, split in splits.items():
        digest.update(f"{name} {split.images.shape}".encode())
        for start in range(0, len(split.images), 1024):
            digest.update(split.images[start : start + 1024].tobytes())
        digest.update(split.labels.tobytes())
        for column, values in sorted(split.columns.items()):
            digest.update(f"{column} {values.dtype} {values.shape}".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()


@contextmanager
def staging(data_dir: Path, name: str, *, keep_existing: bool = False) -> Iterator[Path]:
    """Gives an empty folder that becomes data_dir/name if the block ends well, and vanishes otherwise.

    Data prepared before stay in place until then.

    Args:
      data_dir: folder of all data sets.
      name: name of the data set.
      keep_existing: leave a data_dir/name that another process finished meanwhile.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    _tidy(data_dir, name)
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}.new-", dir=data_dir))
    temporary.chmod(0o755)
    try:
        yield temporary
        _publish(temporary, data_dir, name, keep_existing)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, data_dir: Path, name: str, keep_existing: bool) -> None:
    final, previous = data_dir / name, data_dir / f".{name}.previous"
    if keep_existing and (final / "manifest.json").exists():
        return
    if final.exists():
        shutil.rmtree(previous, ignore_errors=True)
        final.rename(previous)
    try:
        temporary.rename(final)
    except OSError:
        if not (keep_existing and (final / "manifest.json").exists()):
            raise
    shutil.rmtree(previous, ignore_errors=True)


def _tidy(data_dir: Path, name: str) -> None:
    """Puts back data that a kill between two renames left aside, and removes what old kills left."""
    final, previous = data_dir / name, data_dir / f".{name}.previous"
    if previous.exists() and not final.exists():
        previous.rename(final)
    for left in data_dir.glob(f".{name}.new-*"):
        if time.time() - left.stat().st_mtime > 86400:
            shutil.rmtree(left, ignore_errors=True)


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

"""Stores prepared data sets as arrays and a manifest; a data set is written atomically.

DIR/NAME/manifest.json
DIR/NAME/<split>/images.npy    uint8 (N, H, W, C); DIR/NAME/records replaces it, see `ferjax.data.records`
DIR/NAME/<split>/labels.npy    int32 (N,), index into class_names of the manifest
DIR/NAME/<split>/names.txt     one name per line
DIR/NAME/<split>/<column>.npy  (N, ...), such as votes, gender, twin_in_train
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ferjax import folders
from ferjax.data import on_disk, records
from ferjax.data.on_disk import DiskImages
from ferjax.errors import InputError

SPLITS = ("train", "validation", "test")
_READ_WHOLE = 1 << 30  # bytes; larger splits stay on disk while a data set is prepared or checked

Images = np.ndarray | DiskImages


class Split(NamedTuple):
    """One split.

    Attributes:
      images: uint8 (N, H, W, C) in memory, or `DiskImages` that indexing reads.
      labels: int32 (N,), index into `FaceData.class_names`.
      names: source file or row of each image.
      columns: further arrays (N, ...) by name.
    """

    images: Images
    labels: np.ndarray
    names: list[str]
    columns: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class FaceData:
    """A prepared data set: the loaded splits and the manifest.

    Attributes:
      name: name of the data set.
      class_names: class names, in the order of the labels.
      splits: the loaded splits by name.
      mean, std: mean and standard deviation of the training pixels per channel, on the 0..1 scale.
      sha256: hash of the images, labels and columns of all splits.
      manifest: the manifest, see `ferjax.data.manifest`.
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
        """Returns the number of images per class in a loaded split, int64 (C,)."""
        return np.bincount(self.splits[split].labels, minlength=len(self.class_names))


def class_weights(counts: np.ndarray) -> np.ndarray:
    """Returns the class weights w_c = N / (C * N_c), float64 (C,), for images per class (C,) (Paraschiv 2026, eq. 1).

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
    """Returns $FERJAX_DATA, or ~/.cache/ferjax (the XDG cache folder) if it is not set."""
    return folders.cache("FERJAX_DATA")


class SplitWriter:
    """Appends images to the folder of one split without keeping them in memory.

    A context manager: the arrays are complete when the block ends without an exception.
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
            raise ValueError(f"{name}: expected uint8 {self.image_shape}, got {image.dtype} {image.shape}")
        if "\n" in name or "\r" in name:
            raise InputError(f"the file name {name!r} contains a line break; rename the file")
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
        # NumPy pads the header for a longer first axis, so it can be rewritten in place.
        shape = (count, *self.image_shape)
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def read_split(folder: Path, *, resident_bytes: int = _READ_WHOLE) -> Split:
    """Reads the folder of one split; images of more than `resident_bytes` stay on disk."""
    in_records = (folder.parent / records.FOLDER).is_dir()
    found = records.open_split(folder.parent, folder.name) if in_records else on_disk.open_array(folder / "images.npy")
    images = found if found.nbytes > resident_bytes else found[:]
    names = (folder / "names.txt").read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1]
    columns = {p.stem: np.load(p) for p in sorted(folder.glob("*.npy")) if p.stem not in ("images", "labels")}
    split = Split(images, np.load(folder / "labels.npy"), names, columns)
    lengths = {len(images), len(split.labels), len(names), *(len(c) for c in columns.values())}
    if len(lengths) != 1:
        raise ValueError(f"arrays in {folder} differ in length: {sorted(lengths)}")
    return split


def use_records(folder: Path, class_names: Sequence[str], *, shards: int | None = None) -> None:
    """Replaces the arrays of images in the folder of a prepared data set by `ferjax.data.records`."""
    splits = {s: read_split(folder / s, resident_bytes=0) for s in SPLITS if (folder / s).is_dir()}
    records.write(folder, splits, class_names, shards=shards)
    for split in splits:
        (folder / split / "images.npy").unlink()


def resplit(folder: Path, parts: Mapping[str, np.ndarray]) -> None:
    """Divides folder/train into new splits.

    Args:
      folder: folder of the data set; of the splits in `parts`, only "train" may exist.
      parts: indices of the training images for each split, in order. Images in no split are removed.
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
    """Yields an empty folder that replaces data_dir/name when the block ends without an exception.

    Otherwise the folder is removed and data_dir/name does not change.

    Args:
      data_dir: folder of all data sets.
      name: name of the data set.
      keep_existing: keep a data_dir/name that another process has finished meanwhile.

    Raises:
      InputError: if data_dir/name exists and is not a data set, or data_dir cannot be made.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{data_dir} cannot be made ({error.strerror})"
        raise InputError(f"{reason}: give another folder with --data-dir or FERJAX_DATA") from error
    _restore(data_dir, name)
    final = data_dir / name
    if final.exists() and not (final / "manifest.json").exists():
        raise InputError(f"{final} exists and is not a prepared data set; use another name, or remove it")
    with folders.temporary_folder(final.absolute()) as temporary:
        temporary.chmod(0o755)
        yield temporary
        _publish(temporary, data_dir, name, keep_existing)


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
        except OSError:  # another process has published or restored its data
            if attempt == 4 or not temporary.exists():
                raise
    shutil.rmtree(previous, ignore_errors=True)


def _restore(data_dir: Path, name: str) -> None:
    """Restores data after a kill between the two renames of `_publish`, and removes abandoned folders."""
    final, previous = data_dir / name, data_dir / f".{name}.previous"
    with contextlib.suppress(OSError):  # another process restores them, or the folder is read-only
        if previous.exists() and not final.exists():
            previous.rename(final)
    folders.remove_abandoned(data_dir, f".{name}.new-*")


def read_manifest(data_dir: Path, name: str) -> dict[str, Any] | None:
    """Returns the manifest of data_dir/name, None if it is not prepared; raises InputError if it is damaged."""
    if data_dir.is_dir():
        _restore(data_dir, name)
    path = data_dir / name / "manifest.json"
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return dict(manifest) | {"counts": dict(manifest["counts"])}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error}); prepare {name} again") from error

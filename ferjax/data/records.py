"""Images as PNG in the array_record files of TensorFlow Datasets, of which `tfds.data_source` reads any one at a time.

DIR/NAME/records/1.0.0/   dataset_info.json, features.json, records-<split>.array_record-00000-of-00004, …

They take the place of each split's images.npy, are smaller, and hold the same pixels; TFDS knows them as "records" in
the data_dir DIR/NAME. Writing them needs TensorFlow, reading them TensorFlow Datasets alone.
"""

import contextlib
import io
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ferjax.data.on_disk import DiskImages
from ferjax.errors import InputError

FOLDER = "records"
_VERSION = "1.0.0"
_BLOCK = 256  # images whose PNG are in memory at once


def check() -> Any:
    """Returns TensorFlow Datasets if it can write.

    Raises:
      InputError: if it, or TensorFlow, is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow  # noqa: F401
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(
            f"--array-record needs TensorFlow Datasets and TensorFlow to write ({error}): pip install 'ferjax[data]'"
        ) from error
    return tfds


def write(folder: Path, splits: Mapping[str, Any], class_names: Sequence[str], *, shards: int | None = None) -> None:
    """Writes a prepared set's images once more, as records in the order of the arrays.

    Args:
      folder: of the set; there must be no records in it.
      splits: `ferjax.data.store.Split` by name, on disk or in memory.
      class_names: in the order of the label numbers.
      shards: files for each split; TFDS chooses by size if None.

    Raises:
      InputError: see `check`.
    """
    tfds = check()
    shape = next(iter(splits.values())).images.shape[1:]
    features = {
        "image": tfds.features.Image(shape=shape, encoding_format="png"),
        "label": tfds.features.ClassLabel(names=list(class_names)),
        "name": tfds.features.Text(),
    }
    with contextlib.redirect_stdout(io.StringIO()), _unwarned():  # it says that it downloads, and finds nothing yet
        tfds.disable_progress_bar()
        tfds.dataset_builders.store_as_tfds_dataset(
            FOLDER,
            _VERSION,
            tfds.features.FeaturesDict(features),
            {name: _examples(split) for name, split in splits.items()},
            data_dir=folder,
            file_format="array_record",
            disable_shuffling=True,
            download_config=tfds.download.DownloadConfig(num_shards=shards),
        )
    shutil.rmtree(folder / "downloads", ignore_errors=True)


def open_split(folder: Path, split: str) -> DiskImages:
    """Opens the records of a split without reading more than one image of each file.

    Args:
      folder: of the prepared set.
      split: its name.

    Raises:
      InputError: if TensorFlow Datasets is not installed, or a file cannot be read, naming it.
      ValueError: if what TFDS keeps about the files is missing or damaged.
    """
    tfds = _tfds()
    try:
        info = tfds.builder_from_directory(folder / FOLDER / _VERSION).info
        lengths, shape = info.splits[split].shard_lengths, info.features["image"].shape
    except Exception as error:  # TFDS has its own kinds
        raise ValueError(f"{folder / FOLDER}: {' '.join(str(error).split())}") from error
    starts = np.cumsum([0, *lengths])
    images = DiskImages(_RecordRows(folder.absolute(), split), (int(starts[-1]), *shape))
    images[starts[:-1]]
    return images


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _examples(split: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for i, image in enumerate(split.images):
        yield i, {"image": _png(image), "label": int(split.labels[i]), "name": split.names[i]}


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


class _RecordRows:
    """Reads the images of some rows, through a data source that each process opens for itself."""

    def __init__(self, folder: Path, split: str):
        self.folder, self.split = folder, split
        self._source: Any = None

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        if self._source is None:
            tfds = _tfds()
            builder = tfds.builder_from_directory(self.folder / FOLDER / _VERSION)
            self._source = builder.as_data_source(self.split, decoders={"image": tfds.decode.SkipDecoding()})
        found = np.empty((len(rows), *self._source.dataset_info.features["image"].shape), np.uint8)
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK].tolist()
            try:
                self._read(block, found[start : start + _BLOCK])
            except Exception as error:  # of array_record, of the example's encoding, or of its PNG
                raise InputError(self._damage(block, error)) from error
        return found

    def _read(self, rows: list[int], into: np.ndarray) -> None:
        for place, example in enumerate(self._source.__getitems__(rows)):
            with Image.open(io.BytesIO(example["image"])) as image:
                into[place] = np.asarray(image).reshape(into.shape[1:])

    def _damage(self, rows: list[int], error: Exception) -> str:
        """Says in which of the files the first row is that cannot be read."""
        split = self._source.dataset_info.splits[self.split]
        ends, unused = np.cumsum(split.shard_lengths), np.empty((1, *self._source.dataset_info.features["image"].shape))
        for row in rows:
            try:
                self._read([row], unused)
            except Exception as found:
                path, what = split.filepaths[np.searchsorted(ends, row, side="right")], " ".join(str(found).split())
                return f"cannot read image {row:,} from {path}; prepare it again. ({what})"
        return f"cannot always read {self.split} images in {self.folder} ({error}); check the disk"

    def __reduce__(self) -> tuple[Any, ...]:
        return _RecordRows, (self.folder, self.split)


def _tfds() -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(
            f"data prepared with --array-record are read by TensorFlow Datasets, which is not here ({error}): "
            "pip install 'ferjax[records]', which does without TensorFlow"
        ) from error
    return tfds

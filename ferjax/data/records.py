"""Stores images as PNG in the array_record files of TensorFlow Datasets (TFDS), which allow random access.

DIR/NAME/records/1.0.0/   dataset_info.json, features.json, records-<split>.array_record-00000-of-00004, …

They replace the images.npy of each split, contain the same pixels and are smaller. For TFDS they are the data set
"records" in data_dir DIR/NAME. Writing requires TensorFlow; reading requires TFDS only.
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
_BLOCK = 256  # images decoded per read


def check() -> Any:
    """Returns the module tensorflow_datasets; raises InputError if it or TensorFlow is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow  # noqa: F401
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(
            f"--array-record requires TensorFlow and TensorFlow Datasets ({error}): pip install 'ferjax[data]'"
        ) from error
    return tfds


def write(folder: Path, splits: Mapping[str, Any], class_names: Sequence[str], *, shards: int | None = None) -> None:
    """Writes the images of a prepared data set as records, in the order of the arrays.

    Args:
      folder: folder of the data set, without records.
      splits: `ferjax.data.store.Split` by name, on disk or in memory.
      class_names: class names, in the order of the labels.
      shards: files per split; TFDS chooses by size if None.

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
    with contextlib.redirect_stdout(io.StringIO()), _without_warnings():  # TFDS reports a download
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
    """Opens the records of a split and reads one image of each file as a check.

    Raises:
      InputError: if TensorFlow Datasets is not installed, or a file cannot be read, naming it.
      ValueError: if the metadata of TFDS is missing or damaged.
    """
    tfds = _import_tfds()
    try:
        info = tfds.builder_from_directory(folder / FOLDER / _VERSION).info
        lengths, shape = info.splits[split].shard_lengths, info.features["image"].shape
    except Exception as error:  # TFDS raises several types
        raise ValueError(f"{folder / FOLDER}: {' '.join(str(error).split())}") from error
    starts = np.cumsum([0, *lengths])
    images = DiskImages(_RecordRows(folder.absolute(), split), (int(starts[-1]), *shape))
    images[starts[:-1]]
    return images


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
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
    """Reads images by row from a TFDS data source; each process opens its own."""

    def __init__(self, folder: Path, split: str):
        self.folder, self.split = folder, split
        self._source: Any = None

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        if self._source is None:
            tfds = _import_tfds()
            builder = tfds.builder_from_directory(self.folder / FOLDER / _VERSION)
            self._source = builder.as_data_source(self.split, decoders={"image": tfds.decode.SkipDecoding()})
        found = np.empty((len(rows), *self._source.dataset_info.features["image"].shape), np.uint8)
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK].tolist()
            try:
                self._read(block, found[start : start + _BLOCK])
            except Exception as error:  # from array_record, the example's encoding or its PNG
                raise InputError(self._describe_damage(block, error)) from error
        return found

    def _read(self, rows: list[int], into: np.ndarray) -> None:
        for place, example in enumerate(self._source.__getitems__(rows)):
            with Image.open(io.BytesIO(example["image"])) as image:
                into[place] = np.asarray(image).reshape(into.shape[1:])

    def _describe_damage(self, rows: list[int], error: Exception) -> str:
        """Returns an error message with the file of the first unreadable row."""
        split = self._source.dataset_info.splits[self.split]
        ends, unused = np.cumsum(split.shard_lengths), np.empty((1, *self._source.dataset_info.features["image"].shape))
        for row in rows:
            try:
                self._read([row], unused)
            except Exception as found:
                path, what = split.filepaths[np.searchsorted(ends, row, side="right")], " ".join(str(found).split())
                return f"cannot read image {row:,} from {path} ({what}); prepare the data set again"
        return f"reading {self.split} images in {self.folder} failed once ({error}); check the disk"

    def __reduce__(self) -> tuple[Any, ...]:
        return _RecordRows, (self.folder, self.split)


def _import_tfds() -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(
            f"reading data prepared with --array-record requires TensorFlow Datasets ({error}): "
            "pip install 'ferjax[records]'"
        ) from error
    return tfds

"""Loads prepared data sets, and renders the synthetic faces on first use."""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ferjax.cli import note, progress
from ferjax.data import manifest, on_disk, store
from ferjax.data.datasets.sources import EXPRESSIONS
from ferjax.data.on_disk import DiskImages
from ferjax.data.prepare.decoding import decode
from ferjax.data.prepare.pipeline import DATASETS
from ferjax.data.store import FaceData, Split
from ferjax.data.synthetic import rendering
from ferjax.errors import InputError, unknown

SYNTHETIC = {"size": 48, "channels": 1, "seed": 0, "train": 3000, "validation": 700, "test": 700}

RESIDENT_BYTES = 2 << 30  # largest split that is kept in memory by default
READ_OPTIONS = ("resident_bytes", "workers")  # options of `load` that do not change the data


def load(
    name: str,
    data_dir: str | Path | None = None,
    splits: Sequence[str] = ("train", "validation"),
    *,
    resident_bytes: int = RESIDENT_BYTES,
    workers: int = 0,
    **options: Any,
) -> FaceData:
    """Loads a prepared data set or the synthetic faces.

    Args:
      name: "synthetic_faces", or the name of a prepared data set.
      data_dir: folder of prepared data; `default_data_dir()` if None.
      splits: splits to load: train, validation, test, or test_all (validation and test together).
      resident_bytes: a split with more bytes of images stays on disk, see `DiskImages`.
      workers: processes that read such a split during training, 0..64; 0 reads in the training process.
      **options: `without` is a class to leave out. For synthetic_faces: size, channels, seed, and the numbers of
        images train, validation and test. For all other data sets: size in pixels, to which images are resized when
        they are read, and channels=3, which copies gray into three channels.

    Raises:
      InputError: if the data set is not prepared, a split is missing, or an option is out of range.
    """
    for key, value, top in (("resident_bytes", resident_bytes, 1 << 60), ("workers", workers, 64)):
        if not isinstance(value, int) or not 0 <= value <= top:
            raise InputError(f"data.{key} must be a whole number in 0..{top}, got {value!r}")
    folder = Path(data_dir or store.default_data_dir())
    stored, without = name, options.pop("without", "")
    if name == "synthetic_faces":
        stored = _render(folder, options)
    facts = store.read_manifest(folder, stored)
    if facts is None:
        raise not_prepared(name, folder)
    try:
        shape = _shape(name, facts, options) if stored == name else tuple(facts["image_shape"])
        growth = math.prod(shape) / math.prod(facts["image_shape"])
        found = {split: _read(folder / stored, facts, split, int(resident_bytes / growth)) for split in splits}
        moments = tuple(facts["mean"]), tuple(facts["std"])
        faces = FaceData(name, tuple(facts["class_names"]), found, *moments, facts["sha256"], facts)
        if shape != faces.image_shape:
            faces = _convert(faces, shape)
        return _with_workers(_without_class(faces, without) if without else faces, workers)
    except InputError:
        raise
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise InputError(f"the prepared {name} in {folder / stored} is damaged ({error}); prepare it again") from error


def _without_class(faces: FaceData, class_name: str) -> FaceData:
    """Returns the data without one class; the labels of the other classes are renumbered."""
    if class_name not in faces.class_names:
        raise unknown(f"class of {faces.name}", class_name, faces.class_names)
    removed = faces.class_names.index(class_name)

    def keep(split: Split) -> Split:
        kept = np.flatnonzero(split.labels != removed)
        labels, images = split.labels[kept], split.images
        return Split(
            images.choose(kept) if isinstance(images, DiskImages) else images[kept],
            labels - (labels > removed).astype(labels.dtype),
            [split.names[i] for i in kept],
            {name: column[kept] for name, column in split.columns.items()},
        )

    names = tuple(name for name in faces.class_names if name != class_name)
    splits = {name: keep(split) for name, split in faces.splits.items()}
    return dataclasses.replace(faces, class_names=names, splits=splits)


def _shape(name: str, facts: dict[str, Any], options: dict[str, Any]) -> tuple[int, int, int]:
    """Returns the requested shape (height, width, channels)."""
    for key in options:
        if key not in ("size", "channels"):
            raise unknown(f"option of {name}", key, ("size", "channels"))
    height, width, stored = facts["image_shape"]
    channels = options.get("channels", stored)
    if channels not in (1, 3) or isinstance(channels, bool):
        raise InputError(f"data.channels must be 1 or 3, got {channels!r}")
    if channels not in (3, stored):
        raise InputError(f"data.channels=1: {name} is stored in color; prepare it again with --channels 1")
    if "size" not in options:
        return height, width, channels
    size = options["size"]
    if not isinstance(size, int) or not 8 <= size <= 1024:
        raise InputError(f"data.size must be a whole number of pixels in 8..1024, got {size!r}")
    return size, size, channels


def _convert(faces: FaceData, shape: tuple[int, int, int]) -> FaceData:
    """Returns the data at another size or with gray copied into three channels."""
    size, _, channels = shape
    resize = functools.partial(_resized, size=size, channels=channels)

    def convert(split: Split) -> Split:
        if isinstance(split.images, DiskImages):
            return split._replace(images=split.images.convert(resize, shape))
        images = np.empty((len(split.labels), *shape), np.uint8)
        for i, image in enumerate(split.images):
            images[i] = resize(image)
        return split._replace(images=images)

    copies = channels // len(faces.mean)
    return dataclasses.replace(
        faces,
        splits={name: convert(split) for name, split in faces.splits.items()},
        mean=faces.mean * copies,
        std=faces.std * copies,
        manifest={**faces.manifest, "image_shape": list(shape)},
    )


def _resized(image: np.ndarray, *, size: int, channels: int) -> np.ndarray:
    return decode(image, size, channels).image


def _with_workers(faces: FaceData, workers: int) -> FaceData:
    def replace(split: Split) -> Split:
        images = split.images
        if not isinstance(images, DiskImages):
            return split
        return split._replace(images=dataclasses.replace(images, workers=workers))

    return dataclasses.replace(faces, splits={name: replace(split) for name, split in faces.splits.items()})


def not_prepared(name: str, data_dir: Path) -> InputError:
    """Returns the error for a data set that is not in `data_dir`, with the commands that help."""
    if name not in DATASETS:
        wrong = unknown("data set", name, dict.fromkeys([*DATASETS, *prepared(data_dir), "synthetic_faces"]))
        return InputError(f"{wrong} Prepared sets are read from {data_dir}; --data-dir gives another folder")
    return InputError(
        f"{name} is not prepared in {data_dir}: {DATASETS[name].GET}, then run {DATASETS[name].PREPARE}. "
        "To run a config on the embedded data without a download, append :demo (configs/resnet20.py:demo)"
    )


def groups(name: str) -> Mapping[str, tuple[str, ...]]:
    """Returns a data set's demographic groups: column of `Split` -> names of its values 0, 1, …; {} if none."""
    return getattr(DATASETS.get(name), "GROUPS", {})


def prepared(data_dir: str | Path | None = None) -> list[str]:
    """Returns the names of the data sets prepared in `data_dir`."""
    folder = Path(data_dir or store.default_data_dir())
    return sorted(p.parent.name for p in folder.glob("[!.]*/manifest.json") if "synthetic_faces-" not in p.parent.name)


def _read(folder: Path, facts: dict[str, Any], split: str, resident_bytes: int) -> Split:
    if split == "test_all":
        return _concatenate(*(_read(folder, facts, part, resident_bytes) for part in ("validation", "test")))
    if split not in store.SPLITS:
        raise unknown("split", split, [*store.SPLITS, "test_all"])
    if split not in facts["counts"]:
        how = facts.get("missing", {}).get(split, "prepare it from a source that has the split")
        have = ", ".join(facts["counts"])
        raise InputError(f"{facts['name']} was prepared without a {split} split (it has {have}); to get it, {how}")
    data = store.read_split(folder / split, resident_bytes=resident_bytes)
    if len(data.labels) != sum(facts["counts"][split].values()):
        raise ValueError(
            f"{split} holds {len(data.labels):,} images, the manifest lists {sum(facts['counts'][split].values()):,}"
        )
    return data


def _concatenate(a: Split, b: Split) -> Split:
    columns = {k: np.concatenate([a.columns[k], b.columns[k]]) for k in a.columns if k in b.columns}
    parts = [a.images, b.images]
    on_disk_only = any(isinstance(part, DiskImages) for part in parts)
    images = on_disk.concatenate(parts) if on_disk_only else np.concatenate(parts)
    return Split(images, np.concatenate([a.labels, b.labels]), a.names + b.names, columns)


def _render(data_dir: Path, options: dict[str, Any]) -> str:
    """Renders the synthetic faces if they are not in the cache, and returns the name of their folder."""
    for key in options:
        if key not in SYNTHETIC:
            raise unknown("option of synthetic_faces", key, SYNTHETIC)
    options = SYNTHETIC | options
    _check_options(options)
    # The folder name includes a hash of the drawing code, so that a change of it invalidates the cache.
    here = Path(rendering.__file__).parent
    parts = ("action_units", "drawing", "geometry", "rendering")
    code = b"".join((here / f"{part}.py").read_bytes() for part in parts)
    key = hashlib.sha256(json.dumps(options, sort_keys=True).encode() + code).hexdigest()[:12]
    name = f"synthetic_faces-{key}"
    if store.read_manifest(data_dir, name) is not None:
        return name
    note(f"rendering {sum(options[s] for s in store.SPLITS):,} synthetic faces (once)")
    shape = (options["size"], options["size"], options["channels"])
    render = {k: options[k] for k in ("seed", "size", "channels")}
    with store.staging(data_dir, name, keep_existing=True) as folder:
        for split in store.SPLITS:
            labels = np.arange(options[split], dtype=np.int32) % len(EXPRESSIONS)
            with store.SplitWriter(folder / split, shape) as writer:
                faces = rendering.render_faces(labels, split=split, **render)
                for i, image in enumerate(progress(faces, what=split, total=len(labels))):
                    writer.add(image, int(labels[i]), f"{split}_{i:06d}", {})
        manifest.complete(folder, "synthetic_faces", EXPRESSIONS, options=options)
    return name


def _check_options(options: dict[str, Any]) -> None:
    for key, value in options.items():
        low = {"size": 24, "seed": 0, "channels": 1}.get(key, len(EXPRESSIONS))
        if not isinstance(value, int) or value < low or (key == "channels" and value not in (1, 3)):
            accepted = "1 or 3" if key == "channels" else f"an integer of at least {low}"
            raise InputError(f"synthetic_faces: {key} must be {accepted}, got {value!r}")

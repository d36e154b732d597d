"""Writes the manifest of a prepared data set: counts, moments, duplicates and a hash of its arrays."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ferjax import __version__
from ferjax.data import store
from ferjax.data.on_disk import DiskImages
from ferjax.data.prepare import duplicates
from ferjax.data.store import Split
from ferjax.errors import InputError


def complete(folder: Path, name: str, class_names: Iterable[str], **more: Any) -> dict[str, Any]:
    """Marks exact duplicates of training images in the splits of `folder`; writes and returns manifest.json.

    Args:
      folder: contains one folder per split, one of them "train".
      name: name of the data set.
      class_names: class names, in the order of the labels.
      **more: further JSON values for the manifest.

    Raises:
      InputError: if there is no training split, a class has no training image, or a channel is constant.
    """
    class_names = list(class_names)
    splits = {s: store.read_split(folder / s) for s in store.SPLITS if (folder / s).is_dir()}
    if "train" not in splits:
        raise InputError(f"{name}: no training images; found splits: {', '.join(splits) or 'none'}")
    counts = {s: np.bincount(d.labels, minlength=len(class_names)) for s, d in splits.items()}
    if empty := [c for c, n in zip(class_names, counts["train"], strict=True) if not n]:
        raise InputError(f"{name}: no training image of class {', '.join(empty)}; add images or remove the class")
    mean, std = _moments(splits["train"].images)
    if min(std) == 0:
        raise InputError(f"{name}: all training pixels of a channel are equal; check the source images")
    groups = duplicates.exact_groups(splits)
    for split, marks in duplicates.in_train(groups, splits).items():
        splits[split].columns["twin_in_train"] = marks
        np.save(folder / split / "twin_in_train.npy", marks)
    manifest = {
        "name": name,
        "class_names": class_names,
        "image_shape": list(splits["train"].images.shape[1:]),
        "counts": {s: dict(zip(class_names, c.tolist(), strict=True)) for s, c in counts.items()},
        "class_weights": dict(zip(class_names, store.class_weights(counts["train"]).tolist(), strict=True)),
        "mean": mean,
        "std": std,
        "columns": sorted({c for d in splits.values() for c in d.columns}),
        "exact_duplicates": duplicates.summary(groups, splits),
        "sha256": _sha256(splits),
        **more,
        "ferjax_version": __version__,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def table(manifest: dict[str, Any]) -> str:
    """Returns a text table of the counts per class and split, and the class weights."""
    counts, names = manifest["counts"], manifest["class_names"]
    rows = [["class", *counts, "weight"]]
    rows += [[c, *(f"{n[c]:,}" for n in counts.values()), f"{manifest['class_weights'][c]:.3f}"] for c in names]
    rows += [["all", *(f"{sum(n.values()):,}" for n in counts.values()), ""]]
    width = max(len(r[0]) for r in rows)
    return "\n".join((f"{r[0]:<{width}}" + "".join(f"{v:>12}" for v in r[1:])).rstrip() for r in rows)


def _moments(images: np.ndarray | DiskImages) -> tuple[list[float], list[float]]:
    """Returns the exact mean and standard deviation per channel on the 0..1 scale."""
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

"""Collects the properties of a model file other than speed: spec, size, operations, accuracy."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ferjax import cli, errors, metadata, runtime
from ferjax import spec as specs
from ferjax.evaluate import intervals
from ferjax.evaluate.benchmark import graphs
from ferjax.spec import ModelSpec

Where = pathlib.Path | str | None


def read_spec(path: pathlib.Path) -> ModelSpec | None:
    """Returns the spec of a file, None if it has none."""
    return None if metadata.read(path) is None else specs.read(path)


def macs(spec: ModelSpec) -> int | None:
    """Returns the multiply-accumulate operations for one image, from the spec or counted; None without jax."""
    if spec.macs:
        return spec.macs
    try:
        from ferjax import models
        from ferjax.models import costs
    except ImportError:
        return None
    if spec.architecture not in models.list_models():
        return None
    module = models.create(spec.architecture, num_classes=len(spec.class_names), **spec.architecture_args)
    return costs.cost(module, spec.input_shape).macs


def load_images(spec: ModelSpec, data_dir: Where, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of the validation split of the training data.

    Args:
      spec: the spec of the file.
      data_dir: folder of prepared data.
      limit: number of images, evenly spaced in the split; None for all.

    Raises:
      InputError: if the data is not prepared, or has other classes or another image shape.
    """
    from ferjax import data

    faces = data.load(spec.dataset, data_dir=data_dir, splits=("validation",), **spec.dataset_args)
    if tuple(faces.class_names) != spec.class_names or faces.image_shape != spec.input_shape:
        raise errors.InputError(
            f"{faces.name} has images of shape {faces.image_shape} and the classes {', '.join(faces.class_names)}; "
            f"the file takes {spec.input_shape} and {', '.join(spec.class_names)}"
        )
    split = faces.splits["validation"]
    count = len(split.labels)
    chosen = np.linspace(0, count - 1, min(limit or count, count)).round().astype(int)
    return split.images[chosen], split.labels[chosen]


def accuracy(path: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Returns `accuracy`, `accuracy_low`, `accuracy_high` (95 %, Wilson), in 0..1, and the number of `images`."""
    model = runtime.load(path)
    right = int((model.logits(model.spec.from_rgb(images)).argmax(1) == labels).sum())
    share = intervals.wilson(right, len(labels))
    return {"accuracy": share.value, "accuracy_low": share.low, "accuracy_high": share.high, "images": len(labels)}


def score(
    specs: Mapping[pathlib.Path, ModelSpec | None], data_dir: Where, limit: int | None
) -> dict[pathlib.Path, dict[str, Any]]:
    """Measures the accuracy of every file; where that fails, prints a note with the reason."""
    found: dict[pathlib.Path, dict[str, Any]] = {}
    loaded: dict[Any, tuple[np.ndarray, np.ndarray]] = {}
    noted = set()
    for path, spec in specs.items():
        if spec is None:
            continue
        key = (spec.dataset, repr(spec.dataset_args), spec.class_names, spec.input_shape)
        try:
            if key not in loaded:
                loaded[key] = load_images(spec, data_dir, limit)
            found[path] = accuracy(path, *loaded[key])
        except (errors.InputError, ImportError) as error:
            if str(error) not in noted:
                cli.note(f"no accuracy for {path.name}: {error}")
            noted.add(str(error))
    return found


def facts(specs: Mapping[pathlib.Path, ModelSpec | None]) -> dict[pathlib.Path, dict[str, Any]]:
    """Returns, for each file, bytes, architecture, quantization, parameters, MACs and numbers of nodes."""
    table: dict[pathlib.Path, dict[str, Any]] = {}
    for path, spec in specs.items():
        before, after = graphs.node_counts(path)
        table[path] = {
            "bytes": path.stat().st_size,
            "architecture": spec.architecture if spec else "",
            "quantization": spec.quantization if spec else "",
            "parameters": (spec.parameters or None) if spec else None,
            "macs": macs(spec) if spec else None,
            "nodes": before,
            "nodes_optimised": after,
        }
    return table

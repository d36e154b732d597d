"""What is known of a file beside its speed: its contract, its work, and how often it is right."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ferjax import cli, errors, metadata, runtime
from ferjax import spec as contract
from ferjax.evaluate import intervals
from ferjax.evaluate.benchmark import graphs
from ferjax.spec import ModelSpec

Where = pathlib.Path | str | None


def read_spec(path: pathlib.Path) -> ModelSpec | None:
    """Returns the contract of a file, None for a reference file that carries none."""
    return None if metadata.read(path) is None else contract.read(path)


def macs(spec: ModelSpec) -> int | None:
    """Returns the multiply-accumulate operations for one image: as stored, or counted where jax is installed."""
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
    """Returns images and labels of the validation split that a file's contract names.

    Args:
      spec: of the file.
      data_dir: where prepared data lies.
      limit: take this many images, evenly spread over the split; None for all.

    Raises:
      InputError: if the data is not prepared, or has other classes or another image shape.
    """
    from ferjax import data

    faces = data.load(spec.dataset, data_dir=data_dir, splits=("validation",), **spec.dataset_args)
    if tuple(faces.class_names) != spec.class_names or faces.image_shape != spec.input_shape:
        raise errors.InputError(f"{faces.name} has other classes or images of another size than the file takes")
    split = faces.splits["validation"]
    count = len(split.labels)
    chosen = np.linspace(0, count - 1, min(limit or count, count)).round().astype(int)
    return split.images[chosen], split.labels[chosen]


def accuracy(path: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Scores a file on the CPU, on images as `load_images` gives them.

    Returns:
      `accuracy`, `accuracy_low` and `accuracy_high` (95 %, Wilson) in 0..1, and `images`, their number.
    """
    model = runtime.load(path)
    right = int((model.logits(model.spec.from_rgb(images)).argmax(1) == labels).sum())
    share = intervals.wilson(right, len(labels))
    return {"accuracy": share.value, "accuracy_low": share.low, "accuracy_high": share.high, "images": len(labels)}


def score(
    specs: Mapping[pathlib.Path, ModelSpec | None], data_dir: Where, limit: int | None
) -> dict[pathlib.Path, dict[str, Any]]:
    """Scores every file whose data is prepared here; one line says why another has no accuracy."""
    found: dict[pathlib.Path, dict[str, Any]] = {}
    loaded: dict[Any, tuple[np.ndarray, np.ndarray]] = {}
    told = set()
    for path, spec in specs.items():
        if spec is None:
            continue
        key = (spec.dataset, repr(spec.dataset_args), spec.class_names, spec.input_shape)
        try:
            if key not in loaded:
                loaded[key] = load_images(spec, data_dir, limit)
            found[path] = accuracy(path, *loaded[key])
        except (errors.InputError, ImportError) as error:
            if str(error) not in told:
                cli.note(f"no accuracy for {path.name}: {error}")
            told.add(str(error))
    return found


def facts(specs: Mapping[pathlib.Path, ModelSpec | None]) -> dict[pathlib.Path, dict[str, Any]]:
    """Returns size and work of each file: `bytes`, `parameters`, `macs`, `nodes`, `nodes_optimised`."""
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

"""Opens a checkpoint or an exported file as a function of images, and loads the split to evaluate it on."""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ferjax import cli, data, errors, runtime, weights
from ferjax.evaluate import inference
from ferjax.spec import ModelSpec
from ferjax.weights import checkpoint

SPLITS = ("train", "validation", "test", "test_all")
FILES = (".tflite", ".onnx")
_BLOCK = 256


class Scorer(NamedTuple):
    """A trained model as a function.

    Attributes:
      name: the argument of --model.
      spec: the spec of the model.
      logits: uint8 images (N, H, W, C) -> float32 logits (N, classes).
      step: optimizer steps of a checkpoint, None for a file.
    """

    name: str
    spec: ModelSpec
    logits: Callable[[data.Images], np.ndarray]
    step: int | None = None


def open_model(model: pathlib.Path | str, *, kind: str = "best", batch_size: int = 256) -> Scorer:
    """Opens a workdir, a .safetensors file or an exported file.

    Args:
      model: the workdir, or a .safetensors, .tflite or .onnx file.
      kind: "best" or "last" checkpoint of a run.
      batch_size: images per forward pass of a checkpoint.

    Raises:
      InputError: if the model does not exist or cannot be read.
    """
    path = pathlib.Path(model)
    if path.suffix.lower() in FILES:
        loaded = runtime.load(path, threads=os.cpu_count() or 1)
        return Scorer(str(model), loaded.spec, functools.partial(_file_logits, loaded))
    network, meta = checkpoint.read(path, kind) if path.is_dir() else (weights.load(path), {})
    step = int(meta["step"]) if meta else None
    return Scorer(str(model), network.spec, inference.make_predict(network, batch_size=batch_size), step)


def _file_logits(model: runtime.Model, images: data.Images) -> np.ndarray:
    """Returns the logits (N, classes) of an exported file for uint8 images (N, H, W, C), gray or RGB."""
    blocks = cli.progress(range(0, max(len(images), 1), _BLOCK), what="scoring")
    parts = [model.logits(model.spec.from_rgb(np.asarray(images[i : i + _BLOCK]))) for i in blocks]
    return np.concatenate(parts)


def load_split(
    spec: ModelSpec, split: str, *, dataset: str | None = None, data_dir: pathlib.Path | str | None = None
) -> data.Split:
    """Loads one split of a data set, its labels and votes mapped to the classes of the model.

    Args:
      spec: the spec of the model.
      split: one of SPLITS.
      dataset: a prepared data set (default: the training data of the model).
      data_dir: folder of prepared data.

    Raises:
      InputError: if the split or the data set is unknown, or does not fit the model.
    """
    if split not in SPLITS:
        raise errors.unknown("split", split, SPLITS)
    same = dataset is None or dataset == spec.dataset
    options = spec.dataset_args if same else {}
    faces = data.load(dataset or spec.dataset, data_dir=data_dir, splits=(split,), **options)
    places = check_fit(spec, faces)
    if same and spec.dataset_sha256 and faces.sha256 != spec.dataset_sha256:
        cli.note(
            f"{faces.name} has changed since the model was trained; if its splits changed too, the {split} split may "
            "contain training images"
        )
    chosen = faces.splits[split]
    columns = chosen.columns
    if "votes" in columns:
        votes = np.zeros((len(chosen.labels), len(spec.class_names)), np.float32)
        votes[:, places] = columns["votes"]
        columns = {**columns, "votes": votes}
    return chosen._replace(labels=places[chosen.labels], columns=columns)


def left_out(
    spec: ModelSpec, split: str, *, dataset: str | None = None, data_dir: pathlib.Path | str | None = None
) -> dict[str, np.ndarray]:
    """Returns {class name: images} of the class that `data.without` left out of training; {} if there is none."""
    absent = spec.dataset_args.get("without", "")
    if not absent or dataset not in (None, spec.dataset):
        return {}
    options = {key: value for key, value in spec.dataset_args.items() if key != "without"}
    faces = data.load(spec.dataset, data_dir=data_dir, splits=(split,), **options)
    chosen = faces.splits[split]
    found = chosen.images[chosen.labels == faces.class_names.index(absent)]
    return {absent: found} if len(found) else {}


def check_fit(spec: ModelSpec, faces: data.FaceData) -> np.ndarray:
    """Checks that a model can be evaluated on a data set.

    Returns:
      int32 (C,): the class index of the model for each class of the data, matched by name.

    Raises:
      InputError: if the model lacks a class of the data, or takes images of another shape.
    """
    if missing := [name for name in faces.class_names if name not in spec.class_names]:
        raise errors.InputError(
            f"{faces.name} has {', '.join(missing)}, which the model lacks; its classes: {', '.join(spec.class_names)}"
        )
    if extra := [name for name in spec.class_names if name not in faces.class_names]:
        cli.note(f"{faces.name} lacks {', '.join(extra)}: these predictions count as wrong")
    if faces.image_shape != spec.input_shape:
        raise errors.InputError(
            f"the model takes images of shape {spec.input_shape}, {faces.name} has {faces.image_shape}: "
            "prepare the data with this --size and --channels"
        )
    return np.array([spec.class_names.index(name) for name in faces.class_names], np.int32)

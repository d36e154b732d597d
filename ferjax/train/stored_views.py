"""Stores augmented views of the training images with a teacher's logits, to run an expensive teacher only once.

On two cores, the forward pass of a teacher takes several times as long as the step of a small student. Therefore the
run's augmentation draws K views of each image, rounded to 8 bits, and the teacher's logits are stored with them in half
precision. Epoch e trains on view (image + e) mod K without further augmentation. The student sees each image in at most
K versions. All seeds share the views. Camera faults are part of the views, unless the teacher sees clean images: then
the student's images get new faults at each step.

If the images stay on disk, or the views take more than `data.resident_bytes`, the views stay on disk. The logits, 2 · K
· classes bytes per image, are always in memory.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from ferjax import augment as augmentation
from ferjax import errors, folders
from ferjax.data import RESIDENT_BYTES, FaceData, on_disk
from ferjax.data.on_disk import DiskImages
from ferjax.train.state import Arrays
from ferjax.train.step import Outputs, Task, Teacher

SEED = 0x71E3


def check(groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises InputError for settings that stored views exclude: mixup, cutmix and `loss.features`."""
    augment = groups["augment"]
    for key in ("mixup", "cutmix"):
        if augment.get(key):
            raise errors.InputError(f"augment.{key} must be 0 with teacher.stored_views, got {augment[key]}")
    if groups["loss"].get("features"):
        raise errors.InputError("loss.features requires teacher.stored_views=0")


def taught_arrays(
    train: Arrays,
    task: Task,
    *,
    groups: Mapping[str, Mapping[str, Any]],
    faces: FaceData,
    data_dir: pathlib.Path,
) -> tuple[dict[str, Any], Task]:
    """Returns all views of the training arrays with the teacher's logits, and the task that learns from them.

    Args:
      train: {"images": …, "labels": …, "columns": {name: …}}.
      task: its augmentation and teacher compute missing views.
      groups: the configuration; the name of the views' folder depends on it.
      faces: the data.
      data_dir: parent of the views' folder.
    """
    teacher, augment = task.teacher, task.augment
    assert teacher is not None and augment is not None
    faulty = task.camera is not None and not teacher.clean
    dtype, tta = groups["model"].get("dtype", "float32"), groups["teacher"].get("tta", "one")
    uncalibrated = [each.replace(temperature=1.0, abstention_threshold=0.0) for each in teacher.specs]
    name = _folder_name(
        data=[faces.name, faces.sha256, faces.image_shape],
        classes=faces.class_names,
        augment=groups["augment"],
        teacher=[[each.params_sha256, each.to_json()] for each in uncalibrated],  # logits do not depend on calibration
        resize=groups["teacher"].get("resize", False),
        # omitted at their defaults, so that views of older versions keep their name
        **({} if dtype == "float32" else {"dtype": dtype}),
        **({} if tta == "one" else {"tta": tta}),
        **({"camera": groups["camera"]} if faulty else {}),
    )
    resident_bytes = groups["data"].get("resident_bytes", RESIDENT_BYTES)
    draw = _then(augment, task.camera if faulty else None)
    pixels, logits = store(train["images"], teacher, draw, folder=data_dir / name, resident_bytes=resident_bytes)

    def repeated(values: Any) -> np.ndarray:
        return np.concatenate([np.asarray(values)] * teacher.stored_views)

    columns = {name: repeated(values) for name, values in train.get("columns", {}).items()}
    stored = teacher._replace(apply=answer, variables=())
    task = task._replace(augment=None, camera=None if faulty else task.camera, teacher=stored)
    arrays = {"images": pixels, "labels": repeated(train["labels"]), "columns": columns, "teacher_logits": logits}
    return arrays, task


def _then(augment: augmentation.Augment, camera: Callable[..., jax.Array] | None) -> augmentation.Augment:
    """Returns the augmentation followed by the faults of a camera, if there is one."""
    if camera is None:
        return augment

    def both(key: jax.Array, batch: augmentation.Batch) -> augmentation.Batch:
        batch = augment(key, batch)
        return {**batch, "images": camera(key, batch["images"])}

    return both


def store(
    images: np.ndarray | DiskImages,
    teacher: Teacher,
    augment: augmentation.Augment,
    *,
    folder: pathlib.Path,
    batch_size: int = 256,
    resident_bytes: int,
) -> tuple[np.ndarray | DiskImages, np.ndarray]:
    """Draws the missing views of a folder and returns all of them.

    Args:
      images: uint8 (N, H, W, C), in memory or on disk.
      teacher: has the number K of views.
      augment: (key, batch) -> batch; augments each image independently.
      folder: folder of the views.
      batch_size: images per pass.
      resident_bytes: larger views stay on disk, as do those of images on disk.

    Returns:
      Pixels uint8 (K · N, H, W, C), view after view, and logits float16 (K · N, classes).

    Raises:
      InputError: if a file is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folders.remove_abandoned(folder, ".view*.part*.npy")
    paths = [folder / f"view{number:03d}.npy" for number in range(teacher.stored_views)]
    draw = _drawer(teacher, augment)
    for number, path in enumerate(paths):
        if not path.exists():
            title = f"view {number + 1} of {len(paths)}"
            _write_view(path, images, draw, jax.random.fold_in(jax.random.key(SEED), number), batch_size, title)
    try:
        found = on_disk.concatenate([on_disk.open_array(path) for path in paths])
        answers = np.concatenate([np.load(_logits(path)) for path in paths])
    except (OSError, ValueError, EOFError) as error:
        raise errors.InputError(f"the stored views in {folder} are damaged ({error}); remove that folder") from error
    if isinstance(images, DiskImages):
        return dataclasses.replace(found, workers=images.workers), answers
    return (found if found.nbytes > resident_bytes else found[:]), answers


def _drawer(teacher: Teacher, augment: augmentation.Augment) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Returns (pixels, key) -> (augmented pixels uint8, teacher's logits float16)."""

    @jax.jit
    def draw(variables: Any, pixels: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        targets = jnp.zeros((len(pixels), 1), jnp.float32)
        drawn = augment(key, {"images": augmentation.to_float(pixels), "targets": targets})["images"]
        stored = jnp.round(255.0 * jnp.clip(drawn, 0.0, 1.0)).astype(jnp.uint8)
        return stored, teacher.apply(variables, {"images": augmentation.to_float(stored)}).logits.astype(jnp.float16)

    return functools.partial(draw, teacher.variables)


def _write_view(
    path: pathlib.Path,
    images: np.ndarray | DiskImages,
    draw: Callable[..., tuple[jax.Array, jax.Array]],
    key: jax.Array,
    batch_size: int,
    title: str,
) -> None:
    """Writes the pixels of one view batch by batch, then its logits."""
    logits, part = [], _part(path)
    try:
        with part.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": images.shape}
            np.lib.format.write_array_header_1_0(file, header)
            for start in tqdm.trange(0, len(images), batch_size, desc=title, disable=None):
                batch = np.asarray(images[start : start + batch_size])
                padding = [(0, min(batch_size, len(images)) - len(batch))] + [(0, 0)] * 3
                stored, answers = draw(np.pad(batch, padding), jax.random.fold_in(key, start))
                file.write(np.asarray(stored)[: len(batch)].tobytes())
                logits.append(np.asarray(answers)[: len(batch)])
        np.save(_part(_logits(path)), np.concatenate(logits))
        os.replace(_part(_logits(path)), _logits(path))
        os.replace(part, path)  # last: its existence marks a complete view
    finally:
        for left in (part, _part(_logits(path))):
            left.unlink(missing_ok=True)


def _logits(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.stem}_logits.npy")


def _part(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f".{path.stem}.part{os.getpid()}.npy")


def answer(_: Any, example: Mapping[str, jax.Array]) -> Outputs:
    """Returns the stored logits of a batch; the `Teacher.apply` of a run on stored views."""
    return Outputs(example["teacher_logits"].astype(jnp.float32), {})


def _folder_name(**what: Any) -> str:
    """Returns the folder name for views that depend on the given JSON values."""
    return f"views-{hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]}"

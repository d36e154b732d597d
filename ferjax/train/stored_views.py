"""Views of the training images, drawn once, with a teacher's answers to them beside: for teachers that cost too much.

A distillation step that asks its teacher anew for every batch sees fresh augmentation for ever. On two cores a teacher,
and an ensemble more so, costs several times the step of a small student. So K views of each image are drawn by the
run's augmentation, rounded to 8 bits, shown to the teacher and kept with its logits in half precision; training then
takes them in turn, view (image + epoch) mod K in each epoch, and augments no further. It is exact about these pixels,
and it is not the same as fresh augmentation: no image is ever seen in more than K ways. All seeds share the views.

A view is written as it is drawn. Where the images stay on disk, or the views together take more than
`data.resident_bytes`, the views stay on disk too and are read while training; the logits, 2 · K · classes bytes an
image, are always in memory.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from ferjax import augment as augmentation
from ferjax import errors, folders
from ferjax.data import on_disk
from ferjax.data.on_disk import DiskImages
from ferjax.train import sampling
from ferjax.train.sampling import OrderOf
from ferjax.train.step import Outputs, TeacherFn

SEED = 0x71E3


def check(groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks that a configuration's groups can be trained on stored views.

    Raises:
      InputError: if images are mixed with each other, intermediates are learned from, or a column of targets is.
    """
    augment = groups["augment"]
    for key in ("mixup", "cutmix"):
        if augment.get(key):
            raise errors.InputError(f"augment.{key} mixes the images of a batch, whose answers are stored: set it to 0")
    for group, key in (("loss", "features"), ("fit", "targets")):
        if groups[group].get(key):
            raise errors.InputError(f"{group}.{key} needs the teacher in the step: set teacher.stored_views to 0")


def store(
    images: np.ndarray | DiskImages,
    *,
    views: int,
    teacher: TeacherFn,
    teacher_variables: Any,
    augment: augmentation.Augment,
    folder: pathlib.Path,
    batch_size: int = 256,
    resident_bytes: int,
) -> tuple[np.ndarray | DiskImages, np.ndarray]:
    """Draws the views that are not in the folder yet, and returns all of them.

    Args:
      images: uint8 (N, H, W, C), in memory or on disk.
      views: K.
      teacher: see `training.make_train_step`.
      teacher_variables: its variables.
      augment: (key, batch) -> batch; draws each image by itself.
      folder: of this data, augmentation and teacher, see `folder_name`.
      batch_size: images per pass.
      resident_bytes: views that take more stay on disk, as those of images on disk do.

    Returns:
      Pixels uint8 (K · N, H, W, C), view after view, and logits float16 (K · N, classes).

    Raises:
      InputError: if a file of views is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folders.remove_left(folder, ".view*.part*.npy")

    @jax.jit
    def draw(variables: Any, pixels: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        targets = jnp.zeros((len(pixels), 1), jnp.float32)
        drawn = augment(key, {"images": augmentation.to_float(pixels), "targets": targets})["images"]
        stored = jnp.round(255.0 * jnp.clip(drawn, 0.0, 1.0)).astype(jnp.uint8)
        return stored, teacher(variables, {"images": augmentation.to_float(stored)}).logits.astype(jnp.float16)

    paths = [folder / f"view{number:03d}.npy" for number in range(views)]
    for number, path in enumerate(paths):
        if path.exists():
            continue
        logits, part = [], _part(path)
        key = jax.random.fold_in(jax.random.key(SEED), number)
        try:
            with part.open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": images.shape}
                np.lib.format.write_array_header_1_0(file, header)
                for start in tqdm.trange(
                    0, len(images), batch_size, desc=f"view {number + 1} of {views}", disable=None
                ):
                    batch = np.asarray(images[start : start + batch_size])
                    padding = [(0, min(batch_size, len(images)) - len(batch))] + [(0, 0)] * 3
                    stored, answers = draw(teacher_variables, np.pad(batch, padding), jax.random.fold_in(key, start))
                    file.write(np.asarray(stored)[: len(batch)].tobytes())
                    logits.append(np.asarray(answers)[: len(batch)])
            np.save(_part(_logits(path)), np.concatenate(logits))
            os.replace(_part(_logits(path)), _logits(path))
            os.replace(part, path)  # last: it says that the view is whole
        finally:
            for left in (part, _part(_logits(path))):
                left.unlink(missing_ok=True)
    try:
        found = on_disk.join([on_disk.open_array(path) for path in paths])
        answers = np.concatenate([np.load(_logits(path)) for path in paths])
    except (OSError, ValueError, EOFError) as error:
        raise errors.InputError(f"the stored views in {folder} are damaged ({error}); remove that folder") from error
    if isinstance(images, DiskImages):
        return dataclasses.replace(found, workers=images.workers), answers
    return (found if found.nbytes > resident_bytes else found[:]), answers


def _logits(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.stem}_logits.npy")


def _part(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f".{path.stem}.part{os.getpid()}.npy")


def answer(_: Any, example: Mapping[str, jax.Array]) -> Outputs:
    """The teacher of a run on stored views: reads its logits from the batch."""
    return Outputs(example["teacher_logits"].astype(jnp.float32), {})


def folder_name(**what: Any) -> str:
    """Returns a name for the views of what is given: data, augmentation and teachers, as JSON-able values."""
    return f"views-{hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]}"


def chosen(order_of: OrderOf, views: int) -> OrderOf:
    """Returns epoch -> places among all views, from epoch -> order of the images; see `sampling.view_order`."""
    return functools.partial(sampling.view_order, order_of, views)

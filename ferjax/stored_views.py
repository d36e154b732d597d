"""Views of the training images, drawn once, with a teacher's answers to them beside: for teachers that cost too much.

A distillation step that asks its teacher anew for every batch sees fresh augmentation for ever. On two cores a teacher,
and an ensemble more so, costs several times the step of a small student. So K views of each image are drawn by the
run's augmentation, rounded to 8 bits, shown to the teacher and kept with its logits in half precision; training then
takes them in turn, view (image + epoch) mod K in each epoch, and augments no further. It is exact about these pixels,
and it is not the same as fresh augmentation: no image is ever seen in more than K ways. All seeds share the views.
"""

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
from ferjax import cli
from ferjax.sampling import OrderOf
from ferjax.training import Outputs, TeacherFn

SEED = 0x71E3


def check(groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks that a configuration's groups can be trained on stored views.

    Raises:
      InputError: if images are mixed with each other, intermediates are learned from, or a column of targets is.
    """
    augment = groups["augment"]
    for key in ("mixup", "cutmix"):
        if augment.get(key):
            raise cli.InputError(f"augment.{key} mixes the images of a batch, whose answers are stored: set it to 0")
    for group, key in (("loss", "features"), ("fit", "targets")):
        if groups[group].get(key):
            raise cli.InputError(f"{group}.{key} needs the teacher in the step: set teacher.stored_views to 0")


def store(
    images: np.ndarray,
    *,
    views: int,
    teacher: TeacherFn,
    teacher_variables: Any,
    augment: augmentation.Augment,
    folder: pathlib.Path,
    batch_size: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the views that are not in the folder yet, one file each, and returns all of them.

    Args:
      images: uint8 (N, H, W, C).
      views: K.
      teacher: see `training.make_train_step`.
      teacher_variables: its variables.
      augment: (key, batch) -> batch; draws each image by itself.
      folder: of this data, augmentation and teacher, see `folder_name`.
      batch_size: images per pass.

    Returns:
      Pixels uint8 (K · N, H, W, C), view after view, and logits float16 (K · N, classes).
    """
    folder.mkdir(parents=True, exist_ok=True)

    @jax.jit
    def draw(variables: Any, pixels: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        targets = jnp.zeros((len(pixels), 1), jnp.float32)
        drawn = augment(key, {"images": augmentation.to_float(pixels), "targets": targets})["images"]
        stored = jnp.round(255.0 * jnp.clip(drawn, 0.0, 1.0)).astype(jnp.uint8)
        return stored, teacher(variables, {"images": augmentation.to_float(stored)}).logits.astype(jnp.float16)

    paths = [folder / f"view{number:03d}.npz" for number in range(views)]
    for number, path in enumerate(paths):
        if path.exists():
            continue
        pixels, logits = [], []
        key = jax.random.fold_in(jax.random.key(SEED), number)
        for start in tqdm.trange(0, len(images), batch_size, desc=f"view {number + 1} of {views}", disable=None):
            batch = np.asarray(images[start : start + batch_size])
            padding = [(0, min(batch_size, len(images)) - len(batch))] + [(0, 0)] * 3
            stored, answers = draw(teacher_variables, np.pad(batch, padding), jax.random.fold_in(key, start))
            pixels.append(np.asarray(stored)[: len(batch)])
            logits.append(np.asarray(answers)[: len(batch)])
        part_path = path.with_name(f".{path.name}.part{os.getpid()}.npz")
        np.savez(part_path, images=np.concatenate(pixels), logits=np.concatenate(logits))
        os.replace(part_path, path)
    found = [np.load(path) for path in paths]
    return np.concatenate([f["images"] for f in found]), np.concatenate([f["logits"] for f in found])


def answer(_: Any, example: Mapping[str, jax.Array]) -> Outputs:
    """The teacher of a run on stored views: reads its logits from the batch."""
    return Outputs(example["teacher_logits"].astype(jnp.float32), {})


def folder_name(**what: Any) -> str:
    """Returns a name for the views of what is given: data, augmentation and teachers, as JSON-able values."""
    return f"views-{hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]}"


def chosen(order_of: OrderOf, views: int) -> OrderOf:
    """Returns epoch -> places among all views, from epoch -> order of the images; see `order`."""
    return lambda epoch: order(order_of(epoch), epoch=epoch, views=views)


def order(shuffled: np.ndarray, *, epoch: int, views: int) -> np.ndarray:
    """Returns the places, among all views, of an epoch's examples: view (image + epoch) mod K of each image."""
    return shuffled + len(shuffled) * ((shuffled + epoch) % views)

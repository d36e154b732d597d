"""Loads trained runs as teachers; they see the same augmented images as the student.

An ensemble returns the mean of its logits, which is the geometric mean of the distributions at every temperature
(Hinton et al. 2015, section 1).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ferjax import augment, errors, weights
from ferjax.spec import ModelSpec
from ferjax.train.step import Outputs, Teacher, pick


def paths(texts: Sequence[str]) -> list[str]:
    """Returns the paths in the values of --teacher, each one path or several separated by commas."""
    return [path for text in texts for path in ([text] if Path(text).exists() else text.split(",")) if path]


def load(
    workdirs: Sequence[str | Path],
    *,
    spec: ModelSpec,
    resize: bool = False,
    stored_views: int = 0,
    tta: str = "one",
    clean: bool = False,
    taps: Sequence[str] = (),
    dtype: Any = jnp.float32,
) -> Teacher:
    """Loads trained runs as one teacher in evaluation mode.

    Args:
      workdirs: one or more workdirs (the best checkpoint is used) or .safetensors files.
      spec: the student's spec. A teacher has the same classes in any order, and its own normalization.
      resize: whether to convert images for a teacher of another input shape: resized (bilinear, antialiased), gray
        copied to three channels, color converted to gray (Rec. 601).
      stored_views: K for K precomputed views of each image, see `ferjax.train.stored_views`; 0 to run the teacher in
        the step, on freshly augmented images.
      tta: views over which logits are averaged (`augment.views`): "one" is the image itself, "flip" adds its mirror
        image and doubles the time, "ten" is ten crops.
      clean: whether the teacher sees the images without the faults of the group `camera`; the student sees the faults.
      taps: names of the intermediates that the student learns from; of the image itself.
      dtype: dtype of the computation.

    Raises:
      InputError: if a run cannot be read, its classes differ, its input shape differs without `resize`, or a value is
        outside its range.
    """
    if not isinstance(stored_views, int) or stored_views < 0:
        raise errors.InputError(f"teacher.stored_views must be an integer of 0 or more, got {stored_views!r}")
    if tta not in augment.VIEWS:
        raise errors.unknown("teacher.tta", tta, augment.VIEWS)
    if taps and tta == "ten":
        raise errors.InputError("loss.features requires teacher.tta to be one or flip, got 'ten'")
    parts, variables, specs, modules = [], [], [], []
    for workdir in workdirs:
        network = weights.load(workdir)
        _check(network.spec, spec, workdir, resize=resize)
        own_apply = network.apply_of(network.module_in(dtype))
        parts.append(functools.partial(_answer, network.spec, own_apply, spec=spec, tta=tta, taps=taps))
        variables.append(jax.tree.map(jnp.asarray, network.variables))
        specs.append(network.spec)
        modules.append(network.module)

    def apply(variables: Sequence[Any], example: Mapping[str, jax.Array]) -> Outputs:
        images = example.get("clean", example["images"])
        answers = [part(v, images) for part, v in zip(parts, variables, strict=True)]
        mean = functools.reduce(jnp.add, [a.logits for a in answers]) / len(answers)
        found = {f"{i}/{name}": value for i, a in enumerate(answers) for name, value in a.taps.items()}
        return Outputs(mean, found)

    return Teacher(apply, tuple(variables), tuple(specs), stored_views, clean, () if stored_views else tuple(modules))


def _answer(
    own: ModelSpec,
    apply: Callable[..., Any],
    variables: Any,
    images: jax.Array,
    *,
    spec: ModelSpec,
    tta: str,
    taps: Sequence[str],
) -> Outputs:
    """Returns one teacher's outputs for the student's images in 0..1, with classes in the student's order."""
    inputs = augment.normalize(_fitted(images, own), mean=own.mean, std=own.std)
    first, *others = augment.views(inputs, kind=tta)
    logits, state = apply(variables, first, train=False, mutable=["intermediates"] if taps else [])
    every = [logits, *(apply(variables, view, train=False, mutable=[])[0] for view in others)]
    mean = functools.reduce(jnp.add, [each.astype(jnp.float32) for each in every]) / len(every)
    order = jnp.array([own.class_names.index(name) for name in spec.class_names])
    return Outputs(mean[:, order], pick(state, taps))


def _fitted(images: jax.Array, own: ModelSpec) -> jax.Array:
    count, channels = len(images), images.shape[-1]
    if images.shape[1:3] != own.input_size:
        images = jax.image.resize(images, (count, *own.input_size, channels), "linear")
    if channels == 3 and own.channels == 1:
        luma = jnp.array([0.299, 0.587, 0.114], images.dtype)
        return jnp.tensordot(images, luma, axes=1)[..., None]
    if channels == 1 and own.channels == 3:
        return jnp.repeat(images, 3, axis=-1)
    return own.from_rgb(images)


def _check(own: ModelSpec, spec: ModelSpec, workdir: str | Path, *, resize: bool) -> None:
    if set(own.class_names) != set(spec.class_names):
        raise errors.InputError(
            f"the teacher {workdir} has the classes {', '.join(own.class_names)}, the student "
            f"{', '.join(spec.class_names)}: train the teacher on data with the student's classes"
        )
    if own.input_shape != spec.input_shape and not resize:
        theirs, ours = ("×".join(map(str, s.input_shape)) for s in (own, spec))
        raise errors.InputError(
            f"the teacher {workdir} expects images of {theirs}, the student {ours}: set --config.teacher.resize=True, "
            "or train both on images of one shape"
        )

"""Teachers: trained runs whose answers, on the very images that the student sees, are learned beside the labels.

Several teachers are one: the mean of their logits, which is the geometric mean of their distributions at every
temperature (Hinton et al. 2015, section 1, "arithmetic or geometric mean of their individual predictive
distributions").
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
    """Returns the teachers that --teacher names: each text is a path, or several with commas between."""
    return [path for text in texts for path in ([text] if Path(text).exists() else text.split(",")) if path]


def load(
    workdirs: Sequence[str | Path],
    *,
    spec: ModelSpec,
    resize: bool = False,
    stored_views: int = 0,
    tta: str = "one",
    taps: Sequence[str] = (),
    dtype: Any = jnp.float32,
) -> Teacher:
    """Reads trained runs, to teach a student.

    Args:
      workdirs: folders of training runs, of which the best checkpoints are used, or .safetensors
        files; one or more.
      spec: the student's contract. A teacher has the same classes, in any order, and normalises the images its own way.
      resize: whether a teacher that takes images of another size or colour is given them resized (bilinear,
        antialiased), grey copied to three channels, colour turned to grey as Rec. 601 weighs it.
      stored_views: K, for answers to K views of each image drawn beforehand, see `ferjax.train.stored_views`;
        0 for answers in the step to freshly augmented images.
      tta: the views of each image over which every teacher's logits are averaged (`augment.views`): "one" is the image
        itself, "flip" its mirror image too, more often right for twice the time, "ten" ten crops.
      taps: names of the teachers' intermediates that the student learns from, of the image itself.
      dtype: of the computation.

    Returns:
      The teacher in evaluation mode.

    Raises:
      InputError: if a run cannot be read, its classes are others, its images differ and `resize` is not set, or there
        are no such views.
    """
    if not isinstance(stored_views, int) or stored_views < 0:
        raise errors.InputError(f"teacher.stored_views must be a whole number, 0 or more, got {stored_views!r}")
    if tta not in augment.VIEWS:
        raise errors.unknown("teacher.tta", tta, augment.VIEWS)
    if taps and tta == "ten":
        raise errors.InputError(
            "loss.features are of the image itself, which is none of the ten: set teacher.tta to flip"
        )
    parts, variables, specs = [], [], []
    for workdir in workdirs:
        network = weights.load(workdir)
        _check(network.spec, spec, workdir, resize=resize)
        own_apply = network.apply_of(network.module_in(dtype))
        parts.append(functools.partial(_answer, network.spec, own_apply, spec=spec, tta=tta, taps=taps))
        variables.append(jax.tree.map(jnp.asarray, network.variables))
        specs.append(network.spec)

    def apply(variables: Sequence[Any], example: Mapping[str, jax.Array]) -> Outputs:
        answers = [part(v, example["images"]) for part, v in zip(parts, variables, strict=True)]
        mean = functools.reduce(jnp.add, [a.logits for a in answers]) / len(answers)
        found = {f"{i}/{name}": value for i, a in enumerate(answers) for name, value in a.taps.items()}
        return Outputs(mean, found)

    return Teacher(apply, tuple(variables), tuple(specs), stored_views)


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
    """One teacher's outputs for images in 0..1 as the student gets them, classes in the student's order."""
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
            f"the teacher {workdir} knows {', '.join(own.class_names)}, the student learns "
            f"{', '.join(spec.class_names)}: train the teacher on data with the student's classes"
        )
    if own.input_shape != spec.input_shape and not resize:
        theirs, ours = ("×".join(map(str, s.input_shape)) for s in (own, spec))
        raise errors.InputError(
            f"the teacher {workdir} takes images of {theirs}, the student of {ours}: train both on data of one "
            "size and colour, or set --config.teacher.resize=True to have them resized for the teacher"
        )

"""Augments training batches on the device: (key, batch) -> batch, pure and jittable.

A batch is {"images": float32 (N, H, W, C) in 0..1, "targets": float32 (N, classes), rows sum to 1}. Transforms sample
parameters per image, mixing per batch. Rotation, translation and crop are one affine map with one interpolation.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ferjax import errors
from ferjax.augment.geometry import VIEWS, random_affine, random_flip, views
from ferjax.augment.mixing import Batch, random_mix
from ferjax.augment.pixels import random_brightness_contrast, random_color, random_erase

__all__ = [
    "VIEWS",
    "Augment",
    "Batch",
    "create",
    "normalize",
    "random_affine",
    "random_brightness_contrast",
    "random_color",
    "random_erase",
    "random_flip",
    "random_mix",
    "to_float",
    "views",
]

Augment = Callable[[jax.Array, Batch], Batch]
_Transform = Callable[[jax.Array, jax.Array], jax.Array]  # of a key and images


def create(
    *,
    flip: float = 0.0,
    rotate: float = 0.0,
    translate: float = 0.0,
    crop: Sequence[float] = (1.0, 1.0),
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    erase: float = 0.0,
    erase_area: Sequence[float] = (0.02, 0.15),
    erase_fill: Sequence[float] = (),
    mixup: float = 0.0,
    cutmix: float = 0.0,
    mix_probability: float = 1.0,
) -> Augment:
    """Composes an augmentation, a function (key, batch) -> batch; transforms of strength 0 are left out.

    Args:
      flip: probability of a horizontal flip.
      rotate: maximum rotation in degrees, 0..180; the angle is uniform in ± rotate.
      translate: maximum shift along each axis, as a fraction of the side.
      crop: range of the side of a random square crop, as a fraction of the side of the image, at most 4. The crop is
        resized to the full image; above 1 the image shrinks and the border is black.
      brightness: pixels are multiplied by a factor in 1 ± brightness.
      contrast: the differences of the pixels from the image's mean are multiplied by a factor in 1 ± contrast.
      saturation: chroma is multiplied by a factor in 1 ± saturation; RGB only.
      hue: maximum rotation of the hue, as a fraction of the circle, 0..0.5; RGB only.
      erase: probability of erasing one rectangle (Zhong et al. 2020; Paraschiv eq. 21).
      erase_area: range of the area of the rectangle, as a fraction of the image.
      erase_fill: empty for uniform noise, as in the paper; else a color, one value in 0..1 or one per channel.
      mixup: α of mixup, 0 for none, see `random_mix`; MicroExpNet uses 0.2.
      cutmix: α of CutMix, 0 for none; its paper uses 1.
      mix_probability: probability of mixing a batch.

    Raises:
      InputError: if a value is outside its range.
    """
    _check(1, flip=flip, translate=translate, brightness=brightness, contrast=contrast, saturation=saturation)
    _check(1, erase=erase, mix_probability=mix_probability, **{f"erase_fill[{i}]": v for i, v in enumerate(erase_fill)})
    _check(0.5, hue=hue)
    _check(180, rotate=rotate)
    _check(math.inf, mixup=mixup, cutmix=cutmix)
    _check_range(4, crop=crop)
    _check_range(1, erase_area=erase_area)
    steps: list[_Transform] = []
    if flip:
        steps.append(lambda key, x: random_flip(key, x, probability=flip))
    if rotate or translate or tuple(crop) != (1.0, 1.0):
        steps.append(lambda key, x: random_affine(key, x, degrees=rotate, translate=translate, crop=crop))
    if brightness or contrast:
        steps.append(lambda key, x: random_brightness_contrast(key, x, brightness=brightness, contrast=contrast))
    if saturation or hue:
        steps.append(lambda key, x: random_color(key, x, saturation=saturation, hue=hue))
    if erase:
        steps.append(lambda key, x: random_erase(key, x, probability=erase, area=erase_area, fill=tuple(erase_fill)))
    mixed = mixup or cutmix
    mix = functools.partial(random_mix, mixup=mixup, cutmix=cutmix, probability=mix_probability) if mixed else None
    return functools.partial(_augment, steps, mix)


def _augment(steps: Sequence[_Transform], mix: Augment | None, key: jax.Array, batch: Batch) -> Batch:
    """Applies the steps to the images and mixes the batch, each with a key of its own."""
    images = batch["images"]
    for number, step in enumerate(steps):
        images = step(jax.random.fold_in(key, number), images)
    batch = {**batch, "images": images}
    return mix(jax.random.fold_in(key, len(steps)), batch) if mix else batch


def normalize(images: jax.Array, *, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Normalizes images, float (N, H, W, C) in 0..1, to (images - mean) / std per channel."""
    scale = jnp.array(std, images.dtype)[None, None, None, :]
    return (images - jnp.array(mean, images.dtype)[None, None, None, :]) / scale


def to_float(images: jax.Array) -> jax.Array:
    """Converts uint8 images (N, H, W, C) to float32 in 0..1."""
    return images.astype(jnp.float32) / 255.0


def _check(most: float, **values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= most or value == math.inf:
            raise errors.InputError(f"augment.{name} must be in 0..{most}, got {value}")


def _check_range(most: float, **ranges: Sequence[float]) -> None:
    for name, ends in ranges.items():
        numbers = len(ends) == 2 and all(isinstance(end, int | float) for end in ends)
        if not numbers or not 0 < ends[0] <= ends[1] <= most:
            raise errors.InputError(f"augment.{name} must be two numbers, 0 < low <= high <= {most}, got {tuple(ends)}")

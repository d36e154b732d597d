"""Training-time augmentation: (key, batch) -> batch, pure and under jit.

A batch is {"images": float32 (N, H, W, C) in 0..1, "targets": float32 (N, classes), rows sum to 1}. Every transform
draws per image. Rotation, translation and crop are one affine map, so pixels are interpolated once.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ferjax import cli

Batch = dict[str, jax.Array]
Augment = Callable[[jax.Array, Batch], Batch]


def create(
    *,
    flip: float = 0.0,
    rotate: float = 0.0,
    translate: float = 0.0,
    crop: Sequence[float] = (1.0, 1.0),
    brightness: float = 0.0,
    contrast: float = 0.0,
    erase: float = 0.0,
    erase_area: Sequence[float] = (0.02, 0.15),
) -> Augment:
    """Composes an augmentation; a transform whose strength is zero costs nothing.

    Args:
      flip: probability of mirroring left and right.
      rotate: largest rotation in degrees, drawn uniformly from both directions.
      translate: largest shift, as a fraction of the side, along each axis.
      crop: range of the side of a random square crop, as a fraction of the image's side, resized to the full image;
        above 1 the face gets smaller and the border is black.
      brightness: factor drawn from 1 ± brightness multiplies the pixels.
      contrast: factor drawn from 1 ± contrast stretches the pixels about the image's mean.
      erase: probability of erasing one rectangle (Zhong et al. 2020), filled with uniform noise (Paraschiv eq. 21).
      erase_area: range of the rectangle's area as a fraction of the image's.

    Returns:
      A function (key, batch) -> batch.

    Raises:
      InputError: for a value outside its range, naming it.
    """
    _check(flip=flip, erase=erase, brightness=brightness, contrast=contrast, translate=translate)
    if not 0 <= rotate <= 180:
        raise cli.InputError(f"augment.rotate is in degrees, 0 to 180, got {rotate}")
    for name, (low, high), most in (("crop", tuple(crop), 4.0), ("erase_area", tuple(erase_area), 1.0)):
        if not 0 < low <= high <= most:
            raise cli.InputError(f"augment.{name} must be two numbers, 0 < low <= high <= {most}, got {(low, high)}")
    steps: list[Callable[[jax.Array, jax.Array], jax.Array]] = []
    if flip:
        steps.append(lambda key, x: random_flip(key, x, probability=flip))
    if rotate or translate or tuple(crop) != (1.0, 1.0):
        steps.append(lambda key, x: random_affine(key, x, degrees=rotate, translate=translate, crop=crop))
    if brightness or contrast:
        steps.append(lambda key, x: random_brightness_contrast(key, x, brightness=brightness, contrast=contrast))
    if erase:
        steps.append(lambda key, x: random_erase(key, x, probability=erase, area=erase_area))

    def augment(key: jax.Array, batch: Batch) -> Batch:
        images = batch["images"]
        for number, step in enumerate(steps):
            images = step(jax.random.fold_in(key, number), images)
        return {**batch, "images": images}

    return augment


def random_flip(key: jax.Array, images: jax.Array, *, probability: float) -> jax.Array:
    """Mirrors each image (N, H, W, C) left-right with the given probability."""
    flip = jax.random.bernoulli(key, probability, (images.shape[0], 1, 1, 1))
    return jnp.where(flip, images[:, :, ::-1], images)


def random_affine(
    key: jax.Array, images: jax.Array, *, degrees: float, translate: float, crop: Sequence[float]
) -> jax.Array:
    """Rotates about the centre, shifts and crops each image by one bilinear sampling; outside is black.

    Args:
      key: a PRNG key.
      images: (N, H, W, C).
      degrees: rotation drawn from ± degrees.
      translate: shift drawn from ± translate · side.
      crop: the crop's side is drawn from this range times the image's; below 1 its place is drawn too.

    Returns:
      (N, H, W, C), same dtype.
    """
    count, height, width, _ = images.shape
    angles, shifts, sides, places = jax.random.split(key, 4)
    angle = jnp.deg2rad(jax.random.uniform(angles, (count,), minval=-degrees, maxval=degrees))
    shift = jax.random.uniform(shifts, (count, 2), minval=-translate, maxval=translate)
    side = jax.random.uniform(sides, (count,), minval=crop[0], maxval=crop[1])
    # A crop smaller than the image may lie anywhere inside it; a larger one is centred.
    room = jnp.maximum(1.0 - side, 0.0)[:, None] / 2.0
    shift = shift + room * jax.random.uniform(places, (count, 2), minval=-1.0, maxval=1.0)
    size = jnp.array([height, width], images.dtype)
    return _sample(images, angle, side, shift * size[None, :])


def random_brightness_contrast(key: jax.Array, images: jax.Array, *, brightness: float, contrast: float) -> jax.Array:
    """Scales pixels by 1 ± brightness, then about each image's mean by 1 ± contrast; clipped to 0..1."""
    light, stretch = jax.random.split(key)
    shape = (images.shape[0], 1, 1, 1)
    images = images * jax.random.uniform(light, shape, minval=1 - brightness, maxval=1 + brightness)
    mean = images.mean((1, 2, 3), keepdims=True)
    factor = jax.random.uniform(stretch, shape, minval=1 - contrast, maxval=1 + contrast)
    return jnp.clip(mean + factor * (images - mean), 0.0, 1.0)


def random_erase(
    key: jax.Array, images: jax.Array, *, probability: float, area: Sequence[float], aspect: float = 3.3
) -> jax.Array:
    """Fills one random rectangle per image with uniform noise (Zhong et al. 2020; Paraschiv eq. 21).

    The rectangle's area is a uniform fraction of the image's, its height : width log-uniform in 1/aspect..aspect; a
    side longer than the image's is cut to it.
    """
    count, height, width, _ = images.shape
    keys = jax.random.split(key, 6)
    draw = lambda k, low, high: jax.random.uniform(k, (count,), minval=low, maxval=high)  # noqa: E731
    pixels = draw(keys[0], area[0], area[1]) * (height * width)
    ratio = jnp.exp(draw(keys[1], -math.log(aspect), math.log(aspect)))
    tall = jnp.clip(jnp.round(jnp.sqrt(pixels * ratio)), 1, height)
    wide = jnp.clip(jnp.round(jnp.sqrt(pixels / ratio)), 1, width)
    top = jnp.floor(draw(keys[2], 0.0, 1.0) * (height - tall + 1))
    left = jnp.floor(draw(keys[3], 0.0, 1.0) * (width - wide + 1))
    rows = jnp.arange(height, dtype=top.dtype)[None, :] - top[:, None]
    columns = jnp.arange(width, dtype=left.dtype)[None, :] - left[:, None]
    in_rows = (rows >= 0) & (rows < tall[:, None])
    in_columns = (columns >= 0) & (columns < wide[:, None])
    chosen = jax.random.bernoulli(keys[4], probability, (count,))
    mask = (in_rows & chosen[:, None])[:, :, None, None] & in_columns[:, None, :, None]
    return jnp.where(mask, jax.random.uniform(keys[5], images.shape, images.dtype), images)


def normalize(images: jax.Array, *, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Returns (images - mean) / std per channel; images float (N, H, W, C) in 0..1."""
    scale = jnp.array(std, images.dtype)[None, None, None, :]
    return (images - jnp.array(mean, images.dtype)[None, None, None, :]) / scale


def to_float(images: jax.Array) -> jax.Array:
    """Returns uint8 images (N, H, W, C) as float32 in 0..1."""
    return images.astype(jnp.float32) / 255.0


def _sample(images: jax.Array, angle: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """Bilinear sampling at the output grid rotated by angle (N,), scaled (N,) and shifted (N, 2) in pixels."""
    count, height, width, channels = images.shape
    rows, columns = jnp.meshgrid(
        jnp.arange(height, dtype=images.dtype) - (height - 1) / 2,
        jnp.arange(width, dtype=images.dtype) - (width - 1) / 2,
        indexing="ij",
    )
    rows, columns = rows.reshape(1, -1), columns.reshape(1, -1)
    cos, sin = (scale * jnp.cos(angle))[:, None], (scale * jnp.sin(angle))[:, None]
    y = cos * rows - sin * columns + shift[:, :1] + (height - 1) / 2
    x = sin * rows + cos * columns + shift[:, 1:] + (width - 1) / 2
    y0, x0 = jnp.floor(y), jnp.floor(x)
    flat = images.reshape(count, height * width, channels)
    total = jnp.zeros((count, height * width, channels), images.dtype)
    for dy in (0, 1):
        for dx in (0, 1):
            yi, xi = y0 + dy, x0 + dx
            weight = (1 - jnp.abs(y - yi)) * (1 - jnp.abs(x - xi))
            inside = (yi >= 0) & (yi < height) & (xi >= 0) & (xi < width)
            index = jnp.clip(yi, 0, height - 1) * width + jnp.clip(xi, 0, width - 1)
            pixel = jnp.take_along_axis(flat, index.astype(jnp.int32)[:, :, None], axis=1)
            total = total + jnp.where(inside, weight, 0.0)[:, :, None] * pixel
    return total.reshape(images.shape)


def _check(**fractions: Any) -> None:
    for name, value in fractions.items():
        if not 0 <= value <= 1:
            raise cli.InputError(f"augment.{name} must lie in 0..1, got {value}")

"""Transforms the geometry of images: flip, affine map, and the views of test-time augmentation."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ferjax import errors

VIEWS = ("one", "flip", "ten")


def random_flip(key: jax.Array, images: jax.Array, *, probability: float) -> jax.Array:
    """Flips each image (N, H, W, C) horizontally with the given probability."""
    flip = jax.random.bernoulli(key, probability, (images.shape[0], 1, 1, 1))
    return jnp.where(flip, images[:, :, ::-1], images)


def random_affine(
    key: jax.Array, images: jax.Array, *, degrees: float, translate: float, crop: Sequence[float]
) -> jax.Array:
    """Rotates, shifts and crops each image with one bilinear interpolation; the outside is black.

    Args:
      key: PRNG key.
      images: floating (N, H, W, C).
      degrees: the angle about the center is uniform in ± degrees.
      translate: the shift along each axis is uniform in ± translate · side.
      crop: range of the side of the crop, as a fraction of the image; below 1 its position is random.

    Returns:
      (N, H, W, C), same dtype.
    """
    count, height, width, _ = images.shape
    angles, shifts, sides, places = jax.random.split(key, 4)
    angle = jnp.deg2rad(jax.random.uniform(angles, (count,), minval=-degrees, maxval=degrees))
    shift = jax.random.uniform(shifts, (count, 2), minval=-translate, maxval=translate)
    side = jax.random.uniform(sides, (count,), minval=crop[0], maxval=crop[1])
    # A crop smaller than the image has a random position; a larger one is centered.
    room = jnp.maximum(1.0 - side, 0.0)[:, None] / 2.0
    shift = shift + room * jax.random.uniform(places, (count, 2), minval=-1.0, maxval=1.0)
    size = jnp.array([height, width], images.dtype)
    return _sample(images, angle, side, shift * size[None, :])


def views(images: jax.Array, *, kind: str, crop: float = 0.9) -> jax.Array:
    """Returns the views of each image for test-time augmentation.

    "one" is the image, "flip" the image and its mirror image. "ten" is the four corner crops, the center crop, resized
    to the size of the image, and their mirror images (Krizhevsky et al. 2012).

    Args:
      images: floating (N, H, W, C).
      kind: one of VIEWS.
      crop: side of the crops of "ten" as a fraction of the image, in (0, 1].

    Returns:
      (V, N, H, W, C), V = 1, 2 or 10; mirror images are the second half.

    Raises:
      InputError: if the kind is unknown or the crop outside its range.
    """
    if kind not in VIEWS:
        raise errors.unknown("kind of views", kind, VIEWS)
    if not 0 < crop <= 1:
        raise errors.InputError(f"crop must be a fraction of the side in (0, 1], got {crop!r}")
    plain = [images]
    if kind == "ten":
        height, width = images.shape[1:3]
        tall, wide = max(1, math.floor(crop * height + 0.5)), max(1, math.floor(crop * width + 0.5))
        tops, lefts = (0, height - tall), (0, width - wide)
        corners = [(top, left) for top in tops for left in lefts] + [(tops[1] // 2, lefts[1] // 2)]
        parts = [images[:, top : top + tall, left : left + wide] for top, left in corners]
        plain = [jax.image.resize(part, images.shape, "linear") for part in parts]
    mirrored = [view[:, :, ::-1] for view in plain] if kind != "one" else []
    return jnp.stack([*plain, *mirrored])


def _sample(images: jax.Array, angle: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """Samples images bilinearly at a grid rotated by angle (N,), scaled (N,) and shifted (N, 2) in pixels."""
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

    def add_corner(total: jax.Array, corner: jax.Array) -> tuple[jax.Array, None]:
        yi, xi = y0 + corner[0], x0 + corner[1]
        weight = (1 - jnp.abs(y - yi)) * (1 - jnp.abs(x - xi))
        inside = (yi >= 0) & (yi < height) & (xi >= 0) & (xi < width)
        index = jnp.clip(yi, 0, height - 1) * width + jnp.clip(xi, 0, width - 1)
        pixel = jnp.take_along_axis(flat, index.astype(jnp.int32)[:, :, None], axis=1)
        return total + jnp.where(inside, weight, 0.0)[:, :, None] * pixel, None

    # A scan makes XLA's CPU compiler materialize the result. Without it, the sampling is fused into each consumer and
    # recomputed there (MicroExpNet's augmentation: 37 ms per batch of 64 instead of 3 ms).
    corners = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]], images.dtype)
    total, _ = jax.lax.scan(add_corner, jnp.zeros((count, height * width, channels), images.dtype), corners)
    return total.reshape(images.shape)

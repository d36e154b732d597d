"""Transforms the values of pixels: brightness, contrast, color, random erasing."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ferjax import cli, errors

# RGB to luma and chroma (NTSC YIQ); the hue is an angle in the chroma plane.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_RGB = np.linalg.inv(_YIQ)


def random_brightness_contrast(key: jax.Array, images: jax.Array, *, brightness: float, contrast: float) -> jax.Array:
    """Scales pixels by 1 ± brightness, then their deviation from the image's mean by 1 ± contrast; clips to 0..1."""
    light, stretch = jax.random.split(key)
    shape = (images.shape[0], 1, 1, 1)
    images = images * jax.random.uniform(light, shape, minval=1 - brightness, maxval=1 + brightness)
    mean = images.mean((1, 2, 3), keepdims=True)
    factor = jax.random.uniform(stretch, shape, minval=1 - contrast, maxval=1 + contrast)
    return jnp.clip(mean + factor * (images - mean), 0.0, 1.0)


def random_color(key: jax.Array, images: jax.Array, *, saturation: float, hue: float) -> jax.Array:
    """Scales the chroma of each image by 1 ± saturation and rotates it by ± hue; clips to 0..1.

    Both are one 3×3 matrix per image that keeps the luma, as in DALI's Hsv. For small angles the result is similar to
    torchvision's ColorJitter, which rotates the hue in HSV.

    Args:
      key: PRNG key.
      images: RGB (N, H, W, 3) in 0..1.
      saturation: maximum change of the factor, 0..1.
      hue: maximum rotation as a fraction of the circle, 0..0.5.

    Returns:
      (N, H, W, 3), same dtype.

    Raises:
      InputError: if the images do not have three channels.
    """
    if images.shape[-1] != 3:
        raise errors.InputError(
            "augment.saturation and augment.hue require RGB images, got "
            f"{cli.counted(images.shape[-1], 'channel')}: set both to 0"
        )
    strengths, turns = jax.random.split(key)
    count, dtype = images.shape[0], images.dtype
    scale = jax.random.uniform(strengths, (count,), dtype, 1 - saturation, 1 + saturation)
    angle = 2 * math.pi * jax.random.uniform(turns, (count,), dtype, -hue, hue)
    cos, sin, one, zero = scale * jnp.cos(angle), scale * jnp.sin(angle), jnp.ones_like(angle), jnp.zeros_like(angle)
    turn = jnp.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], axis=-1).reshape(count, 3, 3)
    matrix = jnp.einsum("ij,njk,kl->nil", jnp.array(_RGB, dtype), turn, jnp.array(_YIQ, dtype))
    return jnp.clip(jnp.einsum("nij,nhwj->nhwi", matrix, images), 0.0, 1.0)


def random_erase(
    key: jax.Array,
    images: jax.Array,
    *,
    probability: float,
    area: Sequence[float],
    fill: Sequence[float] = (),
    aspect: float = 3.3,
) -> jax.Array:
    """Fills one random rectangle per image with noise or a color (Zhong et al. 2020; Paraschiv eq. 21).

    The area is uniform in its range, height : width log-uniform in 1/aspect..aspect. Sides are clipped to the image.

    Args:
      key: PRNG key.
      images: (N, H, W, C) in 0..1.
      probability: probability of erasing, per image.
      area: range of the area, as a fraction of the image.
      fill: empty for uniform noise in 0..1, else a color: one value, or one per channel.
      aspect: maximum ratio of the sides.

    Returns:
      (N, H, W, C), same dtype.

    Raises:
      InputError: if the length of `fill` is not 1 or the number of channels.
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
    if not fill:
        return jnp.where(mask, _noise(keys[5], images.shape, images.dtype), images)
    if len(fill) not in (1, images.shape[-1]):
        raise errors.InputError(
            f"augment.erase_fill has {len(fill)} values for images of {cli.counted(images.shape[-1], 'channel')}"
        )
    return jnp.where(mask, jnp.array(fill, images.dtype)[None, None, None, :], images)


def _noise(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Returns uniform noise with 256 levels, four values from each 32-bit random number."""
    count = math.prod(shape)
    words = jax.random.bits(key, (-(-count // 4),), jnp.uint32)
    levels = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[:count].reshape(shape)
    return (levels.astype(dtype) + 0.5) / 256

"""Gives images the faults of cameras: blur, low resolution, poor light, noise, JPEG compression.

The faults are drawn per image, under jit. They resemble the kinds of `ferjax.evaluate.corruptions` with the same names;
`strength` 1 is about their highest severity.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ferjax import errors

Fault = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

_KEY = 0xCA00  # far from the numbers that `ferjax.augment.create` folds into the same key
_REACH = 3  # pixels: the blur's kernel has 7x7 taps
_PHOTONS = 200.0  # of a white pixel at normal exposure
_DARKEST, _BRIGHTEST = 0.07, 1.5  # factors of the exposure at strength 1
_COARSEST = 0.18  # share of the side that is left at strength 1
_SIGMA = 0.2  # standard deviation of the noise at strength 1
_JPEG_SCALE = 8.0  # factor of the quantization table at strength 1: quality 6

# Luminance table of ISO 10918-1, annex K, used for each channel.
JPEG_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float64,
)


def create(
    *,
    probability: float = 0.0,
    blur: float = 1.0,
    resolution: float = 1.0,
    light: float = 1.0,
    noise: float = 1.0,
    jpeg: float = 1.0,
) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """Returns a function (key, images) -> images with camera faults, or None if no fault can occur.

    Each image gets each fault independently with `probability`. The severity of a fault is uniform in 0..strength; at 0
    the image stays as it is. The faults are applied in the order of the arguments.

    Args:
      probability: probability of each fault, 0..1.
      blur: strength of defocus (a disk of up to 3 pixels radius at a side of 48) or motion (a line of up to 7 pixels).
      resolution: strength of the loss of resolution: averaged down to 0.18 of the side and enlarged again.
      light: strength of the exposure (a factor of 0.07 to 1.5, log-uniform), the gamma (1/2 to 2) and the shot noise.
      noise: strength of Gaussian noise; standard deviation of up to 0.2.
      jpeg: strength of the quantization of 8x8 blocks; down to JPEG quality 6.

    Raises:
      InputError: if a value is outside 0..1.
    """
    strengths = {"blur": blur, "resolution": resolution, "light": light, "noise": noise, "jpeg": jpeg}
    for name, value in {"probability": probability, **strengths}.items():
        if not 0 <= value <= 1:
            raise errors.InputError(f"camera.{name} must be in 0..1, got {value}")
    faults: list[tuple[int, Fault, float]] = [
        (number, _FAULTS[name], strength) for number, (name, strength) in enumerate(strengths.items()) if strength
    ]
    if not probability or not faults:
        return None

    def apply(key: jax.Array, images: jax.Array) -> jax.Array:
        for number, fault, strength in faults:
            chosen, severities, own = jax.random.split(jax.random.fold_in(key, _KEY + number), 3)
            severity = jax.random.uniform(severities, (len(images),), images.dtype, maxval=strength)
            severity = jnp.where(jax.random.bernoulli(chosen, probability, severity.shape), severity, 0.0)
            images = fault(own, images, severity)
        return images

    return apply


def blurred(key: jax.Array, images: jax.Array, severity: jax.Array) -> jax.Array:
    """Blurs each image by defocus or by motion in a random direction; pixels at the border repeat.

    Args:
      key: PRNG key.
      images: floating (N, H, W, C).
      severity: (N,) in 0..1.

    Returns:
      (N, H, W, C), same dtype.
    """
    count, dtype = len(images), images.dtype
    kinds, angles = jax.random.split(key)
    moving = jax.random.bernoulli(kinds, 0.5, (count, 1, 1))
    angle = jax.random.uniform(angles, (count, 1), dtype, maxval=jnp.pi)
    grid = jnp.arange(-_REACH, _REACH + 1, dtype=dtype)
    distance = jnp.sqrt(grid[:, None] ** 2 + grid[None, :] ** 2)
    disk = jnp.clip(0.5 + _REACH * severity[:, None, None] - distance[None], 0.0, 1.0)
    # Points along the line of motion, each spread bilinearly over its four pixels.
    along = jnp.linspace(-_REACH, _REACH, 2 * _REACH + 1, dtype=dtype)[None, :] * severity[:, None]
    spread = lambda at: jnp.maximum(0.0, 1.0 - jnp.abs(grid[None, None, :] - at[:, :, None]))  # noqa: E731
    line = jnp.einsum("npr,npc->nrc", spread(along * jnp.sin(angle)), spread(along * jnp.cos(angle)))
    kernel = jnp.where(moving, line, disk)
    return _filtered(images, kernel / kernel.sum((1, 2), keepdims=True))


def coarse(key: jax.Array, images: jax.Array, severity: jax.Array) -> jax.Array:
    """Averages each image down to fewer pixels and enlarges it again, linearly or in blocks; arguments as `blurred`."""
    smooth = jax.random.bernoulli(key, 0.5, severity.shape)
    share = _COARSEST**severity
    for axis in (1, 2):
        size = images.shape[axis]
        images = jnp.einsum("nij,n...j->n...i", _resampling(size, share, smooth), jnp.moveaxis(images, axis, -1))
        images = jnp.moveaxis(images, -1, axis)
    return images


def lit(key: jax.Array, images: jax.Array, severity: jax.Array) -> jax.Array:
    """Changes exposure and gamma of each image and adds shot noise; clips to 0..1; arguments as `blurred`.

    The noise of a pixel of expected value x has the variance x / 200 of 200 photons per white pixel, times severity.
    """
    exposures, gammas, shots = jax.random.split(key, 3)
    each = lambda k, low, high: jax.random.uniform(k, severity.shape, images.dtype, low, high) * severity  # noqa: E731
    exposure = jnp.exp(each(exposures, np.log(_DARKEST), np.log(_BRIGHTEST)))
    gamma = jnp.exp2(each(gammas, -1.0, 1.0))
    exposure, gamma, share = (v[:, None, None, None] for v in (exposure, gamma, severity))
    seen = exposure * jnp.power(jnp.maximum(images, 1e-6), gamma)
    shot = jnp.sqrt(seen * share / _PHOTONS) * jax.random.normal(shots, images.shape, images.dtype)
    return jnp.where(share > 0, jnp.clip(seen + shot, 0.0, 1.0), images)


def noisy(key: jax.Array, images: jax.Array, severity: jax.Array) -> jax.Array:
    """Adds Gaussian noise of standard deviation 0.2 · severity to each image and clips to 0..1; as `blurred`."""
    share = severity[:, None, None, None]
    grain = _SIGMA * share * jax.random.normal(key, images.shape, images.dtype)
    return jnp.where(share > 0, jnp.clip(images + grain, 0.0, 1.0), images)


def compressed(key: jax.Array, images: jax.Array, severity: jax.Array) -> jax.Array:
    """Quantizes the cosine transform of 8x8 blocks as JPEG does, each channel separately; arguments as `blurred`."""
    count, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
    rows, columns = padded.shape[1] // 8, padded.shape[2] // 8
    blocks = padded.reshape(count, rows, 8, columns, 8, channels)
    k, middle = np.arange(8), 128 / 255
    basis = np.cos((2 * k[None] + 1) * k[:, None] * np.pi / 16) * np.where(k[:, None] == 0, np.sqrt(1 / 8), 0.5)
    cosines, table = jnp.array(basis, images.dtype), jnp.array(JPEG_TABLE / 255, images.dtype)
    steps = jnp.einsum("nrucvk,au,bv->nracbk", blocks - middle, cosines, cosines)
    size = jnp.maximum(_JPEG_SCALE * severity, 1e-3)[:, None, None, None, None, None]
    size = jnp.minimum(size * table[None, None, :, None, :, None], 1.0)  # JPEG stores steps in 8 bits
    restored = jnp.einsum("nracbk,au,bv->nrucvk", jnp.round(steps / size) * size, cosines, cosines) + middle
    restored = jnp.clip(restored.reshape(padded.shape)[:, :height, :width], 0.0, 1.0)
    return jnp.where(severity[:, None, None, None] > 0, restored, images)


def _filtered(images: jax.Array, kernels: jax.Array) -> jax.Array:
    """Convolves each image (N, H, W, C) with its own kernel (N, 7, 7)."""
    side = 2 * _REACH + 1
    padded = jnp.pad(images, ((0, 0), (_REACH, _REACH), (_REACH, _REACH), (0, 0)), mode="edge")

    def add_row(total: jax.Array, row: jax.Array) -> tuple[jax.Array, None]:
        part = jax.lax.dynamic_slice_in_dim(padded, row, images.shape[1], axis=1)
        weights = jax.lax.dynamic_index_in_dim(kernels, row, axis=1, keepdims=False)
        for column in range(side):
            total += weights[:, column, None, None, None] * part[:, :, column : column + images.shape[2]]
        return total, None

    return jax.lax.scan(add_row, jnp.zeros_like(images), jnp.arange(side))[0]


def _resampling(size: int, share: jax.Array, smooth: jax.Array) -> jax.Array:
    """Returns matrices (N, size, size) that average `size` pixels down to share · size cells and enlarge them again."""
    cells = jnp.round(size * share)[:, None, None]
    step = size / cells  # pixels per cell
    numbers = jnp.arange(size, dtype=share.dtype)
    pixel, cell = numbers[None, None, :], numbers[None, :, None]
    overlap = jnp.minimum(pixel + 1, (cell + 1) * step) - jnp.maximum(pixel, cell * step)
    down = jnp.maximum(overlap, 0.0) / step  # (N, cell, pixel)
    at = (pixel + 0.5) / step - 0.5
    at = jnp.where(smooth[:, None, None], jnp.clip(at, 0.0, cells - 1), jnp.floor(at + 0.5))
    up = jnp.maximum(0.0, 1 - jnp.abs(at - cell))  # (N, cell, pixel)
    return jnp.einsum("nci,ncj->nij", up, down)


_FAULTS: dict[str, Fault] = {"blur": blurred, "resolution": coarse, "light": lit, "noise": noisy, "jpeg": compressed}

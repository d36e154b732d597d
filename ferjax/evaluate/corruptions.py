"""Corrupts test images: 14 kinds with five severities, after ImageNet-C, and Qin's perturbation.

The kinds follow Hendrycks & Dietterich (2019), plus occlusions and inaccurate crops. The arithmetic is float64 in
numpy, rounded to uint8 at the end, so all machines produce the same images. A corruption depends on the seed, the kind,
the severity and the index of the image in its split only, so any subset has the same pixels.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ferjax.augment.camera import JPEG_TABLE
from ferjax.errors import InputError, unknown

SEVERITIES = (1, 2, 3, 4, 5)
Generators = Sequence[np.random.Generator]
# (images float64 (N, H, W, C) in 0..1, strength, one generator per image) -> same shape, any range
Corruption = Callable[[np.ndarray, float, Generators], np.ndarray]


def corrupt(
    images: np.ndarray, kind: str, severity: int, *, seed: int = 0, indices: Sequence[int] | None = None
) -> np.ndarray:
    """Returns corrupted copies of images.

    Args:
      images: uint8 (N, H, W, C).
      kind: one of KINDS.
      severity: 1 (slight) to 5 (heavy).
      seed: seed of the random numbers.
      indices: index of each image in its split (default: 0, 1, …).

    Returns:
      uint8 (N, H, W, C).

    Raises:
      InputError: for an unknown kind, a severity outside 1..5, or images that are not uint8 (N, H, W, C).
    """
    if kind not in _KINDS:
        raise unknown("corruption", kind, KINDS)
    if severity not in SEVERITIES:
        raise InputError(f"severity must be 1 to 5, got {severity!r}")
    function, strengths, _ = _KINDS[kind]
    return _apply(images, lambda x, rngs: function(x, strengths[severity - 1], rngs), (kind, severity), seed, indices)


def qin(images: np.ndarray, *, sigma: float = 0.05, seed: int = 0, indices: Sequence[int] | None = None) -> np.ndarray:
    """Returns images with Qin's (2025) perturbation, x̃ = T(x) + N(0, σ²): flip, small rotation, distortion, noise.

    The paper gives no strengths. These are used here: a flip with probability 0.5, rotation up to 10°, a smooth
    displacement of up to 4 % of the side, σ = 0.05 on the 0..1 scale.

    Args:
      images: uint8 (N, H, W, C).
      sigma: standard deviation of the noise.
      seed: see `corrupt`.
      indices: see `corrupt`.
    """

    def perturb(x: np.ndarray, rngs: Generators) -> np.ndarray:
        flips = np.array([rng.random() < 0.5 for rng in rngs])
        x = np.where(flips[:, None, None, None], x[:, :, ::-1], x)
        angles = np.deg2rad([rng.uniform(-10, 10) for rng in rngs])
        rows, columns = _rotated(x.shape, angles)
        side = x.shape[1]
        bend = [np.stack([_smooth(rng, x.shape[1:3], 4) - 0.5 for _ in range(2)]) for rng in rngs]
        shift = 2 * 0.04 * side * np.stack(bend)
        return _noise(_sample(x, rows + shift[:, 0], columns + shift[:, 1]), sigma, rngs)

    return _apply(images, perturb, ("qin", sigma), seed, indices)


def clouds(rng: np.random.Generator, size: Sequence[int]) -> np.ndarray:
    """Returns noise (rows, columns) in 0..1 at four scales; coarser scales have larger amplitudes."""
    return sum((_smooth(rng, size, 2**k) / 2**k for k in range(1, 5)), np.zeros(size)) / 0.9375


def trained_kinds(augment: Mapping[str, Any], camera: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the kinds of KINDS that training images have under the whole configuration groups `augment` and `camera`.

    Their mean says little about unknown corruptions, so it is reported apart (Hendrycks & Dietterich 2019, section 4).
    """
    on = {f"augment.{key}" for key, value in augment.items() if value and tuple(np.atleast_1d(value)) != (1.0, 1.0)}
    if camera["probability"]:
        on |= {f"camera.{key}" for key, value in camera.items() if value}
    return tuple(kind for kind, (_, _, keys) in _KINDS.items() if on.intersection(keys))


def mean_corruption_error(errors: Mapping[str, Sequence[float]], reference: Mapping[str, Sequence[float]]) -> float:
    """Returns the mean corruption error (Hendrycks & Dietterich 2019, section 4); the reference model has 1.

    Both arguments map kinds to the error rates by severity, in 0..1. Raises InputError if the reference model makes no
    error for a kind.
    """
    if perfect := [kind for kind, values in reference.items() if not sum(values)]:
        raise InputError(f"the reference model makes no error for {perfect[0]!r}")
    return sum(sum(values) / sum(reference[kind]) for kind, values in errors.items()) / len(errors)


def _apply(
    images: np.ndarray,
    function: Callable[[np.ndarray, Generators], np.ndarray],
    name: tuple[Any, ...],
    seed: int,
    indices: Sequence[int] | None,
) -> np.ndarray:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise InputError(f"images must be uint8 (N, H, W, C), got {images.dtype} {images.shape}")
    numbers = range(len(images)) if indices is None else indices
    if len(numbers) != len(images):
        raise InputError(f"expected {len(images)} indices, one per image, got {len(numbers)}")
    code = zlib.crc32(repr(name).encode())
    parts = []
    for start in range(0, len(images), 256):  # bounded memory
        rngs = [np.random.default_rng([seed, code, int(i)]) for i in numbers[start : start + 256]]
        changed = function(images[start : start + 256].astype(np.float64) / 255, rngs)
        # Rounded to 1e-6 first, so that a value halfway between two integers is rounded alike on all machines.
        parts.append(np.rint(np.round(np.clip(changed, 0, 1) * 255, 6)).astype(np.uint8))
    return np.concatenate(parts) if parts else images.copy()


def _noise(x: np.ndarray, sigma: float, rngs: Generators) -> np.ndarray:
    return x + sigma * np.stack([rng.standard_normal(x.shape[1:]) for rng in rngs])


def _blur(x: np.ndarray, sigma: float, rngs: Generators) -> np.ndarray:
    """Applies a Gaussian blur; sigma in pixels at a side of 48."""
    sigma *= x.shape[1] / 48
    reach = max(1, round(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (1, 2):
        pad = [(reach, reach) if a == axis else (0, 0) for a in range(4)]
        padded = np.pad(x, pad, mode="edge")
        x = sum(tap * np.take(padded, np.arange(i, i + x.shape[axis]), axis) for i, tap in enumerate(taps))
    return x


def _motion(x: np.ndarray, length: float, rngs: Generators) -> np.ndarray:
    """Averages along a line of random direction; length in pixels at a side of 48."""
    angles = np.array([rng.uniform(0, np.pi) for rng in rngs])
    rows, columns = _rotated(x.shape, np.zeros(len(x)))
    steps = np.linspace(-0.5, 0.5, round(length) + 1) * length * x.shape[1] / 48
    dy, dx = np.sin(angles)[:, None, None], np.cos(angles)[:, None, None]
    return np.mean([_sample(x, rows + s * dy, columns + s * dx) for s in steps], axis=0)


def _jpeg(x: np.ndarray, quality: float, rngs: Generators) -> np.ndarray:
    """Quantizes the cosine transform of 8x8 blocks (ISO 10918-1), each channel separately."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    table = np.clip(np.floor((JPEG_TABLE * scale + 50) / 100), 1, 255)
    k = np.arange(8)
    basis = np.cos((2 * k[None] + 1) * k[:, None] * np.pi / 16) * np.where(k[:, None] == 0, np.sqrt(1 / 8), 0.5)
    n, height, width, channels = x.shape
    padded = np.pad(x, ((0, 0), (0, -height % 8), (0, -width % 8), (0, 0)), mode="edge") * 255 - 128
    rows, columns = padded.shape[1] // 8, padded.shape[2] // 8
    blocks = padded.reshape(n, rows, 8, columns, 8, channels).transpose(0, 1, 3, 5, 2, 4)
    steps = np.rint(np.round(basis @ blocks @ basis.T / table, 6))
    restored = (basis.T @ (steps * table) @ basis).transpose(0, 1, 4, 2, 5, 3).reshape(padded.shape)
    return (np.rint(np.round(restored[:, :height, :width], 6)) + 128) / 255


def _brightness(x: np.ndarray, amount: float, rngs: Generators) -> np.ndarray:
    return x + amount * _signs(rngs)


def _contrast(x: np.ndarray, factor: float, rngs: Generators) -> np.ndarray:
    mean = x.mean(axis=(1, 2, 3), keepdims=True)
    return (x - mean) * factor + mean


def _fog(x: np.ndarray, amount: float, rngs: Generators) -> np.ndarray:
    haze = np.stack([clouds(rng, x.shape[1:3]) for rng in rngs])
    return x * (1 - amount) + amount * (0.6 + 0.4 * haze[..., None])


def _pixelate(x: np.ndarray, share: float, rngs: Generators) -> np.ndarray:
    """Averages over the cells of a grid whose side is `share` of the image's."""
    for axis in (1, 2):
        side = x.shape[axis]
        cell = np.arange(side) * max(1, round(share * side)) // side
        means = [x.take(np.flatnonzero(cell == c), axis).mean(axis=axis) for c in range(cell[-1] + 1)]
        x = np.stack(means, axis=axis).take(cell, axis)
    return x


def _bar(x: np.ndarray, share: float, rngs: Generators) -> np.ndarray:
    """Draws a horizontal gray bar, `share` of the height thick."""
    x, side = x.copy(), x.shape[1]
    thick = max(1, round(share * side))
    for image, rng in zip(x, rngs, strict=True):
        top = int(rng.integers(0, side - thick + 1))
        image[top : top + thick] = rng.random()
    return x


def _mask(x: np.ndarray, share: float, rngs: Generators) -> np.ndarray:
    """Draws a light face mask over the lower `share` of the height, rounded toward the chin."""
    x = x.copy()
    y, across = np.meshgrid(*(np.linspace(0, 1, n) for n in x.shape[1:3]), indexing="ij")
    inside = (y > 1 - share) & (np.abs(across - 0.5) < 0.42 - 0.25 * np.maximum(0, (y - 0.75) / 0.25) ** 2)
    for image, rng in zip(x, rngs, strict=True):
        folds = 0.03 * np.sin(2 * np.pi * (y * 12 + rng.random()))
        image[inside] = (rng.uniform(0.55, 0.9) + folds)[inside][:, None]
    return x


def _low_light(x: np.ndarray, exposure: float, rngs: Generators) -> np.ndarray:
    """Scales the light by `exposure` and adds Poisson noise of 200 photons per white pixel."""
    photons = 200.0
    counts = [rng.poisson(np.round(image * exposure * photons, 6)) for image, rng in zip(x, rngs, strict=True)]
    return np.stack(counts) / photons


def _rotation(x: np.ndarray, degrees: float, rngs: Generators) -> np.ndarray:
    return _sample(x, *_rotated(x.shape, np.deg2rad(degrees) * _signs(rngs)[:, 0, 0, 0]))


def _translation(x: np.ndarray, share: float, rngs: Generators) -> np.ndarray:
    angles = np.array([rng.uniform(0, 2 * np.pi) for rng in rngs])[:, None, None]
    rows, columns = _rotated(x.shape, np.zeros(len(x)))
    reach = share * x.shape[1]
    return _sample(x, rows + reach * np.sin(angles), columns + reach * np.cos(angles))


def _scale(x: np.ndarray, factor: float, rngs: Generators) -> np.ndarray:
    """Scales by the factor or its inverse, as a crop that is too tight or too wide."""
    return _sample(x, *_rotated(x.shape, np.zeros(len(x)), factor ** _signs(rngs)[:, 0, 0, 0]))


def _signs(rngs: Generators) -> np.ndarray:
    return np.array([1.0 if rng.random() < 0.5 else -1.0 for rng in rngs])[:, None, None, None]


def _smooth(rng: np.random.Generator, size: Sequence[int], cells: int) -> np.ndarray:
    """Returns noise (rows, columns) in 0..1, interpolated from a random grid of cells x cells."""
    grid = rng.random((1, cells + 1, cells + 1, 1))
    rows, columns = np.meshgrid(*(np.linspace(0, cells, n) for n in size), indexing="ij")
    return _sample(grid, rows[None], columns[None])[0, ..., 0]


def _rotated(
    shape: Sequence[int], angles: np.ndarray, factors: np.ndarray | float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the source (rows, columns), each (N, H, W), of a rotation and scaling about the center."""
    height, width = shape[1:3]
    y, x = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    cosine, sine = (np.asarray(f(angles) / factors).reshape(-1, 1, 1) for f in (np.cos, np.sin))
    return cosine * y - sine * x + (height - 1) / 2, sine * y + cosine * x + (width - 1) / 2


def _sample(x: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Samples images (N, H, W, C) bilinearly at positions (N, h, w); outside, the border pixels repeat."""
    n, height, width, _ = x.shape
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    top, left = (
        np.minimum(np.floor(v).astype(np.intp), m)
        for v, m in ((rows, max(0, height - 2)), (columns, max(0, width - 2)))
    )
    fy, fx = (rows - top)[..., None], (columns - left)[..., None]
    which = np.arange(n)[:, None, None]
    below, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    upper = x[which, top, left] * (1 - fx) + x[which, top, right] * fx
    lower = x[which, below, left] * (1 - fx) + x[which, below, right] * fx
    return upper * (1 - fy) + lower * fy


# Function, strength by severity, and the configuration keys that put the kind into the training images.
_KINDS: dict[str, tuple[Corruption, tuple[float, ...], tuple[str, ...]]] = {
    "noise": (_noise, (0.04, 0.08, 0.12, 0.18, 0.26), ("camera.noise",)),
    "blur": (_blur, (0.6, 0.9, 1.3, 1.8, 2.4), ("camera.blur",)),
    "motion": (_motion, (3, 5, 7, 10, 14), ("camera.blur",)),
    "jpeg": (_jpeg, (50, 30, 18, 10, 6), ("camera.jpeg",)),
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5), ("camera.light", "augment.brightness")),
    "contrast": (_contrast, (0.6, 0.45, 0.3, 0.2, 0.12), ("augment.contrast",)),
    "fog": (_fog, (0.25, 0.4, 0.5, 0.6, 0.7), ()),
    "pixelate": (_pixelate, (0.5, 0.4, 0.3, 0.24, 0.18), ("camera.resolution",)),
    "bar": (_bar, (0.08, 0.14, 0.2, 0.28, 0.36), ("augment.erase",)),
    "mask": (_mask, (0.2, 0.27, 0.34, 0.41, 0.48), ()),
    "low_light": (_low_light, (0.5, 0.3, 0.2, 0.12, 0.07), ("camera.light",)),
    "rotation": (_rotation, (5, 10, 15, 22, 30), ("augment.rotate",)),
    "translation": (_translation, (0.05, 0.1, 0.15, 0.2, 0.25), ("augment.translate",)),
    "scale": (_scale, (1.1, 1.2, 1.3, 1.4, 1.55), ("augment.crop",)),
}
KINDS = tuple(_KINDS)

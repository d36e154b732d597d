"""Measures out-of-distribution detection by confidence: faces against textures and images of unknown classes."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ferjax.data import Images
from ferjax.data.synthetic import rendering
from ferjax.evaluate import calibration, corruptions

COUNT = 500


def non_faces(count: int, shape: tuple[int, int, int], *, seed: int = 0) -> np.ndarray:
    """Returns random textures, uint8 (count, *shape), shape (H, W, C): clouds, stripes, checks, gradients and edges."""
    height, width, channels = shape
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    pictures = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        along = np.cos(angle) * x + np.sin(angle) * y
        across = np.cos(angle) * y - np.sin(angle) * x
        wave = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(1, 10) * along + phase)
        checks = ((np.floor(along * rng.integers(2, 9)) + np.floor(across * rng.integers(2, 9))) % 2).astype(float)
        kinds = (
            corruptions.clouds(rng, (height, width)),
            wave,
            checks,
            along - along.min(),
            (along > rng.uniform(0, 1)) * 1.0,
        )
        flat = kinds[i % len(kinds)]
        low, high = np.sort(rng.uniform(0, 1, 2))
        tint = rng.uniform(0.7, 1, channels)
        noisy = (low + (high - low) * flat)[..., None] * tint + rng.normal(0, 0.02, (height, width, channels))
        pictures.append(np.rint(np.round(np.clip(noisy, 0, 1) * 255, 6)))
    return np.stack(pictures).astype(np.uint8)


def measure(
    logits: Callable[[Images], np.ndarray],
    images: Images,
    *,
    temperature: float,
    unknown: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measures how well the confidence separates the faces of a split from other images.

    Args:
      logits: uint8 images (N, H, W, C) -> logits (N, classes).
      images: faces of the split, uint8 (N, H, W, C).
      temperature: temperature of the softmax.
      unknown: further images by name, such as faces of a class that was left out of training.
      seed: seed of the textures and of the rendered faces.

    Returns:
      `n`, `auroc` (1: all faces have a higher confidence; 0.5: chance) and the mean `confidence` for `non_faces`
      (textures), each of `unknown` and, if the size permits, `drawn_faces` (rendered); `faces`: the mean confidence
      over the split.
    """

    def confidence(pictures: Images) -> np.ndarray:
        return calibration.softmax(logits(pictures), temperature).max(axis=1)

    known = confidence(images)
    shape = images.shape[1:]
    others = {"non_faces": non_faces(COUNT, shape, seed=seed), **(unknown or {})}
    smallest, largest = rendering.SIZES
    if smallest <= shape[0] == shape[1] <= largest:
        others["drawn_faces"] = rendering.render_faces(
            np.arange(COUNT) % 7, seed=seed, split="test", size=shape[0], channels=shape[2]
        )
    result: dict[str, Any] = {"faces": float(known.mean()), "seed": seed}
    for name, pictures in others.items():
        found = confidence(pictures)
        result[name] = {"n": len(found), "auroc": calibration.auroc(known, found), "confidence": float(found.mean())}
    return result

"""The images that show an integer network its ranges: of the training split, classes balanced, seeded, none far out."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ferjax import errors
from ferjax.data import Split
from ferjax.models.layers import tapped
from ferjax.spec import ModelSpec

IMAGES = 256
_FAR, _FEW, _BATCH = 6.0, 0.05, 32


def calibration_images(spec: ModelSpec, train: Split, *, count: int = IMAGES, seed: int = 0) -> np.ndarray:
    """Draws images and normalises them as the network's input.

    Args:
      spec: of the network.
      train: the split that it was trained on.
      count: number of images; all if there are fewer.
      seed: of the draw.

    Returns:
      float32 (count, H, W, C).

    Raises:
      InputError: if the images are not of the spec's shape.
    """
    if train.images.shape[1:] != spec.input_shape:
        raise errors.InputError(
            f"calibration images are of shape {train.images.shape[1:]}, the network takes {spec.input_shape}: "
            "prepare the data at the size and colour that it was trained on"
        )
    return normalize(spec, train.images[balanced(train.labels, count, seed)])


def typical(apply: Callable[..., Any], images: np.ndarray) -> np.ndarray:
    """Leaves out images at which a network runs away: one of them widens the ranges of integers for all others.

    A batch normalisation holds an image back by the batch's own variance while it trains, not afterwards; through many
    blocks what stands out grows. Of a MobileNetV3-Small, five of 256 images reached 17 to 390 times the maximum of the
    others: its int8 file gave 32 % of the network's answers with them, 95 % without. Where nothing runs away (maxima
    stay below 6 times their median), all images are kept.

    Args:
      apply: (images, mutable=["intermediates"]) -> (logits, {"intermediates": …}) in evaluation mode.
      images: float32 (N, H, W, C), normalised.

    Returns:
      Those that stay below 6 times the median of the images' largest activations at every named intermediate; of those
      that do not, the least far ones are kept, too, until 95 % are.
    """

    @jax.jit
    def maxima(images: jax.Array) -> dict[str, jax.Array]:
        _, state = apply(images, mutable=["intermediates"])
        return {name: jnp.abs(value.reshape(len(images), -1)).max(1) for name, value in tapped(state).items()}

    parts = [maxima(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)]
    largest = np.stack([np.concatenate([part[name] for part in parts]) for name in parts[0]]).astype(np.float32)
    usual = np.maximum(np.median(largest, 1, keepdims=True), np.finfo(np.float32).tiny)
    ratio = (largest / usual).max(0)
    return images[ratio <= max(_FAR, np.sort(ratio)[-1 - int(_FEW * len(ratio))])]


def normalize(spec: ModelSpec, images: np.ndarray) -> np.ndarray:
    """Turns uint8 images (N, H, W, C) into a network's float32 input."""
    mean, std = (np.array(values, np.float32) for values in (spec.mean, spec.std))
    return (images.astype(np.float32) / np.float32(255) - mean) / std


def balanced(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns the places of `count` examples, in order, as equally many of each class as there are.

    Args:
      labels: int (N,).
      count: number of examples; all if there are fewer.
      seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    turn = np.empty(len(labels), np.int64)  # the how-manieth of its class each example is
    for c in np.unique(labels):
        of_class = order[labels[order] == c]
        turn[of_class] = np.arange(len(of_class))
    return np.sort(order[np.argsort(turn[order], kind="stable")][:count])

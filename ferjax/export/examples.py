"""The images that show an integer network its ranges: of the training split, classes balanced, seeded."""

import numpy as np

from ferjax import cli
from ferjax.data import Split
from ferjax.export.network import normalize
from ferjax.spec import ModelSpec

IMAGES = 256


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
        raise cli.InputError(
            f"calibration images are of shape {train.images.shape[1:]}, the network takes {spec.input_shape}: "
            "prepare the data at the size and colour that it was trained on"
        )
    return normalize(spec, train.images[balanced(train.labels, count, seed)])


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

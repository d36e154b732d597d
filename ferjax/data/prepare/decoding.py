"""Decodes image files to uint8 arrays (H, W, C)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from ferjax.data.datasets.sources import BadExample
from ferjax.runtime import preprocessing
from ferjax.runtime.sources import pictures

Box = tuple[int, int, int, int]


class Decoded(NamedTuple):
    """One decoded image.

    Attributes:
      image: uint8 (size, size, channels).
      remarks: applied conversions, such as "resized to 48x48".
    """

    image: np.ndarray
    remarks: tuple[str, ...]


def decode(
    data: bytes | np.ndarray,
    size: int,
    channels: int,
    *,
    box: Box | None = None,
    crop: Callable[[Image.Image], Image.Image] | None = None,
) -> Decoded:
    """Decodes an image as `pictures.read` and fits it as `preprocessing.fit`; returns it with the applied conversions.

    Args:
      data: bytes of a file, or a uint8 array (H, W) or (H, W, C).
      size: height and width of the result in pixels.
      channels: 1 for gray, 3 for RGB.
      box: crop (left, top, right, bottom) in pixels, clipped to the image.
      crop: function that crops the face of an 8-bit image, called after `box`.

    Raises:
      UnreadableImage: if the file is damaged or of another format.
      BadExample: if the box is outside the image.
    """
    remarks: tuple[str, ...] = ()
    if isinstance(data, np.ndarray):
        picture = Image.fromarray(data.squeeze(-1) if data.shape[2:] == (1,) else data)
    else:
        picture, remarks = pictures.read(data)
    if box is not None:
        picture = picture.crop(_clip(box, picture.size))
    if crop is not None:
        picture = crop(picture)
    if picture.size != (size, size):
        remarks += (f"resized to {size}x{size}",)
    return Decoded(preprocessing.fit(picture, (size, size), channels), remarks)


def _clip(box: Box, size: tuple[int, int]) -> Box:
    left, top, right, bottom = box
    clipped = max(0, left), max(0, top), min(size[0], right), min(size[1], bottom)
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        raise BadExample(f"the face box {box} is outside the image of {size[0]}x{size[1]} pixels")
    return clipped

"""Defines Face, and crops and resizes the searched region of a frame."""

import math
from typing import NamedTuple

import cv2
import numpy as np

from ferjax.errors import InputError

Box = tuple[float, float, float, float]
MAX_SCALE = 2.0  # further enlarging adds no detail for a detector


class Face(NamedTuple):
    """One detected face.

    Attributes:
      box: (x, y, width, height) of the square from forehead to chin, in pixels.
      score: 0..1, comparable within one detector only.
      landmarks: (5, 2): both eyes, nose, mouth corners; (2, 2): both eyes; or None.
    """

    box: Box
    score: float
    landmarks: np.ndarray | None = None


def check_frame(frame: np.ndarray) -> None:
    """Raises InputError unless a frame is a non-empty uint8 (H, W, 3) array."""
    shape = getattr(frame, "shape", None)
    if shape is None or len(shape) != 3 or shape[2] != 3 or not frame.size or frame.dtype != np.uint8:
        found = type(frame).__name__ if shape is None else f"{frame.dtype} {shape}"
        raise InputError(f"a frame must be a non-empty uint8 array (height, width, 3) in BGR order, got {found}")


def resized(image: np.ndarray, scale: float, *, gray: bool = False) -> np.ndarray:
    """Resizes a BGR image by a factor, to BGR or gray; averages pixels when shrinking, to avoid aliasing."""
    step = max(1, int(1 / (3 * scale)))  # subsample very large images first; three pixels per output pixel suffice
    if step > 1:
        image = np.ascontiguousarray(image[::step, ::step])
        scale *= step
    if gray:  # first: one channel is resized faster than three
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    if scale == 1:
        return image
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def crop_region(frame: np.ndarray, region: Box | None) -> tuple[int, int, np.ndarray]:
    """Returns (left, top, pixels) of a region, clipped to the frame; None is the whole frame."""
    if region is None:
        return 0, 0, frame
    x, y, w, h = region
    left, top = max(0, math.floor(x)), max(0, math.floor(y))
    return left, top, frame[top : max(top, math.ceil(y + h)), left : max(left, math.ceil(x + w))]

"""What a face is, and the part of a frame in which one is looked for."""

import math
from typing import NamedTuple

import cv2
import numpy as np

from ferjax.errors import InputError

Box = tuple[float, float, float, float]
LARGEST_SCALE = 2.0  # beyond it, enlarging shows a detector nothing new


class Face(NamedTuple):
    """One face.

    Attributes:
      box: (x, y, width, height) of the square from forehead to chin, in pixels.
      score: 0..1, comparable within one detector only.
      landmarks: (5, 2) or None: one eye, the other one, the nose, the mouth corners; (2, 2) if only eyes are known.
    """

    box: Box
    score: float
    landmarks: np.ndarray | None = None


def check_frame(frame: np.ndarray) -> None:
    """Raises InputError unless a frame is uint8 (H, W, 3) and not empty."""
    shape = getattr(frame, "shape", None)
    if shape is None or len(shape) != 3 or shape[2] != 3 or not frame.size or frame.dtype != np.uint8:
        what = "nothing" if shape is None else f"{frame.dtype} of shape {shape}"
        raise InputError(f"a frame must be uint8 pixels of shape (height, width, 3) in BGR order, got {what}")


def reduced(picture: np.ndarray, scale: float) -> np.ndarray:
    """Returns a picture resized by a factor; shrinking averages, so that no detail turns into noise."""
    skip = max(1, int(1 / (3 * scale)))  # of a very large picture, every third pixel is enough to average
    if skip > 1:
        picture = np.ascontiguousarray(picture[::skip, ::skip])
        scale *= skip
    if scale == 1:
        return picture
    size = tuple(max(1, round(side * scale)) for side in picture.shape[1::-1])
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def cut(frame: np.ndarray, region: Box | None) -> tuple[int, int, np.ndarray]:
    """Returns the corner and the pixels of a region inside the frame."""
    if region is None:
        return 0, 0, frame
    x, y, w, h = region
    left, top = max(0, math.floor(x)), max(0, math.floor(y))
    return left, top, frame[top : max(top, math.ceil(y + h)), left : max(left, math.ceil(x + w))]

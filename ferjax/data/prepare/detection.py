"""Crops the face of a photograph with the detector and the crop of `ferjax live`."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from ferjax.data.datasets.sources import BadExample
from ferjax.errors import InputError
from ferjax.spec import ModelSpec

_LONGEST = 1024  # pixels; larger images are downscaled for detection
_local = threading.local()


def largest_face(size: int, channels: int) -> Callable[[Image.Image], Image.Image]:
    """Returns a function that crops the largest face of an 8-bit image as `ferjax live` does.

    If both eyes are found, the crop is rotated until they are level. The detector uses scale factor 1.1, 5 neighbors
    and a minimum size of 30 pixels (Paraschiv 2026).

    Args:
      size: height and width of the result in pixels.
      channels: 1 for gray, 3 for RGB.

    Returns:
      Function image -> face (size, size) of mode "L" or "RGB". It raises BadExample if no face is found, and
      InputError if OpenCV is not installed or has no cascades.
    """
    gray = channels == 1
    spec = ModelSpec(
        class_names=("face", "no face"),
        input_size=(size, size),
        color_order="gray" if gray else "rgb",
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        architecture="",
    )

    def cut(picture: Image.Image) -> Image.Image:
        (detection, _), (find, eyes) = _runtime(), _detectors()
        frame = np.ascontiguousarray(np.asarray(picture.convert("RGB"))[..., ::-1])
        found = find(frame, min_face=max(30.0, 30 * max(picture.size) / _LONGEST))
        if not found:
            raise BadExample("no face found")
        face = eyes(frame, max(found, key=lambda f: f.box[2]))
        pixels = detection.crop(frame, face, spec)
        return Image.fromarray(pixels[..., 0] if gray else pixels)

    return cut


def _runtime() -> tuple[Any, Any]:
    """Returns the modules `detector` and `finders` of the runtime."""
    try:
        from ferjax.runtime.faces import detector, finders
    except ImportError as error:
        raise InputError(f"--detect requires OpenCV 4 ({error}): pip install 'ferjax[live]'") from error
    return detector, finders


def _detectors() -> tuple[Any, Any]:
    """Returns the face detector and the eye finder of this thread; OpenCV's cascades are not thread-safe."""
    if "pair" not in _local.__dict__:
        detector, finders = _runtime()
        _local.pair = detector.create_detector("haar"), finders.eye_finder()
    return _local.pair

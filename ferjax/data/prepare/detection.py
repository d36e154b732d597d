"""Cutting the face out of a photograph, with the detector and the crop of the live loop."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from ferjax.data.datasets.sources import BadExample
from ferjax.errors import InputError
from ferjax.spec import ModelSpec

_LONGEST = 1024  # pixels; a larger photograph is searched at this size
_local = threading.local()


def largest_face(size: int, channels: int) -> Callable[[Image.Image], Image.Image]:
    """Returns a function that cuts the largest face out of an 8-bit picture, as the live loop would.

    The face is turned so that the eyes are level if both are found. Scale factor 1.1, 5 neighbours and 30 pixels at
    least, as Paraschiv (2026) sets them.

    Args:
      size: height and width of the result in pixels.
      channels: 1 for grey, 3 for RGB.

    Returns:
      picture -> its face, (size, size), of mode "L" or "RGB". It raises BadExample if there is no face, and
      InputError if OpenCV is not installed or has no cascades.
    """
    gray = channels == 1
    wanted = ModelSpec(
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
            raise BadExample("no face found in it")
        face = eyes(frame, max(found, key=lambda f: f.box[2]))
        pixels = detection.crop(frame, face, wanted)
        return Image.fromarray(pixels[..., 0] if gray else pixels)

    return cut


def _runtime() -> tuple[Any, Any]:
    try:
        from ferjax.runtime.faces import detector, finders
    except ImportError as error:
        raise InputError(f"--detect needs OpenCV 4 ({error}): pip install 'ferjax[live]'") from error
    return detector, finders


def _detectors() -> tuple[Any, Any]:
    """A detector and an eye finder of this thread's own: OpenCV's cascades are not safe to share."""
    if "pair" not in _local.__dict__:
        detector, finders = _runtime()
        _local.pair = detector.create_detector("haar"), finders.eye_finder()
    return _local.pair

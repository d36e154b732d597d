"""Cutting the face out of a photograph, with the cascade that the live loop uses by default."""

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ferjax.cli import InputError
from ferjax.data.sources import BadExample

_LONGEST = 1024  # pixels; a larger photograph is searched at this size
_local = threading.local()


def largest_face(picture: Image.Image) -> Image.Image:
    """Returns the largest face of an 8-bit picture, turned so that the eyes are level if both are found.

    Scale factor 1.1, 5 neighbours and 30 pixels at least, as Paraschiv (2026) sets them.

    Raises:
      BadExample: if there is no face.
      InputError: if OpenCV is not installed or has no cascades.
    """
    faces = _find(picture, "haarcascade_frontalface_default.xml")
    if not faces:
        raise BadExample("no face found in it")
    box = max(faces, key=lambda b: b[2] * b[3])
    if angle := _tilt(picture.crop(_corners(box))):
        x, y, w, h = box
        turned = picture.rotate(math.degrees(angle), Image.Resampling.BILINEAR, center=(x + w / 2, y + h / 2))
        return turned.crop(_corners(box))
    return picture.crop(_corners(box))


def _corners(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    x, y, w, h = box
    return x, y, x + w, y + h


def _tilt(face: Image.Image) -> float:
    """The angle of the line between the eyes in radians, clockwise on the screen; 0 if it cannot be told."""
    upper = face.crop((0, 0, face.width, round(face.height * 0.6)))
    eyes = sorted(_find(upper, "haarcascade_eye.xml", least=max(8, face.width // 8)), key=lambda b: -b[2])[:2]
    if len(eyes) < 2:
        return 0.0
    (ax, ay), (bx, by) = sorted((x + w / 2, y + h / 2) for x, y, w, h in eyes)
    angle = math.atan2(by - ay, bx - ax)
    apart = (bx - ax) / face.width
    return angle if 0.25 < apart < 0.7 and abs(angle) < math.radians(30) else 0.0


def _find(picture: Image.Image, cascade: str, least: int = 30) -> list[tuple[int, int, int, int]]:
    """Returns boxes (x, y, width, height) in the picture's pixels."""
    scale = max(1.0, max(picture.size) / _LONGEST)
    small = picture if scale == 1 else picture.resize((round(picture.width / scale), round(picture.height / scale)))
    found = _cascade(cascade).detectMultiScale(np.asarray(small.convert("L")), 1.1, 5, minSize=(least, least))
    scaled = np.rint(np.asarray(found, float).reshape(-1, 4) * scale).astype(int)
    return [(x, y, w, h) for x, y, w, h in scaled.tolist()]


def _cascade(name: str) -> Any:
    """A cascade of this thread's own: OpenCV's are not safe to share."""
    try:
        import cv2

        loaded = _local.__dict__.setdefault("cascades", {})
        if name not in loaded:
            loaded[name] = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / name))
        return loaded[name]
    except (ImportError, AttributeError) as error:
        raise InputError(f"--detect needs OpenCV 4 ({error}): pip install 'ferjax[live]'") from error

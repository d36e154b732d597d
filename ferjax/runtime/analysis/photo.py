"""Finds and classifies the faces of photos: `ferjax.analyze`."""

import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ferjax.cli import counted
from ferjax.errors import InputError, unknown
from ferjax.runtime import shipped
from ferjax.runtime.faces.detector import Detector, create_detector
from ferjax.runtime.loop import stream
from ferjax.runtime.model import Model, load
from ferjax.runtime.result import Result
from ferjax.runtime.sources import pictures
from ferjax.runtime.sources.factory import existing
from ferjax.runtime.sources.frame import Frame, Source, to_bgr

if TYPE_CHECKING:
    from PIL import Image

    Photo: TypeAlias = str | os.PathLike[str] | bytes | np.ndarray | Image.Image

_COLORS = ("bgr", "rgb")
_lock = threading.Lock()  # OpenCV's detectors are not thread-safe


def analyze(
    image: "Photo | list[Photo] | tuple[Photo, ...]",
    *,
    model: str | os.PathLike[str] | Model | None = None,
    detector: str | Detector = "haar",
    detector_model: str | os.PathLike[str] | None = None,
    detect_scale: float | None = None,
    threshold: float | None = None,
    color: str = "bgr",
) -> Any:
    """Finds and classifies the faces of a photo.

        for face in ferjax.analyze("photo.jpg"):
            print(face.box, face.label, face.confidence)

    It is thread-safe: one search for faces runs at a time. Model and detector are loaded once and reused.

    Args:
      image: a path, the bytes of an image file, a uint8 array (H, W) or (H, W, 1) gray or (H, W, 3), a PIL image, or a
        list of these. The EXIF orientation is applied: boxes are in pixels of the upright image.
      model: see `ferjax.runtime.load` (default: the default model of the package), or a loaded model.
      detector: see `ferjax.runtime.stream`, as the next three.
      detector_model: file of the detector.
      detect_scale: size of the searched image relative to the photo.
      threshold: confidence below which a face is "uncertain".
      color: order of the colors in an array, "bgr" as OpenCV reads it, or "rgb".

    Returns:
      The faces, numbered by `track` from 1; for a list, a list for each image.

    Raises:
      InputError: if an image cannot be read, or an option is invalid.
    """
    if color not in _COLORS:
        raise unknown("color", color, _COLORS)
    loaded = reused_model(model)
    if not isinstance(detector, Detector):
        file = None if detector_model is None else Path(detector_model).absolute()
        with _lock:
            detector = _detector(detector, detect_scale, file)
    stream([], loaded, detector=detector, threshold=threshold)  # checks the options, also for an empty list
    if isinstance(image, list | tuple):
        images = _numbered_pixels(image, color)
        return [analyze_pixels(pixels, loaded, detector, threshold).faces for pixels in images]
    return analyze_pixels(_pixels(image, color), loaded, detector, threshold).faces


def analyze_pixels(pixels: np.ndarray, model: Model, detector: Detector, threshold: float | None = None) -> Result:
    """Finds and classifies the faces of one photo, uint8 (H, W, 3) BGR."""
    frames = iter([Frame(pixels, 0.0, 0, 0)])
    photo = Source("photo", frames, threading.Event(), fps=1.0, stills=True)
    with _lock:
        return next(stream(photo, model, detector=detector, threshold=threshold))


def reused_model(model: str | os.PathLike[str] | Model | None) -> Model:
    """Returns a model that is loaded once, and again if its file changes."""
    if isinstance(model, Model):
        return model
    path = shipped.find(model).absolute()
    with _lock:
        return _model(path, path.stat().st_mtime_ns if path.exists() else 0)


@functools.lru_cache(maxsize=4)
def _model(path: Path, _changed: int) -> Model:
    return load(path)


@functools.lru_cache(maxsize=4)
def _detector(name: str, scale: float | None, model: Path | None) -> Detector:
    return create_detector(name, scale=scale, model=model)


def _numbered_pixels(images: "Sequence[Photo]", color: str) -> Iterator[np.ndarray]:
    """Yields the images of a list as `_pixels`."""
    for number, image in enumerate(images, 1):
        try:
            yield _pixels(image, color)
        except InputError as error:
            raise InputError(f"image {number} of the list: {error}") from error


def _pixels(image: Any, color: str) -> np.ndarray:
    """Returns an image as uint8 BGR (H, W, 3)."""
    if isinstance(image, np.ndarray):
        return _checked(image, color)
    if isinstance(image, bytes | bytearray | memoryview):
        data = bytes(image)
        return _decoded(lambda: pictures.to_bgr(pictures.read(data)), f"the image of {counted(len(data), 'byte')}")
    if isinstance(image, str | os.PathLike):
        path = existing(image, "an image file")
        if path.is_dir():
            raise InputError(f"{path} is a folder: give its images as a list, or use `ferjax analyze`")
        return _decoded(lambda: pictures.read_bgr(path), str(path), "; for a film use analyze_film")
    if hasattr(image, "getexif"):  # a PIL image, checked without importing Pillow
        return _decoded(lambda: pictures.to_bgr(pictures.upright(image.copy())), "the PIL image")
    kind = type(image).__name__
    raise InputError(f"an image must be a path, bytes, a uint8 array, a PIL image, or a list of these, got {kind}")


def _decoded(decode: Callable[[], np.ndarray], name: str, hint: str = "") -> np.ndarray:
    try:
        return decode()
    except (OSError, ValueError) as error:  # UnreadableImage is a ValueError
        raise InputError(f"{name} cannot be read as an image ({error}){hint}") from error


def _checked(image: np.ndarray, color: str) -> np.ndarray:
    gray = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1)
    if image.dtype != np.uint8 or not image.size or not (gray or (image.ndim == 3 and image.shape[2] == 3)):
        raise InputError(
            "an image must be a non-empty uint8 array (height, width) or (height, width, 1) gray, or (height, width, "
            f"3), got {image.dtype} {image.shape}; for several images give a list"
        )
    if gray:
        return to_bgr(np.ascontiguousarray(image.reshape(image.shape[:2])))
    return np.ascontiguousarray(image[..., ::-1] if color == "rgb" else image)

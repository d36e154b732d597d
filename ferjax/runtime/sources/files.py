"""Reads the frames of video files, and the images of a folder."""

import contextlib
import os
import pathlib
import re
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np

from ferjax.cli import note
from ferjax.errors import InputError
from ferjax.runtime.sources.frame import DEFAULT_FPS, Frame, Source, read, silence_opencv

PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
_TIFF = (".tif", ".tiff")
_TRANSPARENT = (".png", ".webp", *_TIFF)
_EXIF = cv2.IMAGE_METADATA_EXIF


def pictures_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the images in a folder in natural order, img2 before img10.

    Raises:
      InputError: if there is none.
    """
    found = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES and p.is_file()]
    if not found:
        raise InputError(f"folder {folder} has no image; accepted: {', '.join(PICTURES)}")
    return sorted(found, key=_natural)


def _natural(path: pathlib.Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name.lower())]


def read_picture(path: pathlib.Path) -> np.ndarray | None:
    """Reads an image as uint8 BGR (h, w, 3); returns None if it cannot be read.

    As in data preparation, the EXIF orientation is applied and transparent images are composited on white.
    """
    with silence_opencv(), contextlib.suppress(OSError, cv2.error):  # cv2.error: empty, or too many pixels
        data = np.fromfile(path, np.uint8)  # cv2.imread cannot open every path on Windows
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        if image is None or path.suffix.lower() not in _TRANSPARENT:
            return image
        whole, kinds, known = cv2.imdecodeWithMetadata(data, flags=cv2.IMREAD_UNCHANGED)
        if whole.shape[2:] != (4,):
            return image
        alpha = _turned(whole[..., 3], [v for kind, v in zip(kinds, known, strict=True) if kind == _EXIF])[..., None]
        if path.suffix.lower() in _TIFF and alpha.dtype == np.uint8 and (image <= alpha).all():
            return 255 - alpha + image  # libtiff returns colors premultiplied by alpha
        opaque = alpha.astype(np.float32) / np.iinfo(alpha.dtype).max
        return np.rint(255 - (255 - image) * opaque).astype(np.uint8)
    return None


def _turned(alpha: np.ndarray, exif: list[np.ndarray]) -> np.ndarray:
    """Applies the EXIF orientation to an alpha channel; OpenCV applies it only to images read without alpha."""
    if not exif:
        return alpha
    _, encoded = cv2.imencodeWithMetadata(".png", np.ascontiguousarray(alpha), [_EXIF], exif)
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH))


def open_pictures(paths: list[pathlib.Path], name: str, stop: threading.Event) -> Source:
    """Returns a source of images; unreadable images are skipped with a message.

    Raises:
      InputError: if no image can be read; for several images, at the end of the iteration.
    """

    def frames() -> Iterator[Frame]:
        count = 0
        for index, path in enumerate(paths):
            start = time.perf_counter()
            image = read_picture(path)
            if image is None:
                note(f"OpenCV cannot read {path} as an image: skipped")
                continue
            count += 1
            yield Frame(image, float(index), index, 0, (time.perf_counter() - start) * 1e3, path.name)
        if not count:
            raise InputError(f"none of the {len(paths)} images in {name} can be read")

    if len(paths) == 1 and read_picture(paths[0]) is None:
        raise InputError(f"OpenCV cannot read {paths[0]} as an image: it is damaged or has another format")
    return Source(name, frames(), stop, fps=1.0, stills=True)


def open_video(path: pathlib.Path, name: str, stop: threading.Event) -> Source:
    """Opens a video file.

    Raises:
      InputError: if its first frame cannot be read.
    """
    with silence_opencv():
        capture = cv2.VideoCapture(os.path.abspath(path))  # in a relative path, FFmpeg reads "name:" as a protocol
    first = read(capture) if capture.isOpened() else None
    if first is None:
        capture.release()
        reason = "it is empty" if not path.stat().st_size else "it is damaged, truncated, or has another format"
        raise InputError(f"OpenCV cannot read {path} as a video or image: {reason}")
    return play(capture, first, name, stop)


def play(capture: cv2.VideoCapture, first: np.ndarray, name: str, stop: threading.Event) -> Source:
    """Returns a source of an open video whose first frame has been read; prints a message if it ends early."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    fps = fps if 0 < fps < 1000 else DEFAULT_FPS
    expected = capture.get(cv2.CAP_PROP_FRAME_COUNT)

    def frames() -> Iterator[Frame]:
        image: np.ndarray | None = first
        index, clock, capture_ms = 0, 0.0, 0.0
        try:
            while image is not None:
                yield Frame(image, clock, index, 0, capture_ms)
                start = time.perf_counter()
                image = read(capture)
                capture_ms = (time.perf_counter() - start) * 1e3
                index += 1
                # Some containers have no timestamps, or duplicates.
                stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
                clock = stamp if stamp > clock else clock + 1 / fps
            if index < 0.95 * expected:  # the frame count may be an estimate
                note(f"{name} ends early: {index} of {expected:.0f} frames read; the file is truncated or damaged")
        finally:
            capture.release()

    return Source(name, frames(), stop, fps=fps)

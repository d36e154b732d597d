"""Frames of files: every frame of a video, every picture of a folder."""

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
from ferjax.runtime.sources.frame import DEFAULT_FPS, Frame, Source, quiet, read

PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
_TIFF = (".tif", ".tiff")
_TRANSPARENT = (".png", ".webp", *_TIFF)
_EXIF = cv2.IMAGE_METADATA_EXIF


def pictures_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns a folder's pictures, img2 before img10.

    Raises:
      InputError: if there is none.
    """
    found = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES and p.is_file()]
    if not found:
        raise InputError(f"folder {folder} holds no picture ({', '.join(PICTURES)})")
    return sorted(found, key=_natural)


def _natural(path: pathlib.Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name.lower())]


def expanded(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns a path with the home folder for ~ and ~user; where there is no such user, the name begins with a ~."""
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        return pathlib.Path(path)


def read_picture(path: pathlib.Path) -> np.ndarray | None:
    """Returns the picture in a file as uint8 BGR (h, w, 3), None if it cannot be read.

    As a data set is prepared, it is turned as its EXIF tag says, and transparency is laid on white.
    """
    with quiet(), contextlib.suppress(OSError, cv2.error):  # cv2.error: nothing, no picture, more pixels than it takes
        data = np.fromfile(path, np.uint8)  # cv2.imread cannot open every path on Windows
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        if image is None or path.suffix.lower() not in _TRANSPARENT:
            return image
        whole, kinds, known = cv2.imdecodeWithMetadata(data, flags=cv2.IMREAD_UNCHANGED)
        if whole.shape[2:] != (4,):
            return image
        alpha = _turned(whole[..., 3], [v for kind, v in zip(kinds, known, strict=True) if kind == _EXIF])[..., None]
        if path.suffix.lower() in _TIFF and alpha.dtype == np.uint8 and (image <= alpha).all():
            return 255 - alpha + image  # libtiff hands such colours out multiplied by their opacity
        opaque = alpha.astype(np.float32) / np.iinfo(alpha.dtype).max
        return np.rint(255 - (255 - image) * opaque).astype(np.uint8)
    return None


def _turned(alpha: np.ndarray, exif: list[np.ndarray]) -> np.ndarray:
    """Turns what was read unchanged as its EXIF tags say; OpenCV does so itself where it leaves out transparency."""
    if not exif:
        return alpha
    _, encoded = cv2.imencodeWithMetadata(".png", np.ascontiguousarray(alpha), [_EXIF], exif)
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH))


def open_pictures(paths: list[pathlib.Path], name: str, stop: threading.Event) -> Source:
    """Returns the source of some pictures; one that cannot be read is left out with a message.

    Raises:
      InputError: if none can be read; for several, when they have been tried.
    """

    def frames() -> Iterator[Frame]:
        given = 0
        for index, path in enumerate(paths):
            start = time.perf_counter()
            image = read_picture(path)
            if image is None:
                note(f"{path} is no picture that OpenCV can read; left out")
                continue
            given += 1
            yield Frame(image, float(index), index, 0, (time.perf_counter() - start) * 1e3, path.name)
        if not given:
            raise InputError(f"none of the {len(paths)} pictures of {name} can be read")

    if len(paths) == 1 and read_picture(paths[0]) is None:
        raise InputError(f"{paths[0]} is no picture that OpenCV can read: it is damaged or of another kind")
    return Source(name, frames(), stop, fps=1.0, stills=True)


def open_video(path: pathlib.Path, name: str, stop: threading.Event) -> Source:
    """Opens a video file.

    Raises:
      InputError: if not even its first frame can be read.
    """
    with quiet():
        capture = cv2.VideoCapture(os.path.abspath(path))  # FFmpeg takes what is before a colon for a protocol
    first = read(capture) if capture.isOpened() else None
    if first is None:
        capture.release()
        why = "it is empty" if not path.stat().st_size else "it is damaged, cut off, or of another kind"
        raise InputError(f"{path} is no video or picture that OpenCV can read: {why}")
    return play(capture, first, name, stop)


def play(capture: cv2.VideoCapture, first: np.ndarray, name: str, stop: threading.Event) -> Source:
    """Returns the source of an open video whose first frame has been read; says so if it ends early."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    fps = fps if 0 < fps < 1000 else DEFAULT_FPS
    expected = capture.get(cv2.CAP_PROP_FRAME_COUNT)

    def frames() -> Iterator[Frame]:
        image: np.ndarray | None = first
        index, clock, spent = 0, 0.0, 0.0
        try:
            while image is not None:
                yield Frame(image, clock, index, 0, spent)
                start = time.perf_counter()
                image = read(capture)
                spent = (time.perf_counter() - start) * 1e3
                index += 1
                # Some containers carry no time stamps, or the same one twice.
                stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
                clock = stamp if stamp > clock else clock + 1 / fps
            if index < 0.95 * expected:  # a count that is only estimated may be off by a little
                note(f"{name} ends early: {index} of {expected:.0f} frames can be read; the file is cut off or damaged")
        finally:
            capture.release()

    return Source(name, frames(), stop, fps=fps)

"""Reads the frames of video files, and the images of a folder."""

import contextlib
import os
import pathlib
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator

import cv2
import numpy as np

from ferjax.cli import note
from ferjax.errors import InputError
from ferjax.runtime.sources.frame import DEFAULT_FPS, Frame, Source, patiently, read_on, silence_opencv

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


def open_video(path: pathlib.Path, name: str, stop: threading.Event, on_wait: Callable[[], object]) -> Source:
    """Opens a video file.

    Raises:
      InputError: if no frame can be read.
    """
    with silence_opencv():
        capture = cv2.VideoCapture(os.path.abspath(path))  # in a relative path, FFmpeg reads "name:" as a protocol
    counted = path.is_file() and _has_frame_count(path)
    source = play(capture, name, stop, on_wait, counted=counted) if capture.isOpened() else None
    if source is None:
        capture.release()
        reason = "it is empty" if not path.stat().st_size else "it is damaged, truncated, or has another format"
        raise InputError(f"OpenCV cannot read {path} as a video or image: {reason}")
    return source


def _has_frame_count(path: pathlib.Path) -> bool:
    """Returns whether a file is AVI or MP4. For others, FFmpeg estimates the count from length and frame rate."""
    with open(path, "rb") as file:
        head = file.read(12)
    return head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip") or head[8:] == b"AVI "


def play(
    capture: cv2.VideoCapture, name: str, stop: threading.Event, on_wait: Callable[[], object], *, counted: bool
) -> Source | None:
    """Returns a source of an open video, or None if no frame can be read.

    A message at the end reports undecodable frames and an early end.

    Args:
      capture: the video.
      name: name for messages.
      stop: ends the iteration.
      on_wait: called while a read blocks.
      counted: whether the frame count of the container is exact.
    """
    first = patiently(lambda: read_on(capture, stop), stop)
    if first is None or first[0] is None:
        return None
    fps = capture.get(cv2.CAP_PROP_FPS)
    fps = fps if 0 < fps < 1000 else DEFAULT_FPS
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)

    def frames() -> Generator[Frame]:
        image, failed = first
        index, lost, clock, step, capture_ms = -1, 0, -1 / fps, 0.0, 0.0
        try:
            while image is not None:
                # Some containers have no timestamps, or duplicates.
                stamp = max(0.0, capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3)
                step = stamp - clock if stamp > clock else 1 / fps
                if failed or index < 0:  # a failed read may skip all frames up to the next keyframe
                    failed = max(failed, round(step * fps) - 1)
                index, lost, clock = index + 1 + failed, lost + failed, clock + step
                yield Frame(image, clock, index, 0, capture_ms)
                start = time.perf_counter()
                image, failed = read_on(capture, stop)
                capture_ms = (time.perf_counter() - start) * 1e3
            # The time is compared too: the count may be an estimate, or include frames that the decoder skipped.
            if not stop.is_set() and index + 1 < 0.95 * count and clock + step < 0.95 * count / fps:
                if counted:
                    note(f"{name} ends early: {index + 1} of {count:.0f} frames read; the file is truncated or damaged")
                else:
                    note(f"the last frame of {name} is at {clock:.1f} of {count / fps:.1f} s: it may be truncated")
        finally:
            if lost:
                note(f"{name}: {lost} frame{'s' if lost > 1 else ''} cannot be decoded: skipped")
            capture.release()

    return Source(name, _read_patiently(frames(), stop, on_wait), stop, fps=fps)


def _read_patiently(frames: Generator[Frame], stop: threading.Event, on_wait: Callable[[], object]) -> Iterator[Frame]:
    try:
        while (frame := patiently(lambda: next(frames, None), stop, on_wait)) is not None:
            yield frame
    finally:
        with contextlib.suppress(ValueError):  # a read still blocks; it ends the generator, because `stop` is set
            frames.close()

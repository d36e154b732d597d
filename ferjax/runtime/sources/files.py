"""Reads the frames of video files, and images as frames."""

import os
import pathlib
import threading
import time
from collections.abc import Callable, Generator, Iterator

import cv2

from ferjax import cli
from ferjax.errors import InputError
from ferjax.folders import native
from ferjax.runtime.ahead import ahead
from ferjax.runtime.sources import pictures
from ferjax.runtime.sources.frame import DEFAULT_FPS, Frame, Source, patiently, read_on, silence_opencv


def open_pictures(paths: list[pathlib.Path], name: str, stop: threading.Event) -> Source:
    """Returns a source of images; unreadable images are skipped with a message.

    Raises:
      InputError: if no image can be read; for several images, at the end of the iteration.
    """

    def frames() -> Iterator[Frame]:
        count = 0
        for index, path in enumerate(paths):
            start = time.perf_counter()
            try:
                image = pictures.read_bgr(path)
            except pictures.UnreadableImage as error:
                cli.note(f"{path} cannot be read as an image ({error}): skipped")
                continue
            count += 1
            yield Frame(image, float(index), index, 0, (time.perf_counter() - start) * 1e3, path.name)
        if not count:
            raise InputError(f"none of the {len(paths)} images in {name} can be read")

    if len(paths) == 1:
        try:
            pictures.read_bgr(paths[0])
        except pictures.UnreadableImage as error:
            raise InputError(f"{paths[0]} cannot be read as an image ({error})") from error
    return Source(name, frames(), stop, fps=1.0, stills=True)


def open_video(path: pathlib.Path, name: str, stop: threading.Event, on_wait: Callable[[], object]) -> Source:
    """Opens a video file.

    Raises:
      InputError: if no frame can be read.
    """
    with silence_opencv():
        # in a relative path, FFmpeg reads "name:" as a protocol
        capture = cv2.VideoCapture(native(os.path.abspath(path)))
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
    fps, count, pts = (capture.get(each) for each in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_PTS))
    if not 0 < fps < 1000:  # such as the 90,000 of a cover picture
        fps, count = DEFAULT_FPS, count if counted else 0.0  # an estimated count comes from the rate
    timed = pts >= 0  # else the first time stamp is no frame's, but the start of the container's clock
    if timed and not counted:  # an estimate from the end of the film, which may start late
        count -= round(pts - capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3 * fps)

    def frames() -> Generator[Frame]:
        image, failed = first
        index, lost, clock, step, capture_ms = -1, 0, -1 / fps, 0.0, 0.0
        try:
            while image is not None:
                # Some containers have no timestamps, or duplicates.
                stamp = max(0.0, capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3)
                step = stamp - clock if stamp > clock and (timed or index >= 0) else 1 / fps
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
                    cli.note(
                        f"{name} ends early: {index + 1} of {count:.0f} frames read; the file is truncated or damaged"
                    )
                else:
                    cli.note(f"the last frame of {name} is at {clock:.1f} of {count / fps:.1f} s: it may be truncated")
        finally:
            if lost:
                cli.note(f"{name}: {cli.counted(lost, 'frame')} cannot be decoded: skipped")
            capture.release()

    read_ahead = ahead(frames(), stop=stop, on_wait=on_wait)
    return Source(name, read_ahead, stop, fps=fps, count=round(count) if count > 0 else None)

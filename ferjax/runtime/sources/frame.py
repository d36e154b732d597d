"""Defines Frame, and Source, the iterator of frames of every kind of source."""

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

DEFAULT_FPS = 30.0


class Frame(NamedTuple):
    """One image with its time.

    Attributes:
      image: BGR, uint8 (H, W, 3).
      time: seconds since the source was opened; for a video file, its timestamp; for a folder, the index of the image.
      index: number of the frame from 0, including dropped frames.
      dropped: number of camera frames dropped so far.
      capture_ms: decoding time of a file's frame, or age of a camera's frame, in milliseconds.
      name: file name of an image, else empty.
    """

    image: np.ndarray
    time: float
    index: int  # type: ignore[assignment]  # the field hides tuple.index
    dropped: int
    capture_ms: float = 0.0
    name: str = ""


class Source:
    """An iterator of frames that a signal handler or another thread can stop.

    Attributes:
      name: name of the source for messages.
      fps: nominal frames per second.
      live: whether frames are dropped if they are not read in time.
      stills: whether the frames are unrelated images.
    """

    def __init__(
        self, name: str, frames: Iterator[Frame], stop: threading.Event, *, fps: float, live=False, stills=False
    ):
        self.name, self.fps, self.live, self.stills = name, fps, live, stills
        self._frames, self._stop = frames, stop

    def __iter__(self) -> "Source":
        return self

    def __next__(self) -> Frame:
        if self._stop.is_set():
            raise StopIteration
        return next(self._frames)

    def stop(self) -> None:
        """Ends the iteration before the next frame."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def close(self) -> None:
        """Stops the iteration and releases the camera or file."""
        self._stop.set()
        if close := getattr(self._frames, "close", None):
            close()

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def silence_opencv() -> Iterator[None]:
    """Suppresses the messages of OpenCV and FFmpeg on standard error."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(0)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def to_bgr(image: np.ndarray) -> np.ndarray:
    """Converts a gray, BGR or BGRA image to BGR."""
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return image if image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)


def read(capture: cv2.VideoCapture) -> np.ndarray | None:
    """Returns the next frame, or None if there is none or it is empty."""
    ok, image = capture.read()
    return to_bgr(image) if ok and image is not None and image.size else None

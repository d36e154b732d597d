"""A frame, and the iterator of frames that every kind of source becomes."""

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

DEFAULT_FPS = 30.0


class Frame(NamedTuple):
    """One picture and when it was taken.

    Attributes:
      image: BGR, uint8 (H, W, 3).
      time: seconds since the source was opened; in a video file, its own time; the index of a picture in a folder.
      index: counts all frames that the source gave, dropped ones included, from 0.
      dropped: frames of a camera that came and went unseen so far.
      capture_ms: how long a file's frame took to decode, or how old a camera's frame is.
      name: the file name of a picture in a folder, else empty.
    """

    image: np.ndarray
    time: float
    index: int  # type: ignore[assignment]  # the field hides tuple.index
    dropped: int
    capture_ms: float = 0.0
    name: str = ""


class Source:
    """An iterator of frames that can be asked to stop from a signal handler or another thread.

    Attributes:
      name: what the user asked for.
      fps: nominal frames per second.
      live: whether frames that are not taken in time are lost.
      stills: whether frames are pictures that have nothing to do with each other.
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
        """Makes the iterator end before its next frame."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop.is_set()

    def close(self) -> None:
        """Stops and gives the camera or file back."""
        self._stop.set()
        if close := getattr(self._frames, "close", None):
            close()

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps OpenCV and FFmpeg from explaining on standard error what becomes our one line."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(0)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def to_bgr(image: np.ndarray) -> np.ndarray:
    """Returns a grey, BGR or BGRA picture as BGR."""
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return image if image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)


def read(capture: cv2.VideoCapture) -> np.ndarray | None:
    """Returns the next frame, None if there is none or it is empty."""
    ok, image = capture.read()
    return to_bgr(image) if ok and image is not None and image.size else None

"""Defines Frame, and Source, the iterator of frames of every kind of source."""

import concurrent.futures
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

DEFAULT_FPS = 30.0
CUT_SECONDS = 1.5  # a longer step between the frames of a video is a cut: the window does not wait, and tracks end
POLL_SECONDS = 0.05  # interval of the checks of keys and the stop flag while waiting
JOIN_SECONDS = 0.5  # maximum wait for a read that blocks
# OpenCV reports a frame that cannot be decoded like the end of the video. After damage, a decoder may need the next
# keyframe, usually within 250 frames (the default of x264). At the end of a video, 1000 reads take 0.1 s.
_MAX_FAILED_READS = 1000
_MAX_FAILED_SECONDS = 5.0  # a read of a dead connection blocks
T = TypeVar("T")


class Frame(NamedTuple):
    """One image with its time.

    Attributes:
      image: BGR, uint8 (H, W, 3).
      time: seconds since the source was opened; for a video file, its timestamp; for a folder, the index of the image.
      index: number of the frame from 0, including dropped and undecodable frames.
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
      count: number of frames that the container of a video states, which may be an estimate, or None.
    """

    def __init__(
        self,
        name: str,
        frames: Iterator[Frame],
        stop: threading.Event,
        *,
        fps: float,
        live: bool = False,
        stills: bool = False,
        count: int | None = None,
    ):
        self.name, self.fps, self.live, self.stills, self.count = name, fps, live, stills, count
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
            with contextlib.suppress(ValueError):  # another thread waits for a frame; it ends, because `stop` is set
                close()

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Silence:
    """Suppresses OpenCV's messages as long as any thread is inside `with`."""

    def __init__(self) -> None:
        self._lock, self._users, self._level = threading.Lock(), 0, 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._level = cv2.utils.logging.getLogLevel()
                cv2.utils.logging.setLogLevel(0)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                cv2.utils.logging.setLogLevel(self._level)


_silence = _Silence()


def silence_opencv() -> contextlib.AbstractContextManager[None]:
    """Suppresses the messages of OpenCV and FFmpeg on standard error."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    return _silence


def to_bgr(image: np.ndarray) -> np.ndarray:
    """Converts a gray, BGR or BGRA image to BGR."""
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return image if image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)


def read(capture: cv2.VideoCapture) -> np.ndarray | None:
    """Returns the next frame, or None if there is none or it is empty."""
    ok, image = capture.read()
    return to_bgr(image) if ok and image is not None and image.size else None


def read_on(capture: cv2.VideoCapture, stop: threading.Event) -> tuple[np.ndarray | None, int]:
    """Returns the next frame that can be decoded, None at the end or after `stop`, and the number of failed reads."""
    failed, start = 0, time.monotonic()
    with silence_opencv():
        while (image := read(capture)) is None:
            failed += 1
            if failed == _MAX_FAILED_READS or time.monotonic() - start > _MAX_FAILED_SECONDS or stop.is_set():
                break
    return image, failed


def patiently(call: Callable[[], T], stop: threading.Event, on_wait: Callable[[], object] = lambda: None) -> T | None:
    """Calls a function that can block for seconds in a thread, so that keys and signals work meanwhile.

    Args:
      call: the function.
      stop: ends the wait; a call that then lasts longer than `JOIN_SECONDS` continues in its thread.
      on_wait: called every `POLL_SECONDS` of the wait.

    Returns:
      The result, or None after `stop`.
    """
    outcome: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            return outcome.result(POLL_SECONDS)
        on_wait()
    thread.join(JOIN_SECONDS)  # the process aborts if OpenCV returns while the interpreter shuts down
    return None

"""Reads the newest frame of a camera or network stream in a background thread.

A lost connection is reopened, with increasing pauses between attempts.
"""

import pathlib
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from ferjax.cli import note
from ferjax.errors import InputError
from ferjax.runtime.sources import files
from ferjax.runtime.sources.frame import (
    DEFAULT_FPS,
    JOIN_SECONDS,
    POLL_SECONDS,
    Frame,
    Source,
    patiently,
    read,
    read_on,
    silence_opencv,
)

STALL_SECONDS = 2.0  # time without a frame before a message
_MAX_BAD_READS = 5  # a working webcam may fail to decode a few frames
_MAX_INDEX = 2**31 - 1  # OpenCV's limit
_FIRST_PAUSE, _MAX_PAUSE = 0.5, 8.0  # seconds between attempts to reconnect
# Returns the next frame, None if the camera is lost, and the number of failed reads.
Read = Callable[[cv2.VideoCapture, threading.Event], tuple[np.ndarray | None, int]]


def open_camera(
    text: str, size: tuple[int, int] | None, stop: threading.Event, on_wait: Callable[[], object]
) -> Source:
    """Opens a camera by index or device.

    Raises:
      InputError: if it does not open or sends no frame; the message lists the working cameras.
    """

    def open_capture() -> cv2.VideoCapture:
        with silence_opencv():
            capture = cv2.VideoCapture(int(text) if text.isdecimal() else text)
            if capture.isOpened():
                capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
                if size:
                    capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
                    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        return capture

    if text.isdecimal() and int(text) > _MAX_INDEX:
        raise InputError(f"camera index {text} is too large: the first camera has index 0")
    capture = open_capture()
    if not capture.isOpened():
        capture.release()
        working = working_cameras()
        advice = (
            f"Working cameras: {', '.join(working)}"
            if working
            else "No camera works: check that one is connected, not in use, and permitted (docs/live.md)"
        )
        raise InputError(f"camera {text} does not open. {advice}")
    return _live_source(f"camera {text}", capture, open_capture, _read_camera, stop, on_wait)


def redacted(address: str) -> str:
    """Returns the scheme and host of a URL, for messages.

    The rest may contain a password: before the host, in the path, or after ? or #. A password may contain @ or /.
    """
    host, *rest = re.split("[/?#;&]", re.sub("^.*@", "", address.partition("//")[2]), maxsplit=1)
    return f"{address.partition('//')[0]}//{host}{'/…' if any(rest) else ''}"


def open_url(text: str, stop: threading.Event, on_wait: Callable[[], object]) -> Source:
    """Opens a network stream, or a video file at a URL.

    Raises:
      InputError: if it does not open or has no frame.
    """

    def open_capture() -> cv2.VideoCapture:
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 5000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 5000]
        with silence_opencv():
            return cv2.VideoCapture(text, cv2.CAP_FFMPEG, limits)

    name = redacted(text)
    capture = patiently(open_capture, stop)
    if capture is None or not capture.isOpened():
        raise InputError(f"{name} does not open: check the address, the sender and the network")
    if capture.get(cv2.CAP_PROP_FRAME_COUNT) <= 0:
        return _live_source(name, capture, open_capture, read_on, stop, on_wait)
    video = files.play(capture, name, stop, on_wait, counted=False)
    if video is None:
        raise InputError(f"{name} has no frame that OpenCV can read")
    return video


def _read_camera(capture: cv2.VideoCapture, stop: threading.Event) -> tuple[np.ndarray | None, int]:
    for failed in range(_MAX_BAD_READS):
        if (image := read(capture)) is not None:
            return image, failed
        if stop.wait(0.02):
            break
    return None, _MAX_BAD_READS


class _Reader(threading.Thread):
    """Keeps the newest frame of a camera, and reopens a lost camera."""

    def __init__(
        self,
        name: str,
        capture: cv2.VideoCapture,
        first: np.ndarray,
        reopen: Callable[[], cv2.VideoCapture],
        read: Read,
        stop: threading.Event,
    ):
        super().__init__(name=f"ferjax reader of {name}", daemon=True)
        self._label, self._capture, self._reopen, self._read, self._stop_flag = name, capture, reopen, read, stop
        self._new = threading.Condition()
        self._newest: tuple[np.ndarray, float, int] | None = (first, time.monotonic(), 0)
        self._count = 1

    def take(self, timeout: float) -> tuple[np.ndarray, float, int] | None:
        """Returns (image, arrival time, index) of the newest frame not yet taken, or None after the timeout."""
        with self._new:
            if self._newest is None:
                self._new.wait(timeout)
            taken, self._newest = self._newest, None
            return taken

    def run(self) -> None:
        while not self._stop_flag.is_set():
            image, failed = self._read(self._capture, self._stop_flag)
            if image is not None:
                with self._new:
                    self._newest = image, time.monotonic(), self._count + failed
                    self._count += failed + 1
                    self._new.notify()
            elif not self._stop_flag.is_set():
                self._reconnect()
        self._capture.release()

    def _reconnect(self) -> None:
        lost, pause = time.monotonic(), _FIRST_PAUSE
        self._capture.release()
        note(f"{self._label} is disconnected: reconnecting")
        while not self._stop_flag.wait(pause):
            self._capture = self._reopen()
            if self._capture.isOpened():
                note(f"{self._label} is connected again after {time.monotonic() - lost:.1f} s")
                return
            self._capture.release()
            pause = min(2 * pause, _MAX_PAUSE)


def _live_source(
    name: str,
    capture: cv2.VideoCapture,
    reopen: Callable[[], cv2.VideoCapture],
    read: Read,
    stop: threading.Event,
    on_wait: Callable[[], object],
) -> Source:
    first = patiently(lambda: read(capture, stop)[0], stop)
    if first is None:
        capture.release()
        raise InputError(
            f"{name} opens but sends no frame. For the CSI camera of a Raspberry Pi, see docs/live.md; otherwise check "
            "that no other program uses it"
        )
    fps = capture.get(cv2.CAP_PROP_FPS)
    reader = _Reader(name, capture, first, reopen, read, stop)

    def frames() -> Iterator[Frame]:
        count, stalled = 0, False
        start = last = time.monotonic()
        try:
            while not stop.is_set():
                taken = reader.take(POLL_SECONDS)
                now = time.monotonic()
                if taken is None:
                    on_wait()
                    if not stalled and now - last > STALL_SECONDS:
                        stalled = True
                        note(f"no frame from {name} for {STALL_SECONDS:.0f} s: waiting")
                    continue
                image, arrived, index = taken
                if stalled:
                    note(f"{name} sends frames again after {now - last:.1f} s")
                stalled, last = False, now
                yield Frame(image, arrived - start, index, index - count, (now - arrived) * 1e3)
                count += 1
        finally:
            stop.set()
            reader.join(JOIN_SECONDS)

    reader.start()
    return Source(name, frames(), stop, fps=fps if 0 < fps < 1000 else DEFAULT_FPS, live=True)


def working_cameras(limit: int = 10) -> list[str]:
    """Returns the indices of the cameras that send frames; tries at most `limit` cameras."""
    if sys.platform.startswith("linux"):
        found = (re.fullmatch(r"video(\d+)", p.name) for p in pathlib.Path("/dev").glob("video*"))
        candidates = sorted(int(m[1]) for m in found if m)
    else:
        candidates = list(range(limit))
    working = []
    for index in candidates[:limit]:
        with silence_opencv():
            capture = cv2.VideoCapture(index)
        if capture.isOpened() and _read_camera(capture, threading.Event())[0] is not None:
            working.append(str(index))
        capture.release()
    return working

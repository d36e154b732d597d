"""Frames of a camera or a network stream: always the newest, read by a thread of its own.

A camera that vanishes is tried again, with longer and longer pauses, until it is back.
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
from ferjax.runtime.sources.frame import DEFAULT_FPS, Frame, Source, quiet, read

SILENCE = 2.0  # seconds without a frame that are worth a message
_SLICE = 0.05  # seconds between looks at the stop flag while waiting
_BAD_READS = 5  # a webcam may fail to decode a frame or two without being gone
_LARGEST = 2**31 - 1  # index that OpenCV can be asked for
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0


def open_camera(
    text: str, size: tuple[int, int] | None, stop: threading.Event, on_wait: Callable[[], object]
) -> Source:
    """Opens a camera by index or device.

    Raises:
      InputError: if it does not open, with those that do, or gives no frame.
    """

    def open_capture() -> cv2.VideoCapture:
        with quiet():
            capture = cv2.VideoCapture(int(text) if text.isdecimal() else text)
            if capture.isOpened():
                capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
                if size:
                    capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
                    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        return capture

    if text.isdecimal() and int(text) > _LARGEST:
        raise InputError(f"there is no camera {text}: the first has the index 0")
    capture = open_capture()
    if not capture.isOpened():
        capture.release()
        working = working_cameras()
        advice = (
            f"These do: {', '.join(working)}"
            if working
            else "No camera does: is one plugged in, used by no other program, and may you use it (docs/live.md)?"
        )
        raise InputError(f"camera {text} does not open. {advice}")
    return _live(f"camera {text}", capture, open_capture, stop, on_wait)


def without_secrets(address: str) -> str:
    """Returns the scheme and the host of an address, for the screen and logs of the system.

    A password may hold an @ or a /, and may stand before the host, after ? or #, or, of many cameras, in the path.
    """
    host, *rest = re.split("[/?#;&]", re.sub("^.*@", "", address.partition("//")[2]), maxsplit=1)
    return f"{address.partition('//')[0]}//{host}{'/…' if any(rest) else ''}"


def open_url(text: str, stop: threading.Event, on_wait: Callable[[], object]) -> Source:
    """Opens a network stream, or a video file behind a URL.

    Raises:
      InputError: if it does not open.
    """

    def open_capture() -> cv2.VideoCapture:
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 5000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 5000]
        with quiet():
            return cv2.VideoCapture(text, cv2.CAP_FFMPEG, limits)

    capture = open_capture()
    shown = without_secrets(text)
    if not capture.isOpened():
        raise InputError(f"{shown} does not open: is the address right, the sender running and the network up?")
    if capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0:  # a whole file behind a URL
        first = read(capture)
        if first is None:
            raise InputError(f"{shown} holds no frame that OpenCV can read")
        return files.play(capture, first, shown, stop)
    return _live(shown, capture, open_capture, stop, on_wait)


def _first_frame(capture: cv2.VideoCapture) -> np.ndarray | None:
    return next((image for _ in range(_BAD_READS) if (image := read(capture)) is not None), None)


class _Reader(threading.Thread):
    """Keeps the newest frame of a camera, and reopens the camera when it is gone."""

    def __init__(
        self,
        name: str,
        capture: cv2.VideoCapture,
        first: np.ndarray,
        reopen: Callable[[], cv2.VideoCapture],
        stop: threading.Event,
    ):
        super().__init__(name=f"ferjax reader of {name}", daemon=True)
        self._label, self._capture, self._reopen, self._stop_flag = name, capture, reopen, stop
        self._new = threading.Condition()
        self._newest: tuple[np.ndarray, float, int] | None = (first, time.monotonic(), 0)
        self._count = 1

    def take(self, timeout: float) -> tuple[np.ndarray, float, int] | None:
        """Returns (image, time of arrival, index) of the newest frame not yet taken, or None after the timeout."""
        with self._new:
            if self._newest is None:
                self._new.wait(timeout)
            taken, self._newest = self._newest, None
            return taken

    def run(self) -> None:
        bad = 0
        while not self._stop_flag.is_set():
            image = read(self._capture)
            if image is not None:
                bad = 0
                with self._new:
                    self._newest = image, time.monotonic(), self._count
                    self._count += 1
                    self._new.notify()
            elif (bad := bad + 1) >= _BAD_READS:
                self._reconnect()
                bad = 0
            else:
                self._stop_flag.wait(0.02)
        self._capture.release()

    def _reconnect(self) -> None:
        lost, pause = time.monotonic(), _FIRST_PAUSE
        self._capture.release()
        note(f"{self._label} is gone; trying again until it is back")
        while not self._stop_flag.wait(pause):
            self._capture = self._reopen()
            if self._capture.isOpened():
                note(f"{self._label} is back after {time.monotonic() - lost:.1f} s")
                return
            self._capture.release()
            pause = min(2 * pause, _LONGEST_PAUSE)


def _live(
    name: str,
    capture: cv2.VideoCapture,
    reopen: Callable[[], cv2.VideoCapture],
    stop: threading.Event,
    on_wait: Callable[[], object],
) -> Source:
    first = _first_frame(capture)
    if first is None:
        capture.release()
        raise InputError(
            f"{name} opens but gives no frame. The CSI camera of a Raspberry Pi has to be started another way, see "
            "docs/live.md; otherwise another program may be using it"
        )
    fps = capture.get(cv2.CAP_PROP_FPS)
    reader = _Reader(name, capture, first, reopen, stop)

    def frames() -> Iterator[Frame]:
        given, silent = 0, False
        start = last = time.monotonic()
        try:
            while not stop.is_set():
                taken = reader.take(_SLICE)
                now = time.monotonic()
                if taken is None:
                    on_wait()
                    if not silent and now - last > SILENCE:
                        silent = True
                        note(f"no frame from {name} for {SILENCE:.0f} seconds; waiting")
                    continue
                image, arrived, index = taken
                if silent:
                    note(f"frames from {name} again after {now - last:.1f} s")
                silent, last = False, now
                yield Frame(image, arrived - start, index, index - given, (now - arrived) * 1e3)
                given += 1
        finally:
            stop.set()
            reader.join(timeout=1)  # a read that hangs in the driver must not keep the program alive

    reader.start()
    return Source(name, frames(), stop, fps=fps if 0 < fps < 1000 else DEFAULT_FPS, live=True)


def working_cameras(limit: int = 10) -> list[str]:
    """Returns the indices of the cameras of this machine that give frames, at most `limit` tried."""
    if sys.platform.startswith("linux"):
        found = (re.fullmatch(r"video(\d+)", p.name) for p in pathlib.Path("/dev").glob("video*"))
        candidates = sorted(int(m[1]) for m in found if m)
    else:
        candidates = list(range(limit))
    working = []
    for index in candidates[:limit]:
        with quiet():
            capture = cv2.VideoCapture(index)
        if capture.isOpened() and _first_frame(capture) is not None:
            working.append(str(index))
        capture.release()
    return working

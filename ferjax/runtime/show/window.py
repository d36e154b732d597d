"""Shows the live loop in a window, and reports a missing display."""

import os
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ferjax.errors import InputError

TITLE = "ferjax - q: quit, s: snapshot"
_POLL_SECONDS = 0.1  # maximum duration of one call of OpenCV, during which no signal handler runs
_ADVICE = "add --serve 8000 (a page for browsers) or --no-display (results: --log, --record or --snapshot)"


def check_display() -> None:
    """Raises InputError if a window cannot be opened; without this check, Qt aborts the process."""
    gui = re.search(r"^\s*GUI:\s*(\S+)", cv2.getBuildInformation(), re.MULTILINE)
    if gui is None or gui[1] == "NONE":
        raise InputError(
            f"this OpenCV is the headless build without windows: {_ADVICE}, or replace it: "
            "pip uninstall opencv-python-headless, then pip install 'ferjax[live]'"
        )
    if sys.platform.startswith("linux") and not _x_server_answers(os.environ.get("DISPLAY", "")):
        raise InputError(f"no display is available for a window: {_ADVICE}, or use the desktop or ssh -X")


def _x_server_answers(display: str) -> bool:
    match = re.fullmatch(r"(?:unix)?(.*):(\d+)(?:\.\d+)?", display)
    if match is None:
        return False
    host, number = match[1], int(match[2])
    try:
        if host:
            socket.create_connection((host, 6000 + number), timeout=2).close()
            return True
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
            path = f"/tmp/.X11-unix/X{number}"
            server.connect(path if Path(path).exists() else f"\0{path}")
        return True
    except OSError:
        return False


class Window:
    """Shows frames and reads keys."""

    def __init__(self) -> None:
        check_display()
        self._shown = False

    def show(self, image: np.ndarray) -> None:
        """Sets the frame to show; it appears with the next call of `key`."""
        if not self._shown:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
            cv2.resizeWindow(TITLE, image.shape[1], image.shape[0])
            self._shown = True
        cv2.imshow(TITLE, image)

    def key(self, wait: float, until: Callable[[], bool] = lambda: False) -> str:
        """Returns the key pressed within `wait` seconds, "q" if the window was closed, "" if none.

        Args:
          wait: timeout in seconds; infinity waits for a key.
          until: called ten times a second; True ends the wait. Signal handlers run between the calls.
        """
        end = time.monotonic() + wait
        while True:
            left = min(end - time.monotonic(), _POLL_SECONDS)
            pressed = cv2.waitKey(max(1, round(left * 1e3)))
            if self._shown and cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1:
                return "q"
            if pressed >= 0:
                return "q" if pressed & 0xFF == 27 else chr(pressed & 0xFF)
            if until() or time.monotonic() >= end:
                return ""

    def close(self) -> None:
        """Closes the window."""
        cv2.destroyAllWindows()

"""The window of the live loop, and what to do where there can be none."""

import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ferjax.errors import InputError

TITLE = "ferjax - q quits, s saves a picture"
_WITHOUT = "add --no-display (with --log, --record or --snapshot to keep something)"


def check_display() -> None:
    """Raises InputError where a window cannot be opened: Qt would end the process without a word of ours."""
    gui = re.search(r"^\s*GUI:\s*(\S+)", cv2.getBuildInformation(), re.MULTILINE)
    if gui is None or gui[1] == "NONE":
        raise InputError(
            "this OpenCV is the headless build, which has no windows: "
            f"{_WITHOUT}, or replace it: pip uninstall opencv-python-headless, then pip install 'ferjax[live]'"
        )
    if sys.platform.startswith("linux") and not _x_server_answers(os.environ.get("DISPLAY", "")):
        raise InputError(f"there is no display to open a window on: {_WITHOUT}, or run it on the desktop, or ssh -X")


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
    """Shows frames; `key` is what was pressed."""

    def __init__(self) -> None:
        check_display()
        self._shown = False

    def show(self, image: np.ndarray) -> None:
        """Shows a frame; it appears with the next `key`."""
        if not self._shown:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
            cv2.resizeWindow(TITLE, image.shape[1], image.shape[0])
            self._shown = True
        cv2.imshow(TITLE, image)

    def key(self, wait: float, until: Callable[[], bool] = lambda: False) -> str:
        """Returns the key pressed within `wait` seconds, "q" if the window was closed, "" if none.

        Args:
          wait: in seconds; infinity waits for a key.
          until: asked ten times a second whether to wait no longer.
        """
        while True:
            pressed = cv2.waitKey(100 if wait == float("inf") else max(1, round(wait * 1e3)))
            if self._shown and cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1:
                return "q"
            if pressed >= 0:
                return "q" if pressed & 0xFF == 27 else chr(pressed & 0xFF)
            if wait != float("inf") or until():
                return ""

    def close(self) -> None:
        """Closes the window."""
        cv2.destroyAllWindows()

"""Opens a source of frames: a camera, a video file, an image, a folder of images or a network stream."""

import re
import threading
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path

from ferjax.errors import InputError
from ferjax.folders import expand_user
from ferjax.runtime.sources import camera, files, pictures
from ferjax.runtime.sources.frame import Source

_URL = ".*://|(rtsps?|rtmps?|srt|https?|tcp|udp)[:;]?/"


def open_source(
    source: str | int | PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    on_wait: Callable[[], object] = lambda: None,
) -> Source:
    """Opens a source.

    Args:
      source: a camera index ("0") or device ("/dev/video0", or a link to one), a video file, an image, a folder of
        images, or a URL (rtsp, http, tcp, udp).
      size: requested (width, height) of a camera; the driver selects the nearest size.
      on_wait: called about 20 times a second while no frame comes, to keep a window responsive.

    Raises:
      InputError: if the source does not open or has no image.
    """
    text = str(source)
    stop = threading.Event()
    if text.isdecimal():
        return camera.open_camera(text, size, stop, on_wait)
    if "://" in text:
        return camera.open_url(text, stop, on_wait)
    path = expand_user(text)
    if path.is_char_device() or (text.startswith(("/dev/video", "/dev/v4l/")) and not path.exists()):
        return camera.open_camera(str(path), size, stop, on_wait)
    if not path.exists() and re.match(_URL, text, re.IGNORECASE):  # not printed: it may contain a password
        raise InputError("the source is not a file and not a URL; a URL has :// before the host: rtsp://camera/stream")
    if not path.exists():
        raise InputError(
            f"source {text!r} does not exist; accepted: camera index (0), device (/dev/video0), video file, image, "
            "folder of images, URL (rtsp://, http://)"
        )
    if path.is_dir():
        return files.open_pictures(pictures.listed(path, path.iterdir()), text, stop)
    if path.is_file() and pictures.is_still(path):
        return files.open_pictures([path], text, stop)
    return files.open_video(path, text, stop, on_wait)


def existing(path: str | PathLike[str], accepted: str) -> Path:
    """Returns the path of an existing file or folder, with ~ expanded.

    Args:
      path: the path.
      accepted: what to give instead, for messages, such as "a video file".

    Raises:
      InputError: if the path is empty or a URL, or does not exist.
    """
    text = fspath(path)
    found = expand_user(text)
    if not text:
        raise InputError(f"a path is empty: give {accepted}")
    if found.exists():
        return found
    if re.match(_URL, text, re.IGNORECASE):  # not printed: it may contain a password
        raise InputError(f"URLs are not accepted: give {accepted}, or use `ferjax live --source URL`")
    raise InputError(f"{text} does not exist: give {accepted}")

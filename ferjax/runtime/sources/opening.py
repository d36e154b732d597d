"""Where frames come from: a camera, a video file, a picture, a folder of pictures or a network stream."""

import re
import threading
from collections.abc import Callable
from os import PathLike

from ferjax.errors import InputError
from ferjax.runtime.sources import camera, files
from ferjax.runtime.sources.frame import Frame, Source

_ADDRESS = "(rtsps?|rtmps?|srt|https?|tcp|udp)[:;]?/"

__all__ = ["Frame", "Source", "open_source"]


def open_source(
    source: str | int | PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    on_wait: Callable[[], object] = lambda: None,
) -> Source:
    """Opens a source.

    Args:
      source: a camera's index ("0") or device ("/dev/video0"), a video file, a picture, a folder of pictures, or a
        URL (rtsp, http, tcp, udp).
      size: (width, height) to ask a camera for; its driver gives the nearest it has.
      on_wait: called about 20 times a second while a camera gives no frame, to keep a window alive.

    Raises:
      InputError: if it does not open or holds no picture.
    """
    text = str(source)
    stop = threading.Event()
    if text.isdecimal() or text.startswith("/dev/video"):
        return camera.open_camera(text, size, stop, on_wait)
    if "://" in text:
        return camera.open_url(text, stop, on_wait)
    path = files.expanded(text)
    if not path.exists() and re.match(_ADDRESS, text, re.IGNORECASE):  # which may hold a password
        raise InputError(
            "the source is no file, and no address: one has :// before its host, as rtsp://camera/stream has"
        )
    if not path.exists():
        raise InputError(
            f"source {text!r} does not exist. Accepted: a camera's index (0) or device (/dev/video0), a video file, "
            "a picture, a folder of pictures, a URL (rtsp://, http://)"
        )
    if path.is_dir():
        return files.open_pictures(files.pictures_in(path), text, stop)
    if path.suffix.lower() in files.PICTURES:
        return files.open_pictures([path], text, stop)
    return files.open_video(path, text, stop)

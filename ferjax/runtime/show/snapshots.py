"""Saves drawn frames as PNG images."""

import contextlib
import os

import cv2

from ferjax.cli import note
from ferjax.errors import InputError
from ferjax.folders import expand_user
from ferjax.runtime.result import Result
from ferjax.runtime.sources.frame import Frame


def snapshot_name(picture: str) -> str:
    """Returns the file name of the snapshot of an image: me.png for me.png, me.jpg.png for me.jpg."""
    return f"{picture.removesuffix('.png')}.png"


def snapshot_file(frame: Frame) -> str:
    """Returns the file name of the snapshot of a frame: after its image in a folder, or its number."""
    return snapshot_name(frame.name or f"frame-{frame.index:06d}")


class Snapshots:
    """Saves drawn frames as PNG images in a folder."""

    def __init__(self, folder: str):
        """Creates the folder.

        Raises:
          OSError: if it cannot be created.
          InputError: if it is not writable.
        """
        self._folder = expand_user(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self._folder, os.W_OK):
            raise InputError(f"--snapshot {folder} is not writable: choose another folder")

    def write(self, result: Result) -> None:
        """Saves a frame."""
        name = snapshot_file(result.frame)
        path, part = self._folder / name, self._folder / f".{name.removesuffix('.png')}.{os.getpid()}.part"
        try:
            part.write_bytes(cv2.imencode(".png", result.frame.image)[1].tobytes())
            os.replace(part, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            note(f"the snapshot {path} cannot be saved: {error.strerror or error}")

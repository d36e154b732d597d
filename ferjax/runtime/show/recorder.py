"""Records the drawn frames as a video in real time."""

import glob
import os
import pathlib
import shutil

import cv2
import numpy as np

from ferjax import folders
from ferjax.cli import counted, note
from ferjax.errors import InputError, unknown
from ferjax.runtime.result import Result
from ferjax.runtime.sources.frame import silence_opencv

VIDEOS = {".mp4": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
RESERVE = 32 << 20  # bytes kept free on the disk: closing an .mp4 writes its index
_MAX_GAP = 10.0  # seconds for which a frame is repeated while no frames arrive


class Recorder:
    """Writes the drawn frames as a video that plays in real time at any frame rate of the loop.

    A nearly full disk ends the recording with one message; the loop continues.
    """

    def __init__(self, path: str, fps: float, *, name: str = ""):
        """Checks that the video can be written. Its size is that of the first frame.

        Args:
          path: an .mp4, .mkv or .avi file.
          fps: frames per second.
          name: for messages instead of the path.

        Raises:
          InputError: if the suffix is unknown, the folder does not exist, the disk is full, or OpenCV cannot write the
            format.
          OSError: if the folder is not writable.
        """
        self._name = name or path
        self._path = folders.check_output_file(path)  # absolute: in a relative path, FFmpeg reads "name:" as a protocol
        target = pathlib.Path(os.path.realpath(self._path))
        if self._path.suffix.lower() not in VIDEOS:
            raise unknown("video format", self._name, (f"FILE{suffix}" for suffix in VIDEOS))
        if _free(target) < RESERVE:
            raise InputError(f"{self._name}: less than {RESERVE >> 20} MB are free on the disk")
        self._fps, self._size = round(fps, 2), (0, 0)  # MPEG-4 cannot write 239.538
        self._writer: cv2.VideoWriter | None = None
        self._target = target
        folders.remove_abandoned(target.parent, f".{glob.escape(target.stem)}.*.part{self._path.suffix}")
        self._part = target.with_name(f".{target.stem}.{os.getpid()}.part{self._path.suffix}")
        self._due, self._frames, self._start, self._done = 0, 0, 0.0, False
        self._check_writable()

    def _check_writable(self) -> None:
        """Writes and deletes an empty video, to report errors before an existing file is replaced."""
        trial = self._part.with_stem(f"{self._part.stem}.trial")
        trial.touch()  # raises OSError with the reason if the folder is not writable
        try:
            self._open(trial, (16, 16)).release()
        finally:
            trial.unlink(missing_ok=True)

    def write(self, result: Result) -> None:
        """Adds a frame, repeated to fill the time since the last one; other sizes are letterboxed."""
        if self._done:
            return
        if self._writer is None:
            height, width = result.frame.image.shape[:2]
            self._size, self._start = (max(2, width & ~1), max(2, height & ~1)), result.time  # codecs need even sides
            self._writer = self._open(self._part, self._size)
        if _free(self._target) < RESERVE:
            note(f"the disk is nearly full: the recording {self._name} ends after {self._due / self._fps:.0f} s")
            self.close()
            return
        image = _letterboxed(result.frame.image, self._size)
        due = round((result.time - self._start) * self._fps) + 1
        for _ in range(min(due - self._due, int(_MAX_GAP * self._fps))):
            self._writer.write(image)
            self._frames += 1
        self._due = max(self._due, due)

    def close(self) -> None:
        """Ends the video and renames it; an unreadable video is deleted, as OpenCV does not report write errors."""
        if self._writer is not None:
            self._writer.release()
            expected = max(1, int(0.95 * self._frames) - 1)  # some formats store a duration, not a number of frames
            readable = _frames_in(self._part, expected)
            if readable:
                os.replace(self._part, self._target)
            else:
                self._part.unlink(missing_ok=True)
            if readable < expected:
                note(
                    f"only {readable} of {counted(self._frames, 'frame')} of the recording {self._name} are readable"
                    f"{'' if readable else ', and it is deleted'}: check the disk and file size limits"
                )
        self._writer, self._done = None, True

    def _open(self, path: pathlib.Path, size: tuple[int, int]) -> cv2.VideoWriter:
        code = cv2.VideoWriter.fourcc(*VIDEOS[self._path.suffix.lower()])
        with silence_opencv():
            writer = cv2.VideoWriter(folders.native(path), code, self._fps, size)
        if not writer.isOpened():
            path.unlink(missing_ok=True)
            raise InputError(
                f"this OpenCV cannot write {self._name} with {size[0]}x{size[1]} pixels: use another format of "
                f"{', '.join(VIDEOS)}, or smaller frames"
            )
        return writer


def _frames_in(path: pathlib.Path, expected: int) -> int:
    """Returns the number of frames in a video: from the header, or counted if that is below `expected`."""
    with silence_opencv():
        capture = cv2.VideoCapture(str(path))
        first = capture.isOpened() and capture.grab()
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if first else 0
        if first and count < expected:
            count = 1
            while capture.grab():
                count += 1
        capture.release()
    return count


def _free(path: pathlib.Path) -> int:
    return shutil.disk_usage(path.parent).free


def _letterboxed(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns an image scaled to fit into (width, height), with black borders."""
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    if width - size[0] in (0, 1) and height - size[1] in (0, 1):
        return np.ascontiguousarray(image[: size[1], : size[0]])
    scale = min(size[0] / width, size[1] / height)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    left, top = (size[0] - w) // 2, (size[1] - h) // 2
    canvas[top : top + h, left : left + w] = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
    return canvas

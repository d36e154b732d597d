"""What the user asked to keep: a log of the faces, a recording, pictures. Nothing is stored unasked.

A disk that fills ends the output with one message and leaves what was written readable; the loop goes on.
"""

import contextlib
import csv
import glob
import json
import os
import pathlib
import shutil
import stat
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

import cv2
import numpy as np

from ferjax.cli import abandon_output, note
from ferjax.errors import InputError, unknown
from ferjax.runtime.result import FaceResult, Latency, Result
from ferjax.runtime.sources.files import expanded
from ferjax.runtime.sources.frame import quiet

try:
    import fcntl
except ImportError:  # Windows, where two may write one log
    fcntl = None  # type: ignore[assignment]

LOGS = (".jsonl", ".csv")
VIDEOS = {".mp4": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
RESERVE = 32 << 20  # bytes: closing an .mp4 writes its index, for which there has to be room
_LONGEST_GAP = 10.0  # seconds of a standing picture that are recorded where no frames came


class Log:
    """Writes one line per face and frame, as .jsonl or .csv; "-" is .jsonl on standard output."""

    def __init__(self, path: str, class_names: Sequence[str]):
        """Opens the file, replacing an older one.

        Raises:
          InputError: if its name ends in neither .jsonl nor .csv, its folder does not exist, another process writes
            it, or standard output is closed.
          OSError: if it cannot be written.
        """
        self._path, self._names = path, tuple(class_names)
        kind = ".jsonl" if path == "-" else pathlib.Path(path).suffix.lower()
        if kind not in LOGS:
            raise unknown("kind of log", path, (*(f"FILE{suffix}" for suffix in LOGS), "-"))
        self._file: TextIO | None = sys.stdout
        if path == "-" and self._file is None:
            raise InputError("the log cannot go to standard output, which is closed: give a FILE.jsonl")
        self._target, self._whole = None if path == "-" else _ready(path), 0
        if self._target:  # names of files keep their bytes, whatever their encoding
            self._file = open(  # noqa: SIM115
                self._target, "w", newline="", encoding="utf-8", errors="surrogateescape", opener=_claimed
            )
        self._line = self._json if kind == ".jsonl" else self._csv
        if kind == ".csv":
            head = ["time", "frame", "image", "track", "x", "y", "width", "height", "label", "confidence"]
            head += [f"{column}_{name}" for column in ("probability", "raw_probability") for name in self._names]
            self._write([*head, *(f"latency_ms_{part}" for part in Latency._fields)])

    def write(self, result: Result) -> None:
        """Adds the faces of a frame."""
        if self._file is None or not result.faces:
            return
        try:
            for face in result.faces:
                self._line(result, face)
            self._file.flush()  # whole frames, also for those who read along or pull the plug
            if self._target and self._file.seekable():
                self._whole = self._file.tell()
        except BrokenPipeError:
            raise
        except OSError as error:
            note(f"the log {self._path} ends here: {error.strerror or error}")
            self._drop()
            if self._target:  # a part of the last lines may have fitted
                with contextlib.suppress(OSError):
                    os.truncate(self._target, self._whole)

    def close(self) -> None:
        """Closes the file."""
        if self._file not in (None, sys.stdout):
            self._drop()

    def _drop(self) -> None:
        file, self._file = self._file, None
        with contextlib.suppress(OSError):  # what is left in the buffer does not fit either; this was said
            if file is sys.stdout:
                abandon_output()
            elif file is not None:
                file.close()

    def _json(self, result: Result, face: FaceResult) -> None:
        raw = face.raw_probabilities
        line: dict[str, Any] = {
            "time": round(result.time, 4),
            "frame": result.frame.index,
            "track": face.track,
            "box": face.box,
            "label": face.label,
            "confidence": _short(face.confidence),
            "probabilities": {name: _short(p) for name, p in face.probabilities.items()},
            "raw_probabilities": None if raw is None else {name: _short(p) for name, p in raw.items()},
            "latency_ms": {part: round(ms, 3) for part, ms in result.latency._asdict().items()},
        }
        if result.frame.name:
            line["image"] = result.frame.name
        assert self._file is not None
        self._file.write(json.dumps(line) + "\n")

    def _csv(self, result: Result, face: FaceResult) -> None:
        raw = face.raw_probabilities
        row = [round(result.time, 4), result.frame.index, result.frame.name, face.track, *face.box, face.label]
        row += [_short(p) for p in (face.confidence, *face.probabilities.values())]
        row += [""] * len(self._names) if raw is None else [_short(p) for p in raw.values()]
        self._write([*row, *(round(ms, 3) for ms in result.latency)])

    def _write(self, row: Sequence[Any]) -> None:
        assert self._file is not None
        csv.writer(self._file).writerow(row)


def snapshot_name(picture: str) -> str:
    """Returns what the snapshot of a picture is called: me.png, me.jpg.png."""
    return f"{picture.removesuffix('.png')}.png"


class Recorder:
    """Writes the drawn frames as a video that plays at the speed of life, whatever the loop's frame rate."""

    def __init__(self, path: str, fps: float):
        """Prepares for the first frame, whose size the video has.

        Raises:
          InputError: if the name has no known ending, its folder does not exist, the disk is full or OpenCV cannot
            write such a video there.
          OSError: if nothing can be written there.
        """
        self._path = _ready(path)
        target = pathlib.Path(os.path.realpath(self._path))
        if self._path.suffix.lower() not in VIDEOS:
            raise unknown("kind of video", path, (f"FILE{suffix}" for suffix in VIDEOS))
        if _free(target) < RESERVE:
            raise InputError(f"the disk is too full to record {path}: less than {RESERVE >> 20} MB are free")
        self._fps, self._size = fps, (0, 0)
        self._writer: cv2.VideoWriter | None = None
        self._target = target
        for left in target.parent.glob(f".{glob.escape(target.stem)}.*.part{self._path.suffix}"):
            _remove_old(left)
        self._part = target.with_name(f".{target.stem}.{os.getpid()}.part{self._path.suffix}")
        self._written, self._frames, self._start, self._done = 0, 0, 0.0, False
        self._try()

    def _try(self) -> None:
        """Writes a video and removes it: what cannot be written is said before anything else is replaced."""
        trial = self._part.with_stem(f"{self._part.stem}.trial")
        trial.touch()  # where nothing can be written the system says why
        try:
            self._open(trial, (16, 16)).release()
        finally:
            trial.unlink(missing_ok=True)

    def write(self, result: Result) -> None:
        """Adds a frame, as often as its time asks; one of another size is fitted in with a black border."""
        if self._done:
            return
        if self._writer is None:
            height, width = result.frame.image.shape[:2]
            self._size, self._start = (max(2, width & ~1), max(2, height & ~1)), result.time  # codecs want even sides
            self._writer = self._open(self._part, self._size)
        if _free(self._target) < RESERVE:
            note(
                f"the disk is nearly full: the recording {self._path} ends here after {self._written / self._fps:.0f} s"
            )
            self.close()
            return
        image = _fitted(result.frame.image, self._size)
        wanted = round((result.time - self._start) * self._fps) + 1
        for _ in range(min(wanted - self._written, int(_LONGEST_GAP * self._fps))):
            self._writer.write(image)
            self._frames += 1
        self._written = max(self._written, wanted)

    def close(self) -> None:
        """Ends the video and gives it its name; one that cannot be played, of which OpenCV says nothing, vanishes."""
        if self._writer is not None:
            self._writer.release()
            least = max(1, int(0.95 * self._frames) - 1)  # some formats hold a length, not a number of frames
            readable = _frames_in(self._part, least)
            if readable:
                os.replace(self._part, self._target)
            else:
                self._part.unlink(missing_ok=True)
            if readable < least:
                note(
                    f"of {self._frames} frames of the recording {self._path} {readable} can be read"
                    f"{'' if readable else ': nothing is saved'}; is the size of files limited here?"
                )
        self._writer, self._done = None, True

    def _open(self, path: pathlib.Path, size: tuple[int, int]) -> cv2.VideoWriter:
        code = cv2.VideoWriter.fourcc(*VIDEOS[self._path.suffix.lower()])
        with quiet():
            writer = cv2.VideoWriter(str(path), code, self._fps, size)
        if not writer.isOpened():
            path.unlink(missing_ok=True)
            raise InputError(
                f"this OpenCV cannot write {self._path} of {size[0]}x{size[1]} pixels: try another of "
                f"{', '.join(VIDEOS)}, or smaller frames"
            )
        return writer


class Snapshots:
    """Saves drawn frames as pictures in a folder."""

    def __init__(self, folder: str):
        """Makes the folder.

        Raises:
          OSError: if it cannot be made.
          InputError: if nothing can be written into it.
        """
        self._folder = expanded(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self._folder, os.W_OK):
            raise InputError(f"nothing can be written into {folder}: choose another folder")

    def write(self, result: Result) -> None:
        """Saves a frame as PNG, named after its number or, from a folder, its picture: me.png, me.jpg.png."""
        name = snapshot_name(result.frame.name or f"frame-{result.frame.index:06d}")
        path, part = self._folder / name, self._folder / f".{name.removesuffix('.png')}.{os.getpid()}.part"
        try:
            part.write_bytes(cv2.imencode(".png", result.frame.image)[1].tobytes())
            os.replace(part, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            note(f"the picture {path} could not be saved: {error.strerror or error}")


def _ready(path: str) -> pathlib.Path:
    """Returns the path of an output whose folder exists."""
    target = pathlib.Path(os.path.abspath(expanded(path)))  # whole: FFmpeg takes what is before a colon for a protocol
    if not target.parent.is_dir():
        raise InputError(f"the folder of {path} does not exist: make {target.parent} first")
    if target.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file")
    return target


def _claimed(path: str, flags: int) -> int:
    """Opens a file to write, and empties it once it is clear that no other process writes it."""
    number = os.open(path, flags & ~os.O_TRUNC, 0o666)
    try:
        if stat.S_ISREG(os.fstat(number).st_mode):
            if fcntl is not None:
                with contextlib.suppress(OSError):  # a file system without locks
                    _lock(number, path)
            os.ftruncate(number, 0)
    except BaseException:
        os.close(number)
        raise
    return number


def _lock(number: int, path: str) -> None:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"another process writes the log {path}: stop it, or choose another --log") from None


def _remove_old(path: pathlib.Path) -> None:
    """Removes what a killed process left a day ago or more."""
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > 86400:
            path.unlink()


def _frames_in(path: pathlib.Path, least: int) -> int:
    """Returns the number of frames in a video, 0 if it cannot be read: its own word if that is enough, or counted."""
    with quiet():
        capture = cv2.VideoCapture(str(path))
        first = capture.isOpened() and capture.grab()
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if first else 0
        if first and count < least:
            count = 1
            while capture.grab():
                count += 1
        capture.release()
    return count


def _free(path: pathlib.Path) -> int:
    return shutil.disk_usage(path.parent).free


def _fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns an image scaled into (width, height), the rest black."""
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


def _short(value: float) -> float:
    """Seven digits: what float32 holds."""
    return float(f"{value:.7g}")

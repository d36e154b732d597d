"""Logs the faces of each frame as JSON lines or CSV."""

import contextlib
import csv
import json
import os
import pathlib
import stat
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from ferjax.cli import abandon_output, note
from ferjax.errors import InputError, unknown
from ferjax.folders import check_output_file
from ferjax.runtime.result import FaceResult, Latency, Result

try:
    import fcntl
except ImportError:  # Windows: logs are not locked
    fcntl = None  # type: ignore[assignment]

LOGS = (".jsonl", ".csv")


class Log:
    """Writes one line per face and frame, as .jsonl or .csv; "-" is .jsonl on standard output.

    A full disk ends the log after its last complete frame with one message; the loop continues.
    """

    def __init__(self, path: str, class_names: Sequence[str]):
        """Opens the file, replacing an existing one.

        Raises:
          InputError: if the suffix is not .jsonl or .csv, the folder does not exist, another process writes the file,
            or standard output is closed.
          OSError: if the file cannot be written.
        """
        self._path, self._names = path, tuple(class_names)
        kind = ".jsonl" if path == "-" else pathlib.Path(path).suffix.lower()
        if kind not in LOGS:
            raise unknown("log format", path, (*(f"FILE{suffix}" for suffix in LOGS), "-"))
        self._file: TextIO | None = sys.stdout
        if path == "-" and self._file is None:
            raise InputError("--log - requires standard output, which is closed: use --log FILE.jsonl")
        self._target, self._complete = None if path == "-" else check_output_file(path), 0
        if self._target:  # backslashreplace: file names of any encoding
            self._file = open(  # noqa: SIM115
                self._target, "w", newline="", encoding="utf-8", errors="backslashreplace", opener=_open_locked
            )
        self._write_face = self._write_json if kind == ".jsonl" else self._write_csv
        if kind == ".csv":
            head = columns(self._names)
            self._write_row([*head[:2], "image", *head[2:], *(f"latency_ms_{part}" for part in Latency._fields)])

    def write(self, result: Result) -> None:
        """Adds the faces of a frame."""
        if self._file is None or not result.faces:
            return
        try:
            for face in result.faces:
                self._write_face(result, face)
            self._file.flush()  # complete frames for concurrent readers and after a power failure
            if self._target and self._file.seekable():
                self._complete = self._file.tell()
        except BrokenPipeError:
            raise
        except OSError as error:
            note(f"the log {self._path} ends here: {error.strerror or error}")
            self._close_file()
            if self._target:  # remove an incomplete last frame
                with contextlib.suppress(OSError):
                    os.truncate(self._target, self._complete)

    def close(self) -> None:
        """Closes the file."""
        if self._file not in (None, sys.stdout):
            self._close_file()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        with contextlib.suppress(OSError):  # flushing the buffer fails again after a reported error
            if file is sys.stdout:
                abandon_output()
            elif file is not None:
                file.close()

    def _write_json(self, result: Result, face: FaceResult) -> None:
        assert self._file is not None
        self._file.write(json.dumps(entry(result, face)) + "\n")

    def _write_csv(self, result: Result, face: FaceResult) -> None:
        row = flat(face_entry(result.time, result.frame.index, face))
        self._write_row([*row[:2], result.frame.name, *row[2:], *(round(ms, 3) for ms in result.latency)])

    def _write_row(self, row: Sequence[Any]) -> None:
        assert self._file is not None
        csv.writer(self._file).writerow(row)


def entry(result: Result, face: FaceResult) -> dict[str, Any]:
    """Returns the log entry of a face, for JSON."""
    line = face_entry(result.time, result.frame.index, face)
    line["latency_ms"] = {part: round(ms, 3) for part, ms in result.latency._asdict().items()}
    if result.frame.name:
        line["image"] = result.frame.name
    return line


def face_entry(time: float, frame: int, face: FaceResult) -> dict[str, Any]:
    """Returns the part of a log entry that does not depend on the source and the speed."""
    raw = face.raw_probabilities
    return {
        "time": round(time, 4),
        "frame": frame,
        "track": face.track,
        "box": face.box,
        "label": face.label,
        "confidence": _rounded(face.confidence),
        "probabilities": {name: _rounded(p) for name, p in face.probabilities.items()},
        "raw_probabilities": None if raw is None else {name: _rounded(p) for name, p in raw.items()},
    }


def columns(class_names: Sequence[str]) -> list[str]:
    """Returns the names of the values of `flat`."""
    head = ["time", "frame", "track", "x", "y", "width", "height", "label", "confidence"]
    return head + [f"{column}_{name}" for column in ("probability", "raw_probability") for name in class_names]


def flat(entry: Mapping[str, Any]) -> list[Any]:
    """Returns a result of `face_entry` as the row of a table; missing raw probabilities are None."""
    probabilities, raw = entry["probabilities"], entry["raw_probabilities"]
    row = [entry["time"], entry["frame"], entry["track"], *entry["box"], entry["label"], entry["confidence"]]
    return [*row, *probabilities.values(), *(raw.values() if raw else [None] * len(probabilities))]


def _open_locked(path: str, flags: int) -> int:
    """Opens a file with an exclusive lock, then truncates it, so that the log of another process is kept."""
    descriptor = os.open(path, flags & ~os.O_TRUNC, 0o666)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            if fcntl is not None:
                with contextlib.suppress(OSError):  # the file system does not support locks
                    _lock(descriptor, path)
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, path: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"another process writes the log {path}: stop it, or choose another --log") from None


def _rounded(value: float) -> float:
    """Rounds to seven significant digits, the precision of float32."""
    return float(f"{value:.7g}")

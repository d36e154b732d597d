"""Runs live.py as a process of its own: load at 30 frames a second, time to the first result, memory over hours.

The camera is a clip sent as motion JPEG over HTTP on this machine, as an IP camera does.
"""

import contextlib
import functools
import http.server
import itertools
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from ferjax import errors
from ferjax.data.synthetic.clips import render_clip
from tools import tables

SUMMARY = re.compile(r"([\d,]+) frames?\b.*?, ([\d.]+) fps, ([\d,]+) faces?, CPU (\d+) % of one core, memory (\d+) MB")


def clip(kind: str, frames: int, *, seed: int = 0) -> list[np.ndarray]:
    """Returns the frames of a rendered clip at 640x480 and 30 frames a second."""
    return [image for image, _ in render_clip(kind, seed=seed, frames=frames)]


def live(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Starts live.py."""
    command = [sys.executable, str(tables.ROOT / "live.py"), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def first_result(model: str, source: pathlib.Path, *options: str, runs: int = 7) -> float:
    """Returns the median of the seconds from starting the process to its first line of the log."""
    seconds = []
    for _ in range(runs + 1):  # the first one warms the file cache
        arguments = ["--model", model, "--source", source, "--log", "-", "--no-display", *options]
        start = time.perf_counter()
        process = live(*arguments)
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds.append(time.perf_counter() - start)
        process.kill()
        process.communicate()
        if not line:
            raise errors.InputError(f"live.py gave no result for {source}")
    return statistics.median(seconds[1:])


def load(model: str, images: list[np.ndarray], *detector: str, seconds: float = 8.0) -> dict[str, float]:
    """Runs live.py, drawing, on a camera of 30 frames a second.

    Returns:
      fps, cpu_percent (of one core) and memory_mb.
    """
    with _camera(images, fps=30.0) as url, _folder() as folder:
        process = live(
            "--model", model, "--source", url, "--no-display", "--snapshot", folder,
            "--frames", int(30 * seconds), *detector,
        )  # fmt: skip
        done = _summary(process)
    return {name: done[name] for name in ("fps", "cpu_percent", "memory_mb")}


def soak(frames: int, *, model: str, kind: str = "moving", warmup: int | None = None) -> dict[str, float]:
    """Runs live.py over so many frames, as fast as it goes, and watches its memory.

    Args:
      frames: how many the loop handles.
      model: the exported file.
      kind: of the clip, which goes to and fro.
      warmup: frames after which memory counts; a tenth if not given.

    Returns:
      `frames`; `peak_mb`; `own_mb`, what it holds at the end without the pages of mapped files, of which the system
      decides how many count; `growth_mb`, how much the second half of what follows the warm-up holds more than the
      first, as medians.
    """
    warmup = frames // 10 if warmup is None else warmup
    with _camera(clip(kind, 90)) as url:
        process = live("--model", model, "--source", url, "--no-display", "--log", "-", "--frames", frames)
        assert process.stdout is not None
        memory: list[tuple[int, float]] = []
        own = 0.0
        for line in process.stdout:
            index = json.loads(line)["frame"]
            if not memory or index >= memory[-1][0] + max(1, frames // 1000):
                memory.append((index, _resident(process.pid)))
                own = _own(process.pid) or own
        done = _summary(process)
    counted = [mb for index, mb in memory if index >= warmup]
    half = len(counted) // 2
    return {
        "frames": done["frames"],
        "peak_mb": max(mb for _, mb in memory),
        "own_mb": own,
        "growth_mb": statistics.median(counted[half:]) - statistics.median(counted[:half]),
    }


def _summary(process: subprocess.Popen[str]) -> dict[str, float]:
    output, messages = process.communicate()
    match = SUMMARY.search(messages)
    if process.returncode or match is None:
        raise errors.InputError(f"live.py failed: {messages.strip() or output}")
    names = ("frames", "fps", "faces", "cpu_percent", "memory_mb")
    return dict(zip(names, (float(text.replace(",", "")) for text in match.groups()), strict=True))


def _resident(pid: int) -> float:
    try:
        pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _own(pid: int) -> float:
    try:
        found = re.search(r"RssAnon:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return int(found[1]) * 1024 / 1e6 if found else 0.0


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ferjax-live-") as folder:
        yield folder


@contextlib.contextmanager
def _camera(images: list[np.ndarray], *, fps: float | None = None) -> Iterator[str]:
    """Yields the URL of a camera that shows these images to and fro, at a rate or as fast as they are taken."""
    parts = []
    for image in images:
        data = cv2.imencode(".jpg", image)[1].tobytes()
        parts.append(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(data), data))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Camera, parts, fps))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/clip.mjpg"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Camera(http.server.BaseHTTPRequestHandler):
    def __init__(self, parts: list[bytes], fps: float | None, *rest: Any):
        self._parts, self._fps = parts, fps
        super().__init__(*rest)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        start = time.monotonic()
        with contextlib.suppress(OSError):  # the reader hangs up when it has enough
            for i, part in enumerate(itertools.cycle([*self._parts, *self._parts[-2:0:-1]])):
                if self._fps:
                    time.sleep(max(0.0, start + i / self._fps - time.monotonic()))
                self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass

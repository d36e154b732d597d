"""Measures `ferjax.analyze` per photo, and the speed and memory of `ferjax analyze` on films.

    python -m benchmarks.speed.analyze
    python -m benchmarks.speed.analyze --minutes 1 60      that an hour needs no more memory than a minute

Photos and films are rendered, 640x480, with one and four faces; films have 30 frames a second. The time of a film is
that of the whole command, from the start of the process to the page, with the annotated copy, at its default rate of
ten classifications per face and second. Memory is the peak of the process.
"""

import itertools
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import cv2
import numpy as np

import ferjax
from benchmarks.speed import live_process
from ferjax import cli, errors
from ferjax.data.synthetic.rendering import render_scene
from tools import tables

FPS = 30.0
PEOPLE = {"one face": (1, "moving"), "four faces": (4, "four")}
COLUMNS = (
    ("input", "{name}"),
    ("ms a photo", "{milliseconds:.1f}"),
    ("times real time", "{speed:.1f}"),
    ("CPU, s per second of film", "{cpu:.2f}"),
    ("peak memory, MB", "{memory_mb:.0f}"),
)


def main() -> None:
    parser = tables.arguments(__doc__)
    parser.add_argument("--photos", type=int, default=50, help="calls per number of faces (default 50)")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0], help="lengths of the films (default 1)")
    options = parser.parse_args()
    rows = [photo(name, faces, options.photos) for name, (faces, _) in PEOPLE.items()]
    for minutes, (name, (_, kind)) in itertools.product(options.minutes, PEOPLE.items()):
        rows.append(film(f"film of {minutes:g} min, {name}", kind, minutes))
    command = tables.command("benchmarks.speed.analyze")
    packages = ["numpy", "opencv-python", "ai-edge-litert"]
    table = tables.save("analyze", COLUMNS, rows, command=command, packages=packages, results=options.results)
    print(tables.render(table))


def photo(name: str, faces: int, calls: int) -> dict[str, Any]:
    """Returns the row of a photo: the median time of a call after the first one."""
    image = np.ascontiguousarray(render_scene(seed=5, faces=faces)[0][..., ::-1])
    seconds = []
    for _ in range(calls + 1):
        start = time.perf_counter()
        found = len(ferjax.analyze(image))
        seconds.append(time.perf_counter() - start)
    row = dict.fromkeys(("speed", "cpu", "memory_mb"))
    return {**row, "name": f"photo, {name}", "milliseconds": 1e3 * statistics.median(seconds[1:]), "found": found}


def film(name: str, kind: str, minutes: float) -> dict[str, Any]:
    """Returns the row of a film: a clip of ten seconds to and fro."""
    images = live_process.clip(kind, 300)
    with tempfile.TemporaryDirectory(prefix="ferjax-analyze-") as folder:
        path, count = pathlib.Path(folder) / "film.mp4", round(60 * FPS * minutes)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (640, 480))
        for image in itertools.islice(itertools.cycle([*images, *images[-2:0:-1]]), count):
            writer.write(image)
        writer.release()
        arguments = ["-m", "ferjax", "analyze", str(path), "--out", str(pathlib.Path(folder) / "out")]
        start, before, peak = time.perf_counter(), os.times(), 0.0
        process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
        while process.poll() is None:
            peak = _peak(process.pid) or peak
            time.sleep(0.05)
        seconds, after = time.perf_counter() - start, os.times()
    if process.returncode:
        raise errors.InputError(f"ferjax analyze ended with exit code {process.returncode}")
    return {
        "name": name,
        "milliseconds": None,
        "speed": 60 * minutes / seconds,
        "cpu": (sum(after[2:4]) - sum(before[2:4])) / (60 * minutes),  # user and system time of ended children
        "memory_mb": peak,
    }


def _peak(pid: int) -> float:
    """Returns the peak of the resident memory of a process in MB, or 0 if it has ended."""
    found = re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 / 1e6 if found else 0.0


if __name__ == "__main__":
    cli.run(main)

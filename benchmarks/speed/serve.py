"""Measures what viewers of `ferjax live --serve` cost the live loop at 640x480 and 30 frames a second.

    python -m benchmarks.speed.serve --model resnet20_int8.tflite

The loop handles a rendered clip of two people as a camera of 30 frames a second, with 0, 1 and 5 viewers in turns, a
block of frames each. A viewer is a process on the same machine that reads the pictures and the events, as the page
does. "Frame" is the wall time of the loop from the pixels to the published picture; CPU is that of the whole process.
"""

import multiprocessing
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from benchmarks.speed import live, live_process, turns
from ferjax import cli
from ferjax.runtime.loop import stream
from ferjax.runtime.model import load
from ferjax.runtime.serve.server import View
from ferjax.runtime.show.drawing import Painter
from tools import tables

VIEWERS = (0, 1, 5)
COLUMNS = (
    ("viewers", "{name}"),
    ("frame, ms (p95)", "{wall:.2f} ({p95:.2f})"),
    ("growth %", "{growth:.1f}"),
    ("CPU, ms a frame", "{cpu:.1f}"),
    ("pictures a second", "{pictures:.1f}"),
)
_CONNECT_SECONDS = 1.5  # from the start of a viewer to its first picture, with a margin


def main() -> None:
    parser = tables.arguments(__doc__)
    parser.add_argument("--model", help="an exported file (default: the default model of the package)")
    parser.add_argument("--rounds", type=int, default=10, help="blocks for each number of viewers")
    parser.add_argument("--block", type=int, default=150, help="frames per block")
    options = parser.parse_args()
    rows = measure(options.model, rounds=options.rounds, block=options.block)
    command = tables.command("benchmarks.speed.serve")
    packages = ["numpy", "opencv-python", "ai-edge-litert", "tornado"]
    table = tables.save("serve", COLUMNS, rows, command=command, packages=packages, results=options.results)
    print(tables.render(table))


def measure(model: str | None, *, rounds: int, block: int) -> list[dict[str, Any]]:
    """Returns the rows of the table."""
    loaded = load(model)
    cv2.setNumThreads(1)  # as the command does
    frames, pictures = ({viewers: list[float]() for viewers in VIEWERS} for _ in range(2))
    cpu = dict.fromkeys(VIEWERS, 0.0)
    with (
        View("0", loaded.spec.class_names, stills=False) as view,
        multiprocessing.get_context("spawn").Pool(max(VIEWERS)) as pool,
    ):
        view.start()
        step = _loop(loaded, view)
        for order in turns.orders(map(str, VIEWERS), rounds):
            for viewers in map(int, order):
                seconds = block / live.FPS
                watching = [pool.apply_async(watch, (view.url, _CONNECT_SECONDS + seconds)) for _ in range(viewers)]
                _run(step, round(_CONNECT_SECONDS * live.FPS))
                start = time.process_time()
                frames[viewers] += _run(step, block)
                cpu[viewers] += time.process_time() - start
                pictures[viewers] += [each.get() for each in watching]
    return [
        {
            "name": str(viewers),
            "wall": float(np.mean(frames[viewers])),
            "p95": float(np.percentile(frames[viewers], 95)),
            "growth": float(100 * (np.mean(frames[viewers]) / np.mean(frames[0]) - 1)),
            "cpu": 1e3 * cpu[viewers] / len(frames[viewers]),
            "pictures": float(np.mean(pictures[viewers])) if viewers else None,
        }
        for viewers in VIEWERS
    ]


def watch(url: str, seconds: float) -> float:
    """Reads pictures and events for so long; returns the pictures a second."""
    end = time.monotonic() + seconds
    events = threading.Thread(target=_read, args=(f"{url}events", b"event: frame", end))
    events.start()
    start = time.monotonic()
    count = _read(f"{url}picture.mjpeg", b"--frame", end)
    events.join()
    return count / (time.monotonic() - start)


def _read(url: str, mark: bytes, end: float) -> int:
    """Returns how often a mark occurs in a stream until a time."""
    count, rest = 0, b""
    with urllib.request.urlopen(url) as stream:
        while time.monotonic() < end:
            rest += stream.read1(1 << 16)
            count += rest.count(mark)
            rest = rest[1 - len(mark) :]  # may hold the beginning of a mark, but not a whole one
    return count


def _loop(model: Any, view: View) -> Callable[[], None]:
    """Returns a function that handles the next frame as `ferjax live --serve` does."""
    painter = Painter(model.spec.class_names)
    results: Iterator[Any] = stream(live.frames(live_process.clip("crossing", 150)), model)

    def step() -> None:
        result = next(results)
        painter.draw(result)
        view.publish(result)

    return step


def _run(step: Callable[[], None], frames: int) -> list[float]:
    """Returns the milliseconds of so many steps, 30 a second."""
    milliseconds, start = [], time.monotonic()
    for i in range(frames):
        time.sleep(max(0.0, start + i / live.FPS - time.monotonic()))
        begin = time.perf_counter()
        step()
        milliseconds.append((time.perf_counter() - begin) * 1e3)
    return milliseconds


if __name__ == "__main__":
    cli.run(main)

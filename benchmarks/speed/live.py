"""Measures the live loop at 640x480, beside the papers' pipeline, and the load of the running program.

    python -m benchmarks.speed.live --model resnet20_int8.tflite --yunet face_detection_yunet.onnx
    python -m benchmarks.speed.live --model resnet20_int8.tflite --soak 100000      memory over that many frames

Rendered clips show one and four people that move by two pixels a frame or more. All pipelines take turns, a block of
frames each.

- ferjax: `ferjax.runtime.stream` and its drawing; each face found is classified at least ten times a second. On one
  thread, as live.py by default: two gain little wall time, and waiting for each other costs a third more CPU time.
- papers: Haar with Paraschiv's parameters on every full frame, a float32 ResNet-18 (PyTorch eager, random weights) on
  every face, box and label drawn, on all cores. Qin, Tormalm and Paraschiv do this.

Wall time and CPU time (of all threads) are per frame, from its pixels to the drawn picture; decoding is not in it.
"A new face found after" are the median and the slowest of twenty faces that appear at different moments. fps, CPU (of
one core) and memory are those of live.py on a camera of 30 frames a second. "First result" is the time from starting
live.py to its first answer.
"""

import functools
import itertools
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

# PyTorch's idle OpenMP threads spin by default and take the cores from the other pipelines.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cv2
import numpy as np

from benchmarks.speed import live_process, turns
from ferjax import cli
from ferjax.runtime.loop import stream
from ferjax.runtime.model import load
from ferjax.runtime.show.drawing import Painter
from ferjax.runtime.sources.frame import Frame
from tools import tables

FPS = 30.0
KINDS = {"one face": "moving", "four faces": "four"}
COLUMNS = (
    ("pipeline", "{name}"),
    ("ms per frame: mean (p95)", "{wall:.1f} ({p95:.1f})"),
    ("CPU time, ms", "{cpu:.1f}"),
    ("speedup", "{faster:.0f}×"),
    ("faces detected", "{found:.1%}"),
    ("CPU load, % of one core", "{cpu_percent:.0f}"),
    ("memory, MB", "{memory_mb:.0f}"),
)

Pipeline = Iterator[list[int] | None]  # handles one frame; gives the tracks that were classified, None for the papers


def main() -> None:
    parser = tables.arguments(__doc__)
    parser.add_argument("--model", required=True, help="an exported file")
    parser.add_argument("--yunet", help="YuNet's .onnx file; without it only Haar is measured")
    parser.add_argument("--rounds", type=int, default=10, help="blocks per pipeline")
    parser.add_argument("--block", type=int, default=60, help="frames per block; the papers' pipeline does a sixth")
    parser.add_argument("--soak", type=int, metavar="FRAMES", help="only watch the memory over so many frames")
    options = parser.parse_args()
    if options.soak:
        seen = live_process.soak(options.soak, model=options.model)
        print("{frames:.0f} frames, peak {peak_mb:.0f} MB, growth {growth_mb:.1f} MB".format(**seen))
        return
    detectors = {"Haar": ("haar", None)} | ({"YuNet": ("yunet", options.yunet)} if options.yunet else {})
    rows = measure(options.model, detectors, rounds=options.rounds, block=options.block)
    command = tables.command("benchmarks.speed.live")
    packages = ["numpy", "opencv-python", "ai-edge-litert", "torch"]
    table = tables.save("live", COLUMNS, rows, command=command, packages=packages, results=options.results)
    print(tables.render(table))


def measure(
    model: str, detectors: dict[str, tuple[str, str | None]], *, rounds: int, block: int
) -> list[dict[str, Any]]:
    """Returns the rows of the table."""
    clips = {count: live_process.clip(kind, 300) for count, kind in KINDS.items()}
    pipelines: dict[str, tuple[Callable[[], Pipeline], int, int]] = {}
    for count, images in clips.items():
        pipelines[f"papers, {count}"] = functools.partial(papers, images), max(1, block // 6), os.cpu_count() or 1
        for name, (detector, file) in detectors.items():
            pipelines[f"ferjax, {name}, {count}"] = functools.partial(ferjax, model, images, detector, file), block, 1
    timings = take_turns(pipelines, rounds)
    rows = []
    for label, timing in timings.items():
        owner, *middle, count = label.split(", ")
        row: dict[str, Any] = dict.fromkeys(
            ("found", "rate", "new", "slowest", "fps", "cpu_percent", "memory_mb", "first")
        )
        row |= {"name": label, **timing, "faster": timings[f"papers, {count}"]["wall"] / timing["wall"]}
        if owner == "ferjax":
            detector, file = detectors[middle[0]]
            row |= attention(model, KINDS[count], detector, file)
            options = ["--detector", detector, *(["--detector-model", file] if file else [])]
            row |= live_process.load(model, clips[count], *options)
            if count == "one face":
                row |= appearing(model, detector, file)
                row["first"] = _first(model, clips[count], options)
        rows.append(row)
    return rows


def ferjax(model: str, images: list[np.ndarray], detector: str, file: str | None) -> Pipeline:
    """The live loop, over a clip that goes to and fro."""
    painter = Painter(load(model).spec.class_names)
    for result in stream(frames(images), model, detector=detector, detector_model=file):
        painter.draw(result)
        yield [face.track for face in result.faces if face.raw_probabilities is not None]


def papers(images: list[np.ndarray]) -> Pipeline:
    """Haar on the full frame, a float ResNet-18 on each face, a box and a label."""
    import torch

    from benchmarks.speed import torch_models

    network = torch_models.create("resnet18").eval()
    data = pathlib.Path(cv2.__file__).parent / "data"
    cascade = cv2.CascadeClassifier(str(data / "haarcascade_frontalface_default.xml"))
    for frame in frames(images):
        gray = cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY)
        for x, y, w, h in cascade.detectMultiScale(gray, 1.1, 5, minSize=(30, 30)):
            face = cv2.resize(gray[y : y + h, x : x + w], (48, 48)).astype(np.float32) / 255
            with torch.inference_mode():
                p = torch.softmax(network(torch.from_numpy((face - 0.507) / 0.255)[None, None]), 1)[0].numpy()
            cv2.rectangle(frame.image, (x, y), (x + w, y + h), (0, 255, 0), 2)
            text, font = f"{p.argmax()} {p.max():.2f}", cv2.FONT_HERSHEY_SIMPLEX
            cv2.putText(frame.image, text, (x, y - 10), font, 0.7, (0, 255, 0), 2)
        yield None


def frames(images: list[np.ndarray]) -> Iterator[Frame]:
    """Yields a clip to and fro without end; each picture is a copy that may be drawn on."""
    for index, image in enumerate(itertools.cycle([*images, *images[-2:0:-1]])):
        yield Frame(image.copy(), index / FPS, index, 0)


def take_turns(
    pipelines: dict[str, tuple[Callable[[], Pipeline], int, int]], rounds: int
) -> dict[str, dict[str, float]]:
    """Returns wall, p95 and cpu in milliseconds per frame, one warm-up block left out.

    Args:
      pipelines: name -> how to start it, frames of a block, threads that OpenCV may use.
      rounds: blocks of each.
    """
    running = {name: make() for name, (make, _, _) in pipelines.items()}
    wall: dict[str, list[float]] = {name: [] for name in pipelines}
    cpu: dict[str, list[float]] = {name: [] for name in pipelines}
    for turn, order in enumerate(turns.orders(pipelines, rounds + 1)):
        for name in order:
            _, block, threads = pipelines[name]
            cv2.setNumThreads(threads)
            for _ in range(block):
                start, spent = time.perf_counter(), time.process_time()
                next(running[name])
                if turn:
                    wall[name].append((time.perf_counter() - start) * 1e3)
                    cpu[name].append((time.process_time() - spent) * 1e3)
    return {
        name: {
            "wall": float(np.mean(wall[name])),
            "p95": float(np.percentile(wall[name], 95)),
            "cpu": float(np.mean(cpu[name])),
            "frames": len(wall[name]),
        }
        for name in pipelines
    }


def attention(model: str, kind: str, detector: str, file: str | None) -> dict[str, float]:
    """Returns `found`, the share of faces in all frames that are followed, and `rate`, their answers a second."""
    people, length = (4 if kind == "four" else 1), 150
    images = live_process.clip(kind, length)
    faces = followed = turns = 0
    for result in stream(itertools.islice(frames(images), length), model, detector=detector, detector_model=file):
        faces += min(people, len(result.faces))
        followed += len(result.faces)
        turns += sum(face.raw_probabilities is not None for face in result.faces)
    return {"found": faces / (people * length), "rate": turns / (followed / FPS)}


def appearing(model: str, detector: str, file: str | None) -> dict[str, float]:
    """Returns `new` and `slowest`, median and longest of the seconds from a face's first frame to its first answer."""
    empty, waits = live_process.clip("none", 40), []
    for seed in range(20):
        images = empty[: 20 + seed] + live_process.clip("moving", 45, seed=seed)
        results = stream(itertools.islice(frames(images), len(images)), model, detector=detector, detector_model=file)
        shown = [r.frame.index for r in results if r.faces and r.frame.index >= 20 + seed]
        waits.append((shown[0] - 20 - seed + 1) / FPS if shown else float("inf"))
    return {"new": float(np.median(waits)), "slowest": max(waits)}


def _first(model: str, images: list[np.ndarray], options: list[str]) -> float:
    with tempfile.TemporaryDirectory(prefix="ferjax-live-") as folder:
        path = pathlib.Path(folder) / "clip.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (640, 480))
        for image in images[:60]:
            writer.write(image)
        writer.release()
        return live_process.first_result(model, path, *options)


if __name__ == "__main__":
    cli.run(main)

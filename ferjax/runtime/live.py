"""Classifies facial expressions live: `ferjax live --source 0`.

Nothing is stored unless asked for, and nothing leaves the machine. q, Ctrl-C or the end of the file ends it.
"""

import argparse
import math
import pathlib
import signal
import sys
import time
from collections.abc import Sequence

import cv2

from ferjax import cli
from ferjax.errors import InputError
from ferjax.runtime import shipped
from ferjax.runtime.faces.detector import DETECTORS
from ferjax.runtime.loop import RATE, stream
from ferjax.runtime.model import load
from ferjax.runtime.result import Result
from ferjax.runtime.show.drawing import Painter
from ferjax.runtime.show.recording import Log, Recorder, Snapshots, snapshot_name
from ferjax.runtime.show.window import Window
from ferjax.runtime.smoothing import METHODS, Limits
from ferjax.runtime.sources.files import expanded
from ferjax.runtime.sources.frame import Source
from ferjax.runtime.sources.opening import open_source

_KEYS = {"q": "quit", "s": "snapshot"}


def main(argv: Sequence[str]) -> None:
    """Runs the live loop as the command line says, and ends with one line about it."""
    options = _parser().parse_args(argv)
    if options.frames is not None and options.frames < 1:
        raise InputError(f"--frames must be at least 1, got {options.frames}")
    if empty := [name for name in ("log", "record", "snapshot") if getattr(options, name) == ""]:
        raise InputError(f"--{empty[0]} is empty: name what to write, or leave it out")
    model = load(options.model, threads=options.threads)
    cv2.setNumThreads(options.threads)
    window = None if options.no_display else Window()
    asked: dict[str, bool] = {}

    def pressed(key: str) -> None:
        if key in _KEYS:
            asked[_KEYS[key]] = True

    def waiting() -> None:
        if window is not None:
            pressed(window.key(0.001))
        if "quit" in asked:
            source.stop()

    source = open_source(options.source, size=_size(options.camera_size), on_wait=waiting)
    with source, _Signals(source, asked):
        results = stream(
            source,
            model,
            detector=options.detector,
            detector_model=options.detector_model,
            detect_scale=options.detect_scale,
            smooth=options.smooth,
            smoothing=options.smoothing,
            threshold=options.threshold,
            rate=options.rate,
        )
        outputs = _Outputs(options, source, model.spec.class_names)
        summary = _Summary()
        try:
            for result in results:
                result = outputs.draw(result) if window is not None or outputs.need_drawing else result
                if window is not None:
                    window.show(result.frame.image)
                    pressed(window.key(_pause(source, result, summary), until=lambda: source.stopped))
                picture = asked.pop("snapshot", False)  # before it is saved: another signal may come meanwhile
                outputs.write(result, picture=picture)
                summary.add(result)
                if "quit" in asked or summary.frames == options.frames:
                    break
        finally:
            outputs.close()
            if window is not None:
                window.close()
    cli.note(summary.line())


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("live", __doc__)
    add = parser.add_argument
    add("--model", help=f"a .tflite or .onnx file, or a shipped model: {shipped.choices()}")
    add("--source", default="0", help="camera index or device, video, picture, folder of pictures, or URL (default 0)")
    add("--detector", default="haar", choices=DETECTORS, help="face detector (default haar); none: faces already cut")
    add("--detector-model", type=pathlib.Path, help="the detector's file, where it is not fetched or built in")
    add("--detect-scale", type=float, help="size of the searched picture; 1 finds the smallest faces (docs/live.md)")
    add("--smooth", type=int, default=10, help="N, in frames of 1/30 s, of a person's average; 1: none (default 10)")
    add("--smoothing", default=METHODS[0], choices=METHODS, help=f"the kind of average (default {METHODS[0]})")
    add(
        "--threshold",
        type=float,
        help=f"confidence below which a face is 'uncertain' (default: the model's, or {Limits().confidence})",
    )
    add("--rate", type=float, default=RATE, help="classifications per face and second, at least (default 10)")
    add("--threads", type=int, default=1, help="of detector and classifier (default 1, which costs the least CPU)")
    add("--camera-size", help="WIDTHxHEIGHT to ask the camera for")
    add("--no-display", action="store_true", help="no window")
    add("--log", help="FILE.jsonl, FILE.csv or - (standard output): one object per face and frame")
    add("--record", help="FILE.mp4, .mkv or .avi: the drawn frames")
    add(
        "--snapshot",
        metavar="FOLDER",
        help="a picture on s or SIGUSR1, of the last frame, and of each still; one of that name is replaced",
    )
    add("--frames", type=int, help="stop after so many frames")
    return parser


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise InputError(f"--camera-size must be WIDTHxHEIGHT such as 640x480, got {text!r}")
    return int(width), int(height)


def _pause(source: Source, result: Result, summary: "_Summary") -> float:
    """Seconds to look for a key: a still waits for one, a video plays at its own speed, a camera sets the pace."""
    if source.stills:
        return math.inf
    return 0.001 if source.live else max(0.001, result.time - summary.elapsed())


class _Outputs:
    """What the user asked to keep, behind one write."""

    def __init__(self, options: argparse.Namespace, source: Source, class_names: Sequence[str]):
        _spare(options, stills=source.stills)
        self._recorder = Recorder(options.record, source.fps) if options.record else None
        self._snapshots = Snapshots(options.snapshot) if options.snapshot else None
        self._log = Log(options.log, class_names) if options.log else None  # last: it replaces an older one
        self._painter, self._stills = Painter(class_names), source.stills
        self._last: Result | None = None
        self.need_drawing = bool(options.record or options.snapshot)

    def draw(self, result: Result) -> Result:
        start = time.perf_counter()
        self._painter.draw(result)
        return result._replace(latency=result.latency._replace(draw=(time.perf_counter() - start) * 1e3))

    def write(self, result: Result, *, picture: bool) -> None:
        if self._log:
            self._log.write(result)
        if self._recorder:
            self._recorder.write(result)
        if self._snapshots:
            if picture or self._stills:
                self._snapshots.write(result)
            self._last = None if picture or self._stills else result

    def close(self) -> None:
        if self._snapshots and self._last:
            self._snapshots.write(self._last)
        if self._recorder:
            self._recorder.close()
        if self._log:
            self._log.close()


def _spare(options: argparse.Namespace, *, stills: bool) -> None:
    """Refuses outputs that would replace what is shown; snapshots have the names of the pictures of a folder."""
    shown = expanded(options.source)
    if not shown.exists():  # a camera or an address
        return
    targets = {name: expanded(getattr(options, name)) for name in ("log", "record") if getattr(options, name)}
    if options.snapshot and stills:
        folder = expanded(options.snapshot)
        targets["snapshot"] = folder if shown.is_dir() else folder / snapshot_name(shown.name)
    for name, target in targets.items():
        if target.exists() and target.samefile(shown):
            raise InputError(f"--{name} {target} is where the source is, and would replace it: take another place")


class _Signals:
    """Ctrl-C, SIGTERM and a closed terminal end the loop after its frame; SIGUSR1 asks for a picture."""

    def __init__(self, source: Source, asked: dict[str, bool]):
        self._handlers = {signal.SIGINT: lambda *_: source.stop(), signal.SIGTERM: lambda *_: source.stop()}
        if sys.platform != "win32":
            if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
                self._handlers[signal.SIGHUP] = lambda *_: source.stop()
            self._handlers[signal.SIGUSR1] = lambda *_: asked.update(snapshot=True)

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, handler) for number, handler in self._handlers.items()}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class _Summary:
    """What the run was: frames, rate, people, load."""

    def __init__(self) -> None:
        self.frames, self._dropped, self._people = 0, 0, set[int]()
        self._start, self._cpu = time.monotonic(), time.process_time()

    def elapsed(self) -> float:
        return time.monotonic() - self._start

    def add(self, result: Result) -> None:
        self.frames += 1
        self._dropped = result.frame.dropped
        self._people.update(face.track for face in result.faces)

    def line(self) -> str:
        seconds = max(self.elapsed(), 1e-9)
        cpu = 100 * (time.process_time() - self._cpu) / seconds
        dropped = f" ({self._dropped} dropped)" if self._dropped else ""
        return (
            f"{self.frames} frames{dropped}, {self.frames / seconds:.1f} fps, {len(self._people)} faces, "
            f"CPU {cpu:.0f} % of one core, memory {_memory()}"
        )


def _memory() -> str:
    """Returns the memory that the process holds now."""
    statm = pathlib.Path("/proc/self/statm")
    if statm.exists():
        import resource

        return f"{int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6:.0f} MB"
    return "not known on this system"

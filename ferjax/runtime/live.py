"""Classifies facial expressions in live video: `ferjax live --source 0`.

Images stay on this machine unless --serve names an address of the network; nothing is stored without --log, --record
or --snapshot. q or Ctrl-C ends it.
"""

import argparse
import contextlib
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import cv2

from ferjax import cli
from ferjax.errors import InputError
from ferjax.folders import expand_user
from ferjax.runtime import signals
from ferjax.runtime.loop import stream
from ferjax.runtime.model import load
from ferjax.runtime.options import add_model, add_stream, of_stream
from ferjax.runtime.result import Result
from ferjax.runtime.show.drawing import Painter
from ferjax.runtime.show.log import Log
from ferjax.runtime.show.recorder import Recorder
from ferjax.runtime.show.snapshots import Snapshots, snapshot_name
from ferjax.runtime.show.window import Window
from ferjax.runtime.sources.factory import open_source
from ferjax.runtime.sources.frame import CUT_SECONDS, POLL_SECONDS, Source

if TYPE_CHECKING:
    from ferjax.runtime.serve.server import View

_SERVED_SECONDS = 3.0  # time for which each image of a folder is shown to browsers
_KEYS = {"q": "quit", "s": "snapshot"}


def main(argv: Sequence[str]) -> None:
    """Runs `ferjax live` and prints a summary line at the end."""
    options = _options(argv)
    model = load(options.model, threads=options.threads, provider=options.provider)
    cv2.setNumThreads(options.threads)
    window = None if options.no_display or options.serve is not None else Window()
    requests: dict[str, bool] = {}

    def on_key(key: str) -> None:
        if key in _KEYS:
            requests[_KEYS[key]] = True

    def on_wait() -> None:
        if window is not None:
            on_key(window.key(0.001))
        if "quit" in requests:
            source.stop()

    source = open_source(options.source, size=_size(options.camera_size), on_wait=on_wait)
    class_names = model.spec.class_names
    handlers = signals.handled(source.stop, SIGUSR1=lambda: requests.update(snapshot=True))
    with source, handlers, _view(options, source, class_names) as view:
        results = stream(source, model, **of_stream(options))
        outputs = _Outputs(options, source, class_names, view)
        summary, pace = _Summary(), _Pace(source, still=math.inf if view is None else _SERVED_SECONDS)
        try:
            for result in results:
                result = outputs.draw(result)
                if window is not None:
                    window.show(result.frame.image)
                    on_key(window.key(pace.wait(result.time), until=lambda: source.stopped))
                snapshot = requests.pop("snapshot", False)  # before saving, during which a signal may request another
                outputs.write(result, snapshot=snapshot)
                summary.add(result)
                if "quit" in requests or summary.frames == options.frames:
                    break
                if view is not None:
                    _wait(pace.wait(result.time), until=lambda: source.stopped)
            else:
                if view is not None and source.stills and not source.stopped:
                    cli.note("still showing the last image: Ctrl-C ends")
                    _wait(math.inf, until=lambda: source.stopped)
        finally:
            outputs.close()
            if window is not None:
                window.close()
    cli.note(summary.line())


def _options(argv: Sequence[str]) -> argparse.Namespace:
    options = _parser().parse_args(argv)
    if options.frames is not None and options.frames < 1:
        raise InputError(f"--frames must be at least 1, got {options.frames}")
    if empty := [name for name in ("log", "record", "snapshot") if getattr(options, name) == ""]:
        raise InputError(f"--{empty[0]} is empty: give a path, or omit the option")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("live", __doc__)
    add = parser.add_argument
    add_model(parser)
    add("--source", default="0", help="camera index or device, video, image, folder of images, or URL (default: 0)")
    add_stream(parser)
    add("--camera-size", metavar="WIDTHxHEIGHT", help="requested size of the camera's frames")
    add("--no-display", action="store_true", help="no window")
    add("--log", metavar="FILE", help=".jsonl or .csv file, or - for standard output: one entry per face and frame")
    add("--record", metavar="FILE", help=".mp4, .mkv or .avi file: the drawn frames")
    add(
        "--snapshot",
        metavar="FOLDER",
        help="folder of PNG images: on key s or SIGUSR1, the last frame, each image of a folder",
    )
    add(
        "--serve",
        metavar="[HOST:]PORT",
        help="a page for browsers instead of the window; on this machine only, unless HOST is given (docs/live.md)",
    )
    add("--frames", type=int, help="number of frames after which to stop")
    return parser


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise InputError(f"--camera-size must be WIDTHxHEIGHT, such as 640x480, got {text!r}")
    return int(width), int(height)


def _view(
    options: argparse.Namespace, source: Source, class_names: Sequence[str]
) -> contextlib.AbstractContextManager["View | None"]:
    if options.serve is None:
        return contextlib.nullcontext()
    from ferjax.runtime.serve.server import View  # imports asyncio, which takes time on a small computer

    return View(options.serve, class_names, stills=source.stills)


def _wait(seconds: float, until: Callable[[], bool]) -> None:
    """Waits; signal handlers run meanwhile, and True of `until` ends the wait."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not until():
        time.sleep(min(left, POLL_SECONDS))


class _Pace:
    """Computes how long a frame is shown: a video plays in real time, without the time that a cut skips."""

    def __init__(self, source: Source, *, still: float):
        """Takes the source and the seconds for which an image is shown."""
        self._source, self._still, self._longest = source, still, max(CUT_SECONDS, 2.5 / source.fps)
        self._last = self._due = math.nan

    def wait(self, shown: float) -> float:
        """Returns the seconds to wait after the frame of time `shown`; none for a camera."""
        if self._source.stills:
            return self._still
        if self._source.live:
            return 0.0
        step, now, self._last = shown - self._last, time.monotonic(), shown
        if math.isnan(step):  # the first frame
            self._due = now
        else:
            self._due += step if step <= self._longest else 1 / self._source.fps
        return max(0.0, self._due - now)


class _Outputs:
    """The requested outputs: page, log, recording, snapshots."""

    def __init__(self, options: argparse.Namespace, source: Source, class_names: Sequence[str], view: "View | None"):
        _check_targets(options, stills=source.stills)
        self._recorder = Recorder(options.record, source.fps) if options.record else None
        self._snapshots = Snapshots(options.snapshot) if options.snapshot else None
        self._log = Log(options.log, class_names) if options.log else None  # last, because it replaces the file
        self._view = view
        drawn = options.record or options.snapshot or view is not None or not options.no_display
        self._painter, self._stills = Painter(class_names) if drawn else None, source.stills
        self._last: Result | None = None
        if view:
            view.start()

    def draw(self, result: Result) -> Result:
        """Draws on the frame if an output shows it."""
        if self._painter is None:
            return result
        start = time.perf_counter()
        self._painter.draw(result)
        return result._replace(latency=result.latency._replace(draw=(time.perf_counter() - start) * 1e3))

    def write(self, result: Result, *, snapshot: bool) -> None:
        if self._view:
            self._view.publish(result)
        if self._log:
            self._log.write(result)
        if self._recorder:
            self._recorder.write(result)
        if self._snapshots:
            if snapshot or self._stills:
                self._snapshots.write(result)
            self._last = None if snapshot or self._stills else result

    def close(self) -> None:
        if self._snapshots and self._last:
            self._snapshots.write(self._last)
        if self._recorder:
            self._recorder.close()
        if self._log:
            self._log.close()


def _check_targets(options: argparse.Namespace, *, stills: bool) -> None:
    """Raises InputError if an output would replace the source; snapshots of images have the names of the images."""
    source = expand_user(options.source)
    if not source.exists():  # a camera or URL
        return
    targets = {name: expand_user(getattr(options, name)) for name in ("log", "record") if getattr(options, name)}
    if options.snapshot and stills:
        folder = expand_user(options.snapshot)
        targets["snapshot"] = folder if source.is_dir() else folder / snapshot_name(source.name)
    for name, target in targets.items():
        if target.exists() and target.samefile(source):
            raise InputError(f"--{name} {target} would replace the source: choose another path")


class _Summary:
    """Counts frames, faces, frame rate and load of a run."""

    def __init__(self) -> None:
        self.frames, self._dropped, self._tracks = 0, 0, set[int]()
        self._start, self._cpu = time.monotonic(), time.process_time()

    def elapsed(self) -> float:
        return time.monotonic() - self._start

    def add(self, result: Result) -> None:
        self.frames += 1
        self._dropped = result.frame.dropped
        self._tracks.update(face.track for face in result.faces)

    def line(self) -> str:
        seconds = max(self.elapsed(), 1e-9)
        cpu = 100 * (time.process_time() - self._cpu) / seconds
        dropped = f" ({self._dropped} dropped)" if self._dropped else ""
        return (
            f"{cli.counted(self.frames, 'frame')}{dropped}, {self.frames / seconds:.1f} fps, "
            f"{cli.counted(len(self._tracks), 'face')}, "
            f"CPU {cpu:.0f} % of one core, memory {_memory()}"
        )


def _memory() -> str:
    """Returns the resident memory of the process, such as "85 MB"."""
    statm = pathlib.Path("/proc/self/statm")
    if statm.exists():
        import resource

        return f"{int(statm.read_text(encoding='utf-8').split()[1]) * resource.getpagesize() / 1e6:.0f} MB"
    return "unknown"

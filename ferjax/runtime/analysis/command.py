"""Analyzes photos, folders of photos and films: `ferjax analyze PATH… --out DIR`.

The folder gets annotated copies, tables of all faces, for each film a timeline, and index.html, a page with all of it.
Ctrl-C keeps what is done, unless it would replace an earlier analysis.
"""

import argparse
import concurrent.futures
import contextlib
import itertools
import os
import pathlib
import shlex
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import cv2

from ferjax import cli, folders
from ferjax.errors import InputError
from ferjax.runtime import signals
from ferjax.runtime.ahead import ahead
from ferjax.runtime.analysis import output
from ferjax.runtime.analysis.film import open_film
from ferjax.runtime.analysis.photo import analyze_pixels
from ferjax.runtime.analysis.timeline import Timeline
from ferjax.runtime.faces.detector import create_detector
from ferjax.runtime.loop import stream
from ferjax.runtime.model import Model, load
from ferjax.runtime.options import add_model, add_stream, of_stream
from ferjax.runtime.result import Result
from ferjax.runtime.show.drawing import Painter
from ferjax.runtime.show.recorder import Recorder
from ferjax.runtime.sources import pictures
from ferjax.runtime.sources.factory import existing
from ferjax.runtime.sources.frame import Source

_ACCEPTED = "photos, folders of photos, or films"
_MOST_PEOPLE = 30  # of a film, with a lane of their own
T = TypeVar("T")


def main(argv: Sequence[str]) -> None:
    """Runs `ferjax analyze`."""
    options = _parser().parse_args(argv)
    folders.check_out(options.out)
    photos, films = _inputs(options.path, options.out)
    model = load(options.model, threads=options.threads, provider=options.provider)
    cv2.setNumThreads(options.threads)
    named = of_stream(options)
    scale, file = named.pop("detect_scale"), named.pop("detector_model")
    named["detector"] = create_detector(options.detector, scale=scale, model=file)
    stream([], model, **named)  # checks the options
    stop, remark = threading.Event(), ""
    earlier = options.out.is_dir() and any(options.out.iterdir())
    with (
        signals.handled(stop.set),
        folders.result_folder(
            options.out, output.RECORDS, overwrite=options.overwrite, what="an analysis", foreign=output.foreign
        ) as folder,
        output.Output(folder, model.spec) as out,
    ):
        _photos(photos, out, model, named, stop)
        _films(films, out, model, named, stop)
        if stop.is_set():
            if earlier:
                cli.note(f"{options.out} keeps the earlier analysis")
            if earlier or not out.count():
                raise KeyboardInterrupt
            parts = [f"{out.photos} of {cli.counted(len(photos), 'photo')}"] * bool(photos)
            parts += [f"{out.complete} of {cli.counted(len(films), 'film')}"] * bool(films)
            remark = f"Interrupted: {', '.join(parts)}."
        if not out.count():
            raise InputError(f"nothing can be analyzed: {cli.counted(len(photos) + len(films), 'file')} skipped")
        out.close(f"ferjax analyze {shlex.join(argv)}", remark)
    page = options.out / output.PAGE
    if remark:
        cli.note(f"{remark} {page} has what was done")
        sys.exit(130)
    print(f"saved {options.out}: {out.count()}; open {page} in a browser")


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("analyze", __doc__)
    parser.add_argument("path", metavar="PATH", nargs="+", help="photo, folder of photos, or film")
    cli.add_out(parser, "folder for copies, tables, timelines and index.html")
    cli.add_overwrite(parser)
    add_model(parser)
    add_stream(parser)
    return parser


def _inputs(paths: Sequence[str], out: pathlib.Path) -> tuple[dict[str, pathlib.Path], dict[str, pathlib.Path]]:
    """Returns the photos and the films by their names.

    Raises:
      InputError: if a path is empty or a URL, does not exist, or lies in `out`; if a folder has no image
        outside `out`.
    """
    folder_of, films, out = dict[pathlib.Path, pathlib.Path](), set[pathlib.Path](), out.resolve()
    for path in paths:
        given = pathlib.Path(os.path.abspath(existing(path, _ACCEPTED)))
        if not (given.is_file() or given.is_dir()):
            raise InputError(f"{path} is not a file: give {_ACCEPTED}")
        if given.resolve().is_relative_to(out):
            raise InputError(f"{path} lies in --out {out}: choose another --out")
        if given.is_dir():
            listed = pictures.listed(given, given.rglob("*"), hint="; give films by name")
            photos = [photo for photo in listed if not photo.resolve().is_relative_to(out)]  # an earlier analysis
            if not photos:
                raise InputError(f"folder {path} has no image outside --out {out}")
            for photo in photos:
                folder_of.setdefault(photo, given)
        else:
            folder_of.setdefault(given, given.parent)
            if not pictures.is_still(given):
                films.add(given)
    named = _named(folder_of)
    return (
        {name: path for name, path in named.items() if path not in films},
        {name: path for name, path in named.items() if path in films},
    )


def _named(folder_of: Mapping[pathlib.Path, pathlib.Path]) -> dict[str, pathlib.Path]:
    """Returns paths by unique names: relative to their folder, or with as many more parents as make them unique."""
    named = dict[str, pathlib.Path]()
    for path, folder in folder_of.items():
        parts = len(path.parts) - len(folder.parts)
        while (name := "/".join(path.parts[-parts:])) in named:
            parts += 1
        named[name] = path
    return named


def _photos(
    photos: Mapping[str, pathlib.Path], out: output.Output, model: Model, named: dict[str, Any], stop: threading.Event
) -> None:
    for file, path in cli.progress(_until(stop, photos.items()), what="photos", total=len(photos)):
        try:
            pixels = pictures.read_bgr(path)
        except pictures.UnreadableImage as error:
            cli.note(f"{path} cannot be read as an image ({error}): skipped")
            continue
        out.add_photo(file, analyze_pixels(pixels, model, named["detector"], named["threshold"]))


def _films(
    films: Mapping[str, pathlib.Path], out: output.Output, model: Model, named: dict[str, Any], stop: threading.Event
) -> None:
    for file, path in _until(stop, films.items()):
        try:
            source = open_film(path)
        except InputError as error:
            cli.note(f"{error}: skipped")
            continue
        with source:
            _film(file, source, out, model, named, stop)


def _film(
    file: str, source: Source, out: output.Output, model: Model, named: dict[str, Any], stop: threading.Event
) -> None:
    """Analyzes a film up to its end or to `stop`."""
    names = model.spec.class_names
    timeline, painter = Timeline(names, source.fps, _MOST_PEOPLE), Painter(names)
    results = _until(stop, stream(source, model, **named, pipe=ahead))

    def drawn() -> Iterator[Result]:
        for result in cli.progress(results, what=file, total=source.count):
            timeline.add(result)
            out.write_faces(file, result)
            painter.draw_faces(result)
            yield result

    with contextlib.closing(_Copy(file, out.annotated_film(file), source.fps)) as copy:
        _meanwhile(copy.write, drawn())
    timeline.close()
    if timeline.frames:
        out.add_film(file, timeline, complete=not stop.is_set())


def _until(stop: threading.Event, items: Iterable[T]) -> Iterable[T]:
    return itertools.takewhile(lambda _: not stop.is_set(), items)


def _meanwhile(function: Callable[[T], object], items: Iterable[T]) -> None:
    """Calls a function with each item in another thread, while the next item is computed.

    Only the function runs in that thread, also for the sake of memory: with other work beside FFmpeg's encoder in one
    thread, the process grew with the film.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        running: concurrent.futures.Future[object] | None = None
        for item in items:
            if running:
                running.result()
            running = thread.submit(function, item)
        if running:
            running.result()


class _Copy:
    """The annotated copy of a film, which is left out with a message if it cannot be written."""

    def __init__(self, file: str, path: pathlib.Path, fps: float):
        self._file, self._new = file, lambda: Recorder(str(path), fps, name=file)
        self._recorder: Recorder | None = None
        self._failed = False

    def write(self, result: Result) -> None:
        if self._failed:
            return
        try:
            self._recorder = self._recorder or self._new()
            self._recorder.write(result)
        except InputError as error:
            self._failed = True
            cli.note(f"no annotated copy of {self._file}: {error}")

    def close(self) -> None:
        if self._recorder:
            self._recorder.close()

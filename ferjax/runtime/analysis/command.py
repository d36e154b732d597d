"""Analyzes photos, folders of photos and films: `ferjax analyze PATH… --out DIR`.

The folder gets annotated copies, tables of all faces, for each film a timeline, and index.html, a page with all of it.
Ctrl-C keeps what is done.
"""

import argparse
import concurrent.futures
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import cv2

from ferjax import cli, folders
from ferjax.errors import InputError
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

_MOST_PEOPLE = 30  # of a film, with a lane of their own


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
    interrupted = False
    with (
        folders.result_folder(
            options.out, output.PAGE, overwrite=options.overwrite, what="an analysis", foreign=output.foreign
        ) as folder,
        output.Output(folder, model.spec) as out,
    ):
        try:
            _photos(photos, out, model, named)
            for path, file in films.items():
                _film(file, path, out, model, named)
        except KeyboardInterrupt:
            if not out.count():
                raise
            interrupted = True
        if not out.count():
            raise InputError(f"no photo can be read: {len(photos)} skipped")
        out.close(f"ferjax analyze {shlex.join(argv)}")
    if interrupted:
        cli.note(f"interrupted; {options.out / output.PAGE} has what was done: {out.count()}")
        sys.exit(130)
    print(f"saved {options.out}: {out.count()}; open {options.out / output.PAGE} in a browser")


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("analyze", __doc__)
    parser.add_argument("path", metavar="PATH", nargs="+", type=pathlib.Path, help="photo, folder of photos, or film")
    cli.add_out(parser, "folder for copies, tables, timelines and index.html")
    cli.add_overwrite(parser)
    add_model(parser)
    add_stream(parser)
    return parser


def _inputs(
    paths: Sequence[pathlib.Path], out: pathlib.Path
) -> tuple[dict[pathlib.Path, str], dict[pathlib.Path, str]]:
    """Returns the photos and the films with their names.

    Raises:
      InputError: if a path does not exist, is neither photo nor film, or lies in `out`; if a folder has no image.
    """
    photos, films, out = dict[pathlib.Path, str](), dict[pathlib.Path, str](), out.resolve()
    for path in paths:
        given = pathlib.Path(os.path.abspath(folders.expand_user(path)))
        if not (given.is_file() or given.is_dir()):
            reason = "is not a file" if given.exists() else "does not exist"
            raise InputError(f"{path} {reason}: give photos, folders of photos, or films")
        if given.resolve().is_relative_to(out):
            raise InputError(f"{path} lies in --out {out}: choose another --out")
        if given.is_dir():
            listed = pictures.listed(given, given.rglob("*"))
            found = [photo for photo in listed if not photo.resolve().is_relative_to(out)]  # an earlier analysis
            _name(found, given, photos)
        elif pictures.is_still(given):
            _name([given], given.parent, photos)
        else:
            open_film(given).close()
            _name([given], given.parent, films)
    return photos, films


def _name(found: Sequence[pathlib.Path], folder: pathlib.Path, named: dict[pathlib.Path, str]) -> None:
    """Adds paths with their names: relative to a folder, and with as many parents as tell them from the others."""
    taken = set(named.values())
    for path in found:
        if path in named:  # given twice
            continue
        parts = len(path.parts) - len(folder.parts)
        while (name := "/".join(path.parts[-parts:])) in taken:
            parts += 1
        named[path] = name


def _photos(photos: dict[pathlib.Path, str], out: output.Output, model: Model, named: dict[str, Any]) -> None:
    for path, file in cli.progress(photos.items(), what="photos", total=len(photos)):
        try:
            pixels = pictures.read_bgr(path)
        except pictures.UnreadableImage as error:
            cli.note(f"{path} cannot be read as an image ({error}): skipped")
            continue
        out.add_photo(file, analyze_pixels(pixels, model, named["detector"], named["threshold"]))


def _film(file: str, path: pathlib.Path, out: output.Output, model: Model, named: dict[str, Any]) -> None:
    """Analyzes a film; if it is interrupted, what is done so far is written."""
    names = model.spec.class_names
    with open_film(path) as source, concurrent.futures.ThreadPoolExecutor(1) as writer:
        timeline, painter = Timeline(names, source.fps, _MOST_PEOPLE), Painter(names)
        recorder = Recorder(str(out.annotated_film(file)), source.fps)

        def write(result: Result) -> None:
            out.write_faces(file, result)
            painter.draw_faces(result)
            recorder.write(result)

        complete, written = False, writer.submit(lambda: None)
        try:
            for result in stream(cli.progress(source, what=file, total=source.count), model, **named):
                timeline.add(result)
                written.result()
                written = writer.submit(write, result)  # while the next frame is analyzed
            complete = True
        finally:
            written.result()
            recorder.close()
            timeline.close()
            if timeline.frames:
                out.add_film(file, timeline, complete=complete)

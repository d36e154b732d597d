"""Options of the commands that find and classify faces: `ferjax live` and `ferjax analyze`."""

import argparse
import pathlib
from typing import Any

from ferjax import cli
from ferjax.runtime import shipped
from ferjax.runtime.faces.detector import DETECTORS
from ferjax.runtime.loop import RATE
from ferjax.runtime.smoothing import METHODS, Limits

_OF_STREAM = ("detector", "detector_model", "detect_scale", "smooth", "smoothing", "threshold", "rate")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds --model: an exported file or a model of the package."""
    parser.add_argument("--model", help=shipped.accepted())


def add_stream(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `stream`, --threads and --provider."""
    add = parser.add_argument
    add("--detector", default="haar", choices=DETECTORS, help="face detector; none: cropped faces (default: haar)")
    add("--detector-model", type=pathlib.Path, help="file of the detector (default: built in or downloaded)")
    add("--detect-scale", type=float, help="scale of the searched image; 1 finds the smallest faces (docs/live.md)")
    add("--smooth", type=int, default=10, help="smoothing window in frames of 1/30 s; 1: no smoothing (default: 10)")
    add("--smoothing", default=METHODS[0], choices=METHODS, help=f"smoothing method (default: {METHODS[0]})")
    add(
        "--threshold",
        type=float,
        help=f"confidence below which a face is 'uncertain' (default: the model's, or {Limits().confidence})",
    )
    add("--rate", type=float, default=RATE, help="minimum classifications per face and second (default: 10)")
    add("--threads", type=int, default=1, help="threads of detector and classifier (default: 1, the least CPU time)")
    cli.add_provider(parser)


def of_stream(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the parsed options as keyword arguments of `stream`."""
    return {name: getattr(options, name) for name in _OF_STREAM}

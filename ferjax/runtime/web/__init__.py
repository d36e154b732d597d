"""Writes and serves the browser page: `ferjax web`, `ferjax export --format web`.

This module needs no OpenCV, as `ferjax export` has none.
"""

import argparse
import pathlib

DETECTORS = ("yunet", "none")


def add_detector(parser: argparse.ArgumentParser) -> None:
    """Adds --detector and --detector-model, of a page."""
    parser.add_argument(
        "--detector",
        choices=DETECTORS,
        default=DETECTORS[0],
        help=f"detector of a page; none: the center of the image is the face (default: {DETECTORS[0]})",
    )
    parser.add_argument(
        "--detector-model", type=pathlib.Path, metavar="FILE", help="YuNet of a page (default: the downloaded one)"
    )

"""Implements the commands `ferjax prepare`, `leaks`, `show` and `clip`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ferjax import cli
from ferjax.data import loading, manifest
from ferjax.data.datasets import folder
from ferjax.data.prepare import contact_sheets, pipeline
from ferjax.data.prepare import leaks as leak_check
from ferjax.data.store import default_data_dir
from ferjax.data.synthetic import clips


def prepare(argv: Sequence[str]) -> None:
    """Runs `ferjax prepare`: decodes a copy of a data set into arrays."""
    parser = cli.parser("prepare", "Decodes a copy of a data set into arrays and a manifest.")
    _prepare_parser(parser)
    given = vars(parser.parse_args(argv))
    _prepare(given.pop("name"), given.pop("data_dir"), given)


def leaks(argv: Sequence[str]) -> None:
    """Runs `ferjax leaks`: finds exact and near duplicates."""
    given = _parse_set("leaks", "Finds exact and near duplicates within and across splits.", argv)
    print(leak_check.write_report(given.name, given.out, given.data_dir))


def show(argv: Sequence[str]) -> None:
    """Runs `ferjax show`: draws contact sheets and the class distribution."""
    given = _parse_set("show", "Draws a contact sheet of each class and the class distribution.", argv)
    print(contact_sheets.write_sheets(given.name, given.out, given.data_dir))


def clip(argv: Sequence[str]) -> None:
    """Runs `ferjax clip`: renders a video clip."""
    parser = cli.parser("clip", "Renders a video clip of moving faces, a test input for ferjax live.")
    parser.add_argument("kind", choices=clips.KINDS)
    cli.add_out(parser, "the .mp4 file")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the clip (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of people and movements (default: 0)")
    given = parser.parse_args(argv)
    count = clips.write_clip(given.kind, given.out, seed=given.seed, seconds=given.seconds)
    print(f"rendered {given.out}: {cli.counted(count, 'frame')}")


def _parse_set(command: str, description: str, argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(command, description)
    parser.add_argument("name", metavar="NAME", help="prepared data set, or synthetic_faces")
    cli.add_out(parser, "output folder")
    cli.add_data_dir(parser)
    return parser.parse_args(argv)


def _prepare_parser(parser: argparse.ArgumentParser) -> None:
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name in (*pipeline.DATASETS, "folder", "csv"):
        data_set = names.add_parser(name, argument_default=argparse.SUPPRESS)
        data_set.add_argument("--source", type=Path, required=True, help="folder, zip or tar archive, or table")
        data_set.add_argument(
            "--name-encoding",
            metavar="ENCODING",
            help="encoding of names in archives, class folders and tables that are not UTF-8 (default: detected)",
        )
        data_set.add_argument("--skip-bad", action="store_true", help="leave out images that cannot be decoded")
        data_set.add_argument(
            "--drop-leaks", action="store_true", help="remove training images with a near duplicate in another split"
        )
        data_set.add_argument("--holdout", type=float, help="fraction of training to use as validation, such as 0.1")
        data_set.add_argument(
            "--array-record", action="store_true", help="store images as PNG in array_record files of TFDS"
        )
        if name not in ("fer2013", "ferplus"):
            data_set.add_argument("--size", type=int, help="height and width in pixels")
            data_set.add_argument("--channels", type=int, choices=(1, 3), help="1 for gray, 3 for RGB")
        if name == "affectnet":
            data_set.add_argument("--classes", type=int, choices=(7, 8), help="8, or 7 without contempt (default: 8)")
        if name in ("folder", "csv"):
            data_set.add_argument("--name", dest="store_as", required=True, help="name of the new data set")
            data_set.add_argument("--fractions", type=_fractions, help="train,validation,test (default: 0.8,0.1,0.1)")
            data_set.add_argument(
                "--class-names",
                type=lambda text: tuple(name.strip() for name in text.split(",")),
                metavar="NAME,…",
                help="names of classes that are numbers, in the order of the numbers",
            )
            data_set.add_argument("--detect", dest="find_faces", action="store_true", help="crop the largest face")
        _data_dir(data_set)
    embedded = names.add_parser("synthetic_faces", argument_default=argparse.SUPPRESS)
    for option, value in loading.SYNTHETIC.items():
        embedded.add_argument(f"--{option}", type=int, help=f"(default: {value})")
    _data_dir(embedded)


def _data_dir(parser: argparse.ArgumentParser) -> None:
    cli.add_data_dir(parser)
    parser.set_defaults(data_dir=None)  # argument_default suppresses the others


def _fractions(text: str) -> tuple[float, float, float]:
    try:
        return folder.check_fractions([float(v) for v in text.split(",")])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _prepare(name: str, data_dir: Path | None, given: dict[str, Any]) -> None:
    if name == "synthetic_faces":
        facts = loading.load(name, data_dir, splits=(), **given).manifest
    elif name in pipeline.DATASETS:
        facts = pipeline.prepare(name, given.pop("source"), data_dir, **given)
    else:
        source, stored = given.pop("source"), given.pop("store_as")
        keep = {k: given.pop(k) for k in ("skip_bad", "drop_leaks", "holdout", "array_record") if k in given}
        parsed = (folder.read if name == "folder" else folder.read_table)(source, **given)
        facts = pipeline.write(stored, parsed, data_dir, **keep)
    print(manifest.table(facts))
    found = facts["exact_duplicates"]
    print(
        f"exact duplicates: {cli.counted(found['groups'], 'group')}, {found['across_splits']:,} across splits, "
        f"{found['conflicting_labels']:,} with conflicting labels"
    )
    print(f"prepared {facts['name']} in {data_dir or default_data_dir()}")

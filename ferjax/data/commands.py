"""Prepare, check and look at a data set, or render a film: `python -m ferjax.data prepare | leaks | show | clip`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ferjax import cli
from ferjax.data import loading, manifest
from ferjax.data.datasets import folder
from ferjax.data.prepare import contact_sheets, leaks, pipeline
from ferjax.data.store import default_data_dir
from ferjax.data.synthetic import films


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m ferjax.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _prepare_parser(commands.add_parser("prepare", help="decode a user's copy into arrays"))
    for name, text in (("leaks", "find images that are there twice"), ("show", "draw contact sheets and counts")):
        command = commands.add_parser(name, help=text)
        command.add_argument("name", help="a prepared data set, or synthetic_faces")
        command.add_argument("--out", type=Path, required=True, help="folder for what is written")
        _data_dir(command)
    film = commands.add_parser("clip", help="render a film of faces that move, to try the live loop on")
    film.add_argument("kind", choices=films.KINDS)
    film.add_argument("--out", type=Path, required=True, help="the .mp4 file")
    film.add_argument("--seconds", type=float, default=10.0)
    film.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args(argv))
    if given["command"] == "clip":
        count = films.write_clip(given["kind"], given["out"], seed=given["seed"], seconds=given["seconds"])
        print(f"rendered {given['out']}: {count} frames")
        return
    command, name, data_dir = given.pop("command"), given.pop("name"), given.pop("data_dir")
    if command == "prepare":
        _prepare(name, data_dir, given)
    elif command == "leaks":
        print(leaks.write_report(name, given["out"], data_dir))
    else:
        print(contact_sheets.write_sheets(name, given["out"], data_dir))


def _data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", type=Path, help="where prepared data lie (default: $FERJAX_DATA or the cache)")


def _prepare_parser(parser: argparse.ArgumentParser) -> None:
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name in (*pipeline.DATASETS, "folder", "csv"):
        data_set = names.add_parser(name, argument_default=argparse.SUPPRESS)
        data_set.add_argument("--source", type=Path, required=True, help="zip archive, folder or CSV file")
        data_set.add_argument("--skip-bad", action="store_true", help="leave out images that do not decode")
        data_set.add_argument("--drop-leaks", action="store_true", help="remove training images with a twin elsewhere")
        data_set.add_argument("--holdout", type=float, help="part of training to take as validation, such as 0.1")
        data_set.add_argument("--array-record", action="store_true", help="store PNG in array_record files, as TFDS")
        if name not in ("fer2013", "ferplus"):
            data_set.add_argument("--size", type=int, help="height and width in pixels")
            data_set.add_argument("--channels", type=int, choices=(1, 3), help="1 grey, 3 colour")
        if name == "affectnet":
            data_set.add_argument("--classes", type=int, choices=(7, 8), help="7 leaves contempt out")
        if name in ("folder", "csv"):
            data_set.add_argument("--name", dest="store_as", required=True, help="name of the new data set")
            data_set.add_argument("--fractions", type=_fractions, help="train,validation,test (default 0.8,0.1,0.1)")
            data_set.add_argument("--detect", dest="find_faces", action="store_true", help="cut out the largest face")
        data_set.add_argument("--data-dir", type=Path, default=None, help="where prepared data lie")
    embedded = names.add_parser("synthetic_faces", argument_default=argparse.SUPPRESS)
    for option, value in loading.SYNTHETIC.items():
        embedded.add_argument(f"--{option}", type=int, help=f"default {value}")
    embedded.add_argument("--data-dir", type=Path, default=None, help="where prepared data lie")


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
    twins = facts["exact_duplicates"]
    print(
        f"exact duplicates: {twins['groups']:,} groups, {twins['across_splits']:,} across splits, "
        f"{twins['conflicting_labels']:,} with conflicting labels"
    )
    print(f"prepared {facts['name']} in {data_dir or default_data_dir()}")


if __name__ == "__main__":
    cli.run(main)

"""`python -m ferjax.data prepare NAME --source PATH`: from a user's copy to prepared arrays."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ferjax import cli
from ferjax.data.prepare import prepare_fer2013
from ferjax.data.store import default_data_dir


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m ferjax.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="decode a user's copy into arrays")
    prepare.add_argument("name", choices=["fer2013"])
    prepare.add_argument("--source", type=Path, required=True, help="zip archive or folder")
    prepare.add_argument("--data-dir", type=Path, help="where prepared data lie (default: $FERJAX_DATA or the cache)")
    prepare.add_argument("--skip-bad", action="store_true", help="leave out images that do not decode")
    args = parser.parse_args(argv)
    manifest = prepare_fer2013(args.source, args.data_dir, args.skip_bad)
    print(table(manifest))
    print(f"prepared in {(args.data_dir or default_data_dir()) / args.name}")


def table(manifest: dict) -> str:
    """Returns the counts by class and split as aligned text."""
    splits = list(manifest["counts"])
    rows = [["class", *splits]]
    rows += [[c, *(f"{manifest['counts'][s][c]:,}" for s in splits)] for c in manifest["class_names"]]
    rows += [["all", *(f"{sum(manifest['counts'][s].values()):,}" for s in splits)]]
    width = max(len(r[0]) for r in rows)
    return "\n".join(f"{r[0]:<{width}}" + "".join(f"{v:>12}" for v in r[1:]) for r in rows)


if __name__ == "__main__":
    cli.run(main)

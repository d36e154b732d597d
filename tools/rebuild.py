"""Rebuilds a shipped model: runs the commands in the docstring of configs/ship/NAME.py, from the data set to the card.

    python -m tools.rebuild resnet20 --dry-run     prints the commands with their expected hours
    python -m tools.rebuild resnet20               runs them; run it again to continue after an interruption

A training that is complete takes seconds, so no record is kept of what was done.
"""

import argparse
import ast
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from ferjax import cli, errors
from ferjax.train import config_files

FOLDER = "ship/"


class Step(NamedTuple):
    """One command and its expected duration in hours, 0 for minutes."""

    command: str
    hours: float


def names() -> list[str]:
    """Returns the names of the models that can be rebuilt."""
    return [name.removeprefix(FOLDER) for name in config_files.list_names() if name.startswith(FOLDER)]


def steps(name: str) -> list[Step]:
    """Returns the commands of a model in order, from lines `ferjax … [# HOURS h]` or `python -m … [# HOURS h]`.

    Raises:
      InputError: if there is no such model.
    """
    if name not in names():
        raise errors.unknown("model to rebuild", name, names())
    text = config_files.find(f"{FOLDER}{name}").path.read_text(encoding="utf-8")
    found = []
    for line in (ast.get_docstring(ast.parse(text)) or "").splitlines():
        command, _, comment = line.partition("#")
        if line.startswith(("ferjax ", "python -m ")) and ":demo" not in line:
            found.append(Step(command.strip(), float(comment.strip().removesuffix("h") or 0)))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Prints or runs the steps of a model; stops at the first that fails, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(names())}")
    parser.add_argument("--dry-run", action="store_true", help="print the commands without running them")
    options = parser.parse_args(argv)
    chosen = steps(options.name)
    for number, step in enumerate(chosen, 1):
        about = f", about {step.hours:g} h on two cores" if step.hours else ""
        print(f"step {number} of {len(chosen)}{about}: {step.command}", flush=True)
        if not options.dry_run:
            words = shlex.split(step.command)
            module = words[2:] if words[0] == "python" else words
            code = subprocess.run([sys.executable, "-m", *module], check=False).returncode
            if code:
                sys.exit(code)


if __name__ == "__main__":
    cli.run(main)

"""The models of the live loop, python -m ferjax.runtime COMMAND.

models        lists the classifiers that come with the package
fetch yunet   downloads a detector's model to the user's cache and checks its SHA-256
"""

import argparse

from ferjax import cli
from ferjax.runtime import fetch, shipped

NOTE = "The epoch was selected on validation (FER2013's PublicTest): an accuracy on it is no test figure."


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m ferjax.runtime", description="Models for the live loop.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("models", help="list the classifiers that come with the package: live.py --model NAME")
    fetching = commands.add_parser("fetch", help="download a detector's model to the user's cache")
    fetching.add_argument("name", help=f"one of: {', '.join(fetch.MODELS)}")
    fetching.add_argument("--url", help="another place to get the same file from")
    options = parser.parse_args()
    if options.command == "models":
        print(f"{shipped.table()}\n{NOTE}")
    else:
        print(fetch.fetch(options.name, url=options.url))


if __name__ == "__main__":
    cli.run(main)

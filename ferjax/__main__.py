"""The command `ferjax`, also `python -m ferjax`: one verb for each step from labelled faces to a live camera.

A command's module is imported when the command is chosen.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ferjax import __version__, cli, errors


class Command(NamedTuple):
    """One verb.

    Attributes:
      home: where its function lives, "module:function"; the function takes the arguments behind the verb.
      extra: the extra that installs what it needs.
      says: what it does, for the list.
      interrupted: what Ctrl-C prints.
    """

    home: str
    extra: str
    says: str
    interrupted: str = "interrupted"


COMMANDS: dict[str, dict[str, Command]] = {
    "data": {
        "prepare": Command("data.commands:prepare", "train", "decodes a copy of a data set into arrays"),
        "leaks": Command("data.commands:leaks", "train", "finds duplicates within and across splits"),
        "show": Command("data.commands:show", "train", "draws contact sheets and counts the classes"),
        "clip": Command("data.commands:clip", "train", "renders a film of faces that move"),
    },
    "train": {
        "train": Command("train.commands:train", "train", "trains a network", cli.RESUMES),
        "distill": Command("train.commands:distill", "train", "trains a network with a teacher", cli.RESUMES),
        "sweep": Command("train.sweep:main", "train", "trains many configurations and seeds", cli.RESUMES),
        "networks": Command("models.commands:main", "train", "lists the networks: input, parameters, MACs"),
        "compress": Command("compress.commands:main", "export", "prunes, slims, folds or rounds a trained network"),
        "weights": Command("weights.single_file:main", "train", "saves a run's best weights as .safetensors"),
    },
    "judge": {
        "evaluate": Command("evaluate.scoring:main", "train", "scores models on a split, with 95 % intervals"),
        "calibrate": Command("evaluate.temperature:main", "train", "fits temperature and abstention threshold"),
        "explain": Command("evaluate.grad_cam:main", "train", "draws Grad-CAM sheets"),
        "report": Command("evaluate.report.commands:main", "train", "writes one HTML page about models"),
        "benchmark": Command("evaluate.benchmark.commands:main", "live", "measures latency, memory and size of files"),
    },
    "ship": {
        "export": Command("export.commands:main", "export", "writes TFLite and ONNX files and proves them"),
        "card": Command("evaluate.model_card:main", "live", "writes the model card of a file"),
        "spec": Command("spec:main", "live", "prints the spec inside a file"),
        "predict": Command("runtime.predict:main", "live", "classifies a folder of cropped faces"),
        "live": Command("runtime.live:main", "live", "classifies expressions in a camera, film or folder"),
        "fetch": Command("runtime.fetch:main", "live", "downloads a face detector"),
        "models": Command("runtime.shipped:main", "live", "lists the models in the package"),
    },
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command that the arguments name, and exits."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(describe())
        return
    if arguments[0] == "--version":
        print(f"ferjax {__version__}")
        return
    run(arguments[0], arguments[1:])


def describe() -> str:
    """Returns the list of commands, by group."""
    lines = ["usage: ferjax COMMAND …      ferjax COMMAND --help says more"]
    for group, commands in COMMANDS.items():
        lines += ["", group, *(f"  {name:<10} {command.says}" for name, command in commands.items())]
    return "\n".join(lines)


def run(name: str, arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits: 0 when it returns, 2 with one line for what the user can mend.

    Args:
      name: a verb of `COMMANDS`.
      arguments: those behind it; the process's own if not given.
    """
    commands = {verb: command for group in COMMANDS.values() for verb, command in group.items()}
    chosen = commands.get(name)

    def call() -> None:
        if chosen is None:
            raise errors.unknown("command", name, commands)
        try:
            _function(chosen)(sys.argv[1:] if arguments is None else arguments)
        except ModuleNotFoundError as error:
            if (error.name or "ferjax").partition(".")[0] == "ferjax":
                raise
            raise errors.InputError(
                f"`ferjax {name}` needs {error.name}, which is not installed: pip install 'ferjax[{chosen.extra}]'"
            ) from error

    cli.run(call, interrupted=chosen.interrupted if chosen else "interrupted")


def _function(command: Command) -> Callable[[Sequence[str]], None]:
    module, _, function = command.home.partition(":")
    return getattr(importlib.import_module(f"ferjax.{module}"), function)


if __name__ == "__main__":
    main()

"""Runs the command line `ferjax COMMAND`, also `python -m ferjax`.

The module of a command is imported when the command runs.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ferjax import __version__, cli, errors

# Environment variables of JAX's checks for code under development, which reject what ferjax and its libraries do.
_CHECKS = ("JAX_NUMPY_DTYPE_PROMOTION", "JAX_NUMPY_RANK_PROMOTION", "JAX_TRANSFER_GUARD")


class Command(NamedTuple):
    """One command.

    Attributes:
      function: "module:function"; the function takes the list of arguments.
      extra: the extra that installs its dependencies.
      summary: what it does, for the list of commands.
      interrupted: message after Ctrl-C.
    """

    function: str
    extra: str
    summary: str
    interrupted: str = "interrupted"


COMMANDS: dict[str, dict[str, Command]] = {
    "data": {
        "prepare": Command("data.commands:prepare", "train", "decodes a data set into arrays"),
        "leaks": Command("data.commands:leaks", "train", "finds near duplicates within and across splits"),
        "show": Command("data.commands:show", "train", "draws contact sheets and counts the classes"),
        "clip": Command("data.commands:clip", "train", "renders a video of moving faces"),
    },
    "train": {
        "train": Command("train.commands:train", "train", "trains a network", cli.RESUMES),
        "distill": Command("train.commands:distill", "train", "trains a network with a teacher", cli.RESUMES),
        "sweep": Command("train.sweep:main", "train", "trains several configurations and seeds", cli.RESUMES),
        "networks": Command("models.commands:main", "train", "lists the networks: input, parameters, MACs"),
        "compress": Command("compress.commands:main", "export", "prunes, slims, folds or quantizes a trained network"),
        "weights": Command("weights.single_file:main", "train", "saves the best weights of a run as .safetensors"),
    },
    "evaluate": {
        "evaluate": Command("evaluate.scoring:main", "train", "scores models on a split, with 95 % intervals"),
        "calibrate": Command("evaluate.temperature:main", "train", "fits temperature and abstention threshold"),
        "explain": Command("evaluate.grad_cam:main", "train", "draws Grad-CAM heat maps"),
        "report": Command("evaluate.report.commands:main", "train", "writes an HTML report on models"),
        "benchmark": Command("evaluate.benchmark.commands:main", "live", "measures latency, memory and size of files"),
    },
    "deploy": {
        "export": Command("export.commands:main", "export", "writes and verifies TFLite and ONNX files"),
        "card": Command("evaluate.model_card:main", "live", "writes the model card of a file"),
        "spec": Command("spec:main", "live", "prints the spec in a file"),
        "predict": Command("runtime.predict:main", "live", "classifies a folder of cropped faces"),
        "live": Command("runtime.live:main", "live", "classifies expressions in a camera, video or folder"),
        "fetch": Command("runtime.fetch:main", "live", "downloads a face detector"),
        "models": Command("runtime.shipped:main", "live", "lists the models in the package"),
    },
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command given by the arguments and exits."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        cli.run(lambda: print(describe()))
        return
    if arguments[0] == "--version":
        print(f"ferjax {__version__}")
        return
    run(arguments[0], arguments[1:])


def describe() -> str:
    """Returns the list of commands by group."""
    lines = ["usage: ferjax COMMAND …      help: ferjax COMMAND --help"]
    for group, commands in COMMANDS.items():
        lines += ["", group, *(f"  {name:<10} {command.summary}" for name, command in commands.items())]
    return "\n".join(lines)


def run(name: str, arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits: 0 on success, 2 with a one-line message on invalid input.

    Args:
      name: a command of `COMMANDS`.
      arguments: its arguments (default: those of the process).
    """
    commands = {verb: command for group in COMMANDS.values() for verb, command in group.items()}
    chosen = commands.get(name)

    def call() -> None:
        if chosen is None:
            raise errors.unknown("command", name, commands)
        for variable in [known for known in os.environ if known.startswith(_CHECKS)]:
            del os.environ[variable]  # before the command imports JAX, which reads them
        try:
            _function(chosen)(sys.argv[1:] if arguments is None else arguments)
        except ModuleNotFoundError as error:
            if (error.name or "ferjax").partition(".")[0] == "ferjax":
                raise
            raise errors.InputError(
                f"`ferjax {name}` needs {error.name}, which is not installed: pip install 'ferjax[{chosen.extra}]'"
            ) from error
        except (RuntimeError, AssertionError):
            if "jax" in sys.modules:
                importlib.import_module("ferjax.devices").check_platform()
            raise

    cli.run(call, interrupted=chosen.interrupted if chosen else "interrupted")


def _function(command: Command) -> Callable[[Sequence[str]], None]:
    module, _, function = command.function.partition(":")
    return getattr(importlib.import_module(f"ferjax.{module}"), function)


if __name__ == "__main__":
    main()

"""Runs the command line `ferjax COMMAND`, also `python -m ferjax`.

The module of a command is imported when the command runs.
"""

import contextlib
import hashlib
import importlib
import importlib.metadata
import os
import pathlib
import platform
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ferjax import __version__, cli, errors, folders

# Environment variables of JAX's checks for code under development, which reject what ferjax and its libraries do.
_CHECKS = ("JAX_NUMPY_DTYPE_PROMOTION", "JAX_NUMPY_RANK_PROMOTION", "JAX_TRANSFER_GUARD")
_COMPILED_BYTES = 1 << 29  # limit for the compiled programs; JAX removes the least recently used ones


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
        "analyze": Command("runtime.analysis.command:main", "live", "analyzes photos and films into tables and a page"),
        "live": Command("runtime.live:main", "live", "classifies expressions in a camera, video or folder"),
        "web": Command("runtime.web.commands:main", "live", "shows the browser page of a model on this computer"),
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
        cli.run(lambda: print(f"ferjax {__version__}"))
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
        keep_compiled()
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


def keep_compiled() -> None:
    """Makes JAX, if a command imports it, keep compiled programs for the next start.

    The folder is $FERJAX_COMPILED, or `compiled` in the user's cache, with a subfolder for each version of JAX and kind
    of processor. An own JAX_COMPILATION_CACHE_DIR is left as it is; JAX_ENABLE_COMPILATION_CACHE=0 turns both off.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    try:
        folder = folders.cache("FERJAX_COMPILED", "compiled") / _machine()
        folder.mkdir(parents=True, exist_ok=True)
    except (errors.InputError, OSError, importlib.metadata.PackageNotFoundError):  # no home, read-only, no JAX
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(_COMPILED_BYTES))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    # XLA logs errors about "another machine" for programs of this one (github.com/jax-ml/jax/issues/38445).
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    show = warnings.showwarning

    def showwarning(message: Warning | str, *details: Any, **options: Any) -> None:
        if "persistent compilation cache" not in str(message):
            show(message, *details, **options)
            return
        for entry in folder.glob("*-*"):  # an entry is damaged, and JAX does not replace it: start afresh
            with contextlib.suppress(OSError):
                entry.unlink()

    warnings.showwarning = showwarning


def _machine() -> str:
    """Returns a name for the version of JAX and the instructions of the processor, such as "0.10.0-3f2a91c0"."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
        cpu = re.findall(r"^(?:flags|Features)\s*:.*", text, re.MULTILINE)[0]
    except (OSError, IndexError):
        cpu = platform.processor()
    return f"{importlib.metadata.version('jaxlib')}-{hashlib.sha256(cpu.encode()).hexdigest()[:8]}"


def _function(command: Command) -> Callable[[Sequence[str]], None]:
    module, _, function = command.function.partition(":")
    try:
        return getattr(importlib.import_module(f"ferjax.{module}"), function)
    except ValueError as error:  # of a library that reads environment variables when it is imported
        variables = "environment variables such as JAX_ENABLE_X64 and MPLBACKEND"
        raise errors.InputError(f"a library cannot start ({error}): check {variables}") from error


if __name__ == "__main__":
    main()

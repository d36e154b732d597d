"""The trained models that come with the package: `ferjax models`.

`models/` holds, for each NAME, NAME.tflite with its contract inside, its card NAME.md and, for training on, its weights
in floats NAME.safetensors where they are small enough; the file `default` names the one that is taken when none is
asked for. `python -m tools.ship` fills it.
"""

import os
import pathlib
from collections.abc import Sequence

from ferjax import cli
from ferjax import spec as contract
from ferjax.errors import InputError, unknown

FOLDER = pathlib.Path(__file__).parent / "models"
DEFAULT, SUFFIX = "default", ".tflite"
NOTE = "The epoch was selected on validation (FER2013's PublicTest): an accuracy on it is no test figure."


def names() -> list[str]:
    """Returns the names of the shipped models, the default first."""
    found = sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))
    return sorted(found, key=lambda name: name != _default())


def find(model: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Returns the file of a model.

    Args:
      model: a file, the name of a shipped model, or None for the default one. What has no suffix and no folder, such as
        "resnet20", is a name.

    Raises:
      InputError: if no model is shipped under that name, or none at all.
    """
    path = pathlib.Path(model if model is not None else _default())
    if model is not None and (path.suffix or path.name != os.fspath(model) or path.exists()):
        return path
    shipped = names()
    if not shipped:
        wanted = "" if model is None else f", so none is named {os.fspath(model)!r}"
        raise InputError(
            f"no model comes with this copy of ferjax{wanted}: give a .tflite or .onnx file from export.py with --model"
        )
    if path.name not in shipped:
        raise unknown("shipped model", path.name, [*shipped, "or a .tflite or .onnx file from export.py"])
    return FOLDER / f"{path.name}{SUFFIX}"


def table() -> str:
    """Returns one line per shipped model: how large and how good it is, as its contract says, and where it lies.

    Raises:
      InputError: if none is shipped, or a file cannot be read.
    """
    find()
    lines = [["name", "network", "kind", "bytes", "parameters", "accuracy", "training data", "file"]]
    for name in names():
        path = FOLDER / f"{name}{SUFFIX}"
        spec = contract.read(path)
        scores = ", ".join(f"{value:.1%} on {split}" for split, value in spec.accuracy.items())
        lines.append(
            [
                f"{name} (default)" if name == _default() else name,
                spec.architecture,
                spec.quantization,
                f"{path.stat().st_size:,}",
                f"{spec.parameters:,}",
                scores or "not known",
                spec.dataset or "not known",
                str(path),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def choices() -> str:
    """Returns the names for a command's help, such as "resnet20 (default), mini_xception"."""
    return ", ".join(f"{name} (default)" if name == _default() else name for name in names()) or "none in this copy"


def main(argv: Sequence[str]) -> None:
    """Runs `ferjax models`: lists the models in the package."""
    cli.parser("models", "Lists the models in the package, which --model takes by name.").parse_args(argv)
    print(f"{table()}\n{NOTE}")


def _default() -> str:
    path = FOLDER / DEFAULT
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""

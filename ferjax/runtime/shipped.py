"""Finds and lists the trained models of the package: `ferjax models`.

The folder `models/` has, for each NAME, the exported file NAME.tflite, the model card NAME.md and, if small enough, the
float weights NAME.safetensors for fine-tuning. The file `default` contains the name of the default model.
`python -m tools.ship` writes the folder.
"""

import os
import pathlib
from collections.abc import Sequence

import ferjax.spec
from ferjax import cli
from ferjax.errors import InputError, unknown

FOLDER = pathlib.Path(__file__).parent / "models"
DEFAULT, SUFFIX = "default", ".tflite"
NOTE = "The epoch was selected on validation (FER2013's PublicTest), so validation accuracy is not a test result."


def names() -> list[str]:
    """Returns the names of the models, the default first."""
    found = sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))
    return sorted(found, key=lambda name: name != _default())


def find(model: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Returns the path of a model.

    Args:
      model: a file, the name of a model of the package, or None for the default model. A string without suffix and
        folder, such as "resnet20", is a name unless a file of that name exists.

    Raises:
      InputError: if the name is unknown, or the package has no models.
    """
    path = pathlib.Path(model if model is not None else _default())
    if model is not None and (path.suffix or path.name != os.fspath(model) or path.exists()):
        return path
    shipped = names()
    if not shipped:
        requested = "" if model is None else f", so {os.fspath(model)!r} is unknown"
        raise InputError(
            f"this installation of ferjax has no models{requested}: give a .tflite or .onnx file from `ferjax export` "
            "with --model"
        )
    if path.name not in shipped:
        raise unknown("model", path.name, [*shipped, "or a .tflite or .onnx file from `ferjax export`"])
    return FOLDER / f"{path.name}{SUFFIX}"


def table() -> str:
    """Returns a text table of the models: network, size, accuracy from the spec, path.

    Raises:
      InputError: if the package has no models, or a file cannot be read.
    """
    find()
    lines = [["name", "network", "kind", "bytes", "parameters", "accuracy", "training data", "file"]]
    for name in names():
        path = FOLDER / f"{name}{SUFFIX}"
        spec = ferjax.spec.read(path)
        scores = ", ".join(f"{value:.1%} on {split}" for split, value in spec.accuracy.items())
        lines.append(
            [
                f"{name} (default)" if name == _default() else name,
                spec.architecture,
                spec.quantization,
                f"{path.stat().st_size:,}",
                f"{spec.parameters:,}",
                scores or "unknown",
                spec.dataset or "unknown",
                str(path),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def choices() -> str:
    """Returns the names for the help of a command, such as "resnet20 (default), mini_xception"."""
    return ", ".join(f"{name} (default)" if name == _default() else name for name in names()) or "none installed"


def accepted() -> str:
    """Returns the help text of an argument that `ferjax.runtime.load` takes."""
    return f"exported file, folder of such files (the fastest is taken), or model of the package: {choices()}"


def main(argv: Sequence[str]) -> None:
    """Runs `ferjax models`: lists the models of the package."""
    cli.parser("models", "Lists the models of the package, which --model accepts by name.").parse_args(argv)
    print(f"{table()}\n{NOTE}")


def _default() -> str:
    path = FOLDER / DEFAULT
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""

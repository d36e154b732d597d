"""Puts a trained model into the package: a file that passed its gate, its card, and float weights to train on.

    python -m tools.ship --name resnet20 --model runs/ship/resnet20 --file exports/ship/resnet20/resnet20_int8.tflite

The file is refused if its spec differs from the run's, if export.py did not compare it with the run on the whole
validation split, if its accuracy here is not that of its spec, or if the files together would be too large.
"""

import argparse
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

from ferjax import cli, errors, weights
from ferjax import spec as contract
from ferjax.data.datasets import fer2013, ferplus
from ferjax.evaluate import model_card, predictor, robustness, scoring
from ferjax.runtime import shipped
from ferjax.spec import ModelSpec
from ferjax.weights import checkpoint, single_file
from tools import rebuild

FILES_BYTES, WEIGHTS_BYTES = 4_000_000, 5_000_000
# What export.py, and only export.py, changes in the spec.
_EXPORTED = ("quantization", "least_runtime", "accuracy", "macs", "ferjax_version")
_LAW, _SELECTED = "Regulation (EU) 2024/1689", "The epoch was selected on this split"


def ship(
    name: str,
    *,
    model: pathlib.Path,
    file: pathlib.Path,
    commands: Sequence[str],
    weights_of: pathlib.Path | None = None,
    benchmark: pathlib.Path | None = None,
    held_out: str = "",
    data_dir: str | None = None,
    default: bool = False,
) -> list[pathlib.Path]:
    """Puts a model into the package, in place of the one of its name.

    Args:
      name: small letters, digits and underscores.
      model: the --workdir of the run that was exported.
      file: the .tflite file, in the folder that export.py left.
      commands: lines that make the file again, for the card.
      weights_of: the run in floats whose weights are shipped; `model` if not given.
      benchmark: benchmark.csv with rows of the file, for the card.
      held_out: scores on a test split that selected nothing, in words, for the card.
      data_dir: where the prepared data lie.
      default: make it the default; the first one is in any case.

    Returns:
      The files in the package.

    Raises:
      InputError: if it may not be shipped; the package is unchanged then.
    """
    if not re.fullmatch(r"[a-z0-9_]+", name) or name == shipped.DEFAULT:
        raise errors.InputError(f"--name takes small letters, digits and underscores, got {name!r}")
    entry, spec = _passed(file), _checked(file, model)
    others = sum(path.stat().st_size for path in _files() if path.stem != name)
    if (size := others + file.stat().st_size) > FILES_BYTES:
        raise errors.InputError(f"with {file} the shipped files take {size:,} bytes, more than {FILES_BYTES:,}")
    scored = predictor.open_model(file)
    evaluation = scoring.evaluate(scored, data_dir=data_dir)
    faces = predictor.load_split(spec, "validation", data_dir=data_dir)
    evaluation["robustness"] = robustness.measure(scored.logits, faces, trained=spec.trained_corruptions)
    said = spec.accuracy["validation"]
    if abs(evaluation["accuracy"] - said) > 0.5 / evaluation["n"]:
        raise errors.InputError(f"{file} scores {evaluation['accuracy']:.4f} here, its spec says {said:.4f}")
    measured = {
        **entry,
        "file": f"{name}{shipped.SUFFIX}",
        "model": name,
        "training": _training(model),
        "commands": commands,
        "bytes": file.stat().st_size,
        "evaluation": evaluation,
        "benchmark": model_card.read_benchmark(benchmark, file.name) if benchmark else (),
        **({"held_out": held_out} if held_out else {}),
    }
    _put(name, file, weights_of or model, measured, default=default)
    return sorted(shipped.FOLDER.glob(f"{name}.*"))


def _put(name: str, file: pathlib.Path, weights_of: pathlib.Path, measured: dict[str, Any], *, default: bool) -> None:
    """Writes all files of a model aside, then moves them into the package."""
    spec, weights = contract.read(file), f"{name}{single_file.SUFFIX}"
    shipped.FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=shipped.FOLDER.parent, prefix=".ship.") as scratch:
        made = pathlib.Path(scratch)
        shutil.copyfile(file, made / f"{name}{shipped.SUFFIX}")
        _write_weights(made / weights, weights_of, spec)
        if (made / weights).exists():
            measured = {**measured, "weights": weights}
        model_card.write(spec, made / f"{name}.md", measured)
        if default or not shipped.names():
            (made / shipped.DEFAULT).write_text(f"{name}\n", encoding="utf-8")
        (shipped.FOLDER / weights).unlink(missing_ok=True)
        for path in sorted(made.iterdir()):
            os.replace(path, shipped.FOLDER / path.name)


def faults(folder: pathlib.Path) -> list[str]:
    """Returns what is wrong with a folder of shipped models, in words; nothing if all is well."""
    found, size = [], sum(path.stat().st_size for path in folder.glob(f"*{shipped.SUFFIX}"))
    if size > FILES_BYTES:
        found.append(f"the files take {size:,} bytes, more than {FILES_BYTES:,}")
    names = {path.stem for path in folder.glob(f"*{shipped.SUFFIX}")}
    for path in sorted(folder.iterdir()):
        if path.name == shipped.DEFAULT:
            if path.read_text(encoding="utf-8").strip() not in names:
                found.append(f"the default {path.read_text(encoding='utf-8').strip()!r} is not there")
        elif path.stem not in names or path.suffix not in (shipped.SUFFIX, ".md", single_file.SUFFIX):
            found.append(f"{path.name} belongs to no model")
    for name in sorted(names):
        try:
            found += [f"{name}: {fault}" for fault in _faults(folder, name)]
        except (errors.InputError, OSError) as error:
            found.append(f"{name}: {error}")
    return found if not names or (folder / shipped.DEFAULT).is_file() else [*found, "no default is named"]


def _faults(folder: pathlib.Path, name: str) -> list[str]:
    spec, found = contract.read(folder / f"{name}{shipped.SUFFIX}"), []
    if spec.class_names not in (fer2013.CLASSES, ferplus.CLASSES):
        found.append(f"its labels are {', '.join(spec.class_names)}, neither FER2013's nor FER+'s")
    if "validation" not in spec.accuracy:
        found.append("its spec has no accuracy on validation")
    text = (folder / f"{name}.md").read_text(encoding="utf-8")
    found += [f"its card does not say {part!r}" for part in (_LAW, _SELECTED, "Made by") if part not in text]
    path = folder / f"{name}{single_file.SUFFIX}"
    if path.exists():
        theirs = single_file.load(path).spec
        if (theirs.architecture, theirs.class_names) != (spec.architecture, spec.class_names):
            found.append(f"its weights are of {theirs.architecture} with {', '.join(theirs.class_names)}")
        if path.stat().st_size > WEIGHTS_BYTES:
            found.append(f"its weights take {path.stat().st_size:,} bytes, more than {WEIGHTS_BYTES:,}")
    return found


def _passed(file: pathlib.Path) -> dict[str, Any]:
    """Returns what export.py measured of a file that it kept.

    Raises:
      InputError: if it did not compare that very file, whole, and find it faithful.
    """
    if file.suffix != shipped.SUFFIX:
        raise errors.InputError(f"{file} is no {shipped.SUFFIX} file: those are shipped")
    entry = dict(model_card.read_export(file)) if file.is_file() else {}
    if not entry:
        raise errors.InputError(
            f"{file} has no record of its gate: give a file where export.py left it, with export.json"
        )
    if entry["faults"]:
        raise errors.InputError(f"{file} did not pass: {', '.join(entry['faults'])}")
    if entry["bytes"] != file.stat().st_size:
        raise errors.InputError(f"{file} has changed since it was compared with its run: export it again")
    entry.pop("confusion", None)
    return entry


def _checked(file: pathlib.Path, model: pathlib.Path) -> ModelSpec:
    """Returns the spec of a file that was exported from a run as the run is now."""
    spec, theirs = contract.read(file), weights.load(model).spec
    for field in vars(spec):
        if field not in _EXPORTED and getattr(spec, field) != getattr(theirs, field):
            raise errors.InputError(
                f"{file} is no export of {model} as it is now: {field} is {getattr(spec, field)!r} in the file, "
                f"{getattr(theirs, field)!r} in the run"
            )
    if "validation" not in spec.accuracy:
        raise errors.InputError(f"{file} was compared on some images only: export it without --images")
    return spec


def _training(run: pathlib.Path) -> str:
    """Returns how long a run was trained, in words."""
    _, meta = checkpoint.read(run, "last")
    return f"{len(meta['history'])} epochs, seed {meta['config']['fit'].get('seed', 0)}"


def _write_weights(path: pathlib.Path, run: pathlib.Path, spec: ModelSpec) -> None:
    """Writes a run's weights; if they are too large, prints a note instead."""
    network = weights.load(run)
    theirs = network.spec
    if (theirs.architecture, theirs.class_names) != (spec.architecture, spec.class_names):
        raise errors.InputError(
            f"{run} holds {theirs.architecture}, the file {spec.architecture}: give the run before it"
        )
    single_file.save(path, network)
    if (size := path.stat().st_size) > WEIGHTS_BYTES:
        path.unlink()
        cli.note(f"the weights of {run} are not shipped: they take {size:,} bytes, more than {WEIGHTS_BYTES:,}")


def _files() -> list[pathlib.Path]:
    return [shipped.find(name) for name in shipped.names()]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the model in the package")
    parser.add_argument("--model", type=pathlib.Path, required=True, help="the --workdir of the run that was exported")
    parser.add_argument("--file", type=pathlib.Path, required=True, help="the .tflite file, where export.py left it")
    parser.add_argument(
        "--commands",
        nargs="+",
        metavar="LINE",
        help="commands that make it again (default: those of configs/ship/NAME.py)",
    )
    parser.add_argument("--weights", type=pathlib.Path, help="the run in floats whose weights are shipped; --model's")
    parser.add_argument("--benchmark", type=pathlib.Path, help="benchmark.csv of ferjax benchmark")
    parser.add_argument("--held-out", default="", metavar="TEXT", help="scores on a test split, for the card")
    parser.add_argument("--data-dir", help="where prepared data lies; $FERJAX_DATA or the cache if not given")
    parser.add_argument("--default", action="store_true", help="the model that is taken when none is asked for")
    options = parser.parse_args(argv)
    made = ship(
        options.name,
        model=options.model,
        file=options.file,
        commands=options.commands or [step.command for step in rebuild.steps(options.name)],
        weights_of=options.weights,
        benchmark=options.benchmark,
        held_out=options.held_out,
        data_dir=options.data_dir,
        default=options.default,
    )
    for path in made:
        print(f"{path} {path.stat().st_size:,} bytes")
    for fault in faults(shipped.FOLDER):
        cli.note(fault)
    print(shipped.table())


if __name__ == "__main__":
    cli.run(main)

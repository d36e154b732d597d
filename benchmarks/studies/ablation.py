"""Compares the arms of a study over seeds, as rows of results/ablation.jsonl.

    python -m benchmarks.studies.ablation --study "mini-Xception, 20 epochs" \
        --arm plain runs/plain --arm distilled runs/distilled --command "ferjax sweep …"
    python -m benchmarks.studies.ablation --study "ResNet-20 in integers" \
        --arm float runs/float --arm "int8 trained" exports/seed0/resnet20_qat.tflite exports/seed1/…

An arm is a name and its runs: workdirs, folders of them such as a sweep leaves (seed0, seed1, …), or exported files.
Runs are paired by their seeds; files, and runs that share a seed, by the order in which they are given.

Accuracy is on validation, by which each run's epoch was selected; a file's is that of its gate.
The difference to the first arm has a 95 % interval (Student's t over the pairs).
"""

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.studies import accuracy
from ferjax import cli, errors
from ferjax import spec as contract
from ferjax.evaluate import predictor
from ferjax.train import sweep
from ferjax.weights import checkpoint
from tools import tables

COLUMNS = [
    ("ablation", "{study}"),
    ("variant", "{arm}"),
    ("seeds", "{seeds}"),
    ("accuracy % (mean ± SD)", "{accuracy:.2f} ± {spread:.2f}"),
    ("difference, points (95 %)", "{difference:+.2f} ± {interval:.2f}"),
    ("macro-F1", "{macro_f1:.3f}"),
    ("minutes per run", "{minutes:.0f}"),
]
PACKAGES = ("jax", "flax", "optax")


def study(name: str, arms: Mapping[str, Sequence[pathlib.Path]]) -> list[dict[str, Any]]:
    """Returns one row per arm.

    Args:
      name: of the study.
      arms: label -> its runs or files; the others are compared with the first.

    Raises:
      InputError: if an arm is empty, cannot be read, or has other seeds than the first.
    """
    rows: list[dict[str, Any]] = []
    first: dict[int, float] = {}
    for label, paths in arms.items():
        found = [each for path in paths for each in _results(path)]
        seeds = [each["seed"] for each in found]
        if None in seeds or len(set(seeds)) < len(seeds):  # their order says what belongs together
            seeds = list(first) if len(first) == len(found) else list(range(len(found)))
        scores = {seed: each["accuracy"] for seed, each in zip(seeds, found, strict=True)}
        first = first or scores
        if scores.keys() != first.keys():
            raise errors.InputError(
                f"arm {label!r} has the seeds {sorted(scores)}, the first arm {sorted(first)}: give each arm the same"
            )
        rows.append({"name": f"{name}: {label}", "study": name, "arm": label, **_row(found)})
        if scores is not first:
            pairs = [scores[seed] - first[seed] for seed in sorted(first)]
            rows[-1]["difference"] = statistics.mean(pairs)
            rows[-1]["interval"] = sweep.paired(pairs)[1] if len(pairs) > 1 else None
    return rows


def _row(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def mean(key: str) -> float | None:
        values = [each[key] for each in found]
        return None if None in values else statistics.mean(values)

    scores = [each["accuracy"] for each in found]
    lengths = dict.fromkeys(each["epochs"] for each in found if each["epochs"])
    return {
        "accuracy": mean("accuracy"),
        "spread": statistics.stdev(scores) if len(scores) > 1 else None,
        "seeds": len(scores),
        "macro_f1": mean("macro_f1"),
        "epochs": ", ".join(lengths) or None,
        "minutes": mean("minutes"),
        "each": list(found),
    }


def _results(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns what is known of a run, of every run in a folder, or of an exported file."""
    if path.suffix.lower() in predictor.FILES:
        spec = contract.read(path)
        if "validation" not in spec.accuracy:
            raise errors.InputError(
                f"{path} was never compared on the whole validation split: export it without --images"
            )
        known = {"accuracy": 100 * spec.accuracy["validation"], "macro_f1": None, "epochs": None, "minutes": None}
        return [{"seed": None, **known}]
    if not (path / "last").is_dir():
        runs = sorted(each.parent for each in path.glob("*/last"))
        if not runs:
            raise errors.InputError(f"{path} is no run, no folder of runs and no exported file")
        return [result for run in runs for result in _results(run)]
    (spec, _), meta = checkpoint.read(path)
    return [
        {
            "seed": meta["config"]["fit"].get("seed", 0),
            "accuracy": accuracy.validated(spec, path),
            "macro_f1": meta["history"][-1]["validation_macro_f1"],
            "epochs": accuracy.epochs(path),
            "minutes": accuracy.minutes(path),
        }
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = tables.arguments(__doc__)
    parser.add_argument("--study", required=True, help="what was compared, such as 'mini-Xception, 20 epochs'")
    parser.add_argument("--arm", nargs="+", action="append", required=True, metavar=("LABEL", "PATH"), help="repeated")
    parser.add_argument("--command", required=True, help="the command that trained them, for the record")
    options = parser.parse_args(argv)
    arms = {label: [pathlib.Path(path) for path in paths] for label, *paths in options.arm}
    if len(arms) != len(options.arm) or not all(arms.values()):
        raise errors.InputError("each --arm takes a label of its own and at least one run, folder or file")
    rows = study(options.study, arms)
    table = tables.save("ablation", COLUMNS, rows, command=options.command, packages=PACKAGES, results=options.results)
    print(tables.render(table))


if __name__ == "__main__":
    cli.run(main)

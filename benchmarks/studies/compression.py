"""Compares the ways to make one trained network smaller, each with the same extra training, by the exported files.

    python -m benchmarks.studies.compression --model runs/resnet20 --epochs 15 --seeds 3
    python -m benchmarks.studies.compression --model runs/resnet20 --rows dense "int8 (QAT)"
    python -m benchmarks.studies.compression --model ferjax/runtime/models/resnet20.safetensors --epochs 1

Every row starts from the same run and is trained on for the same number of epochs, with `--distil` all of them with the
teacher: a distilled network that goes on without one gets worse. The row "int8 (PTQ)" exports the dense row's
network. Accuracy is that of the TFLite file on the validation split (FER2013's PublicTest), with its
95 % interval; with several seeds, the mean of the seeds' figures. The difference is paired with the dense file of the
same seed, image by image; its interval is the widest that the seeds' intervals span. Milliseconds are medians of one
thread, the file taking turns with the dense one.

A finished row is taken as it is, a stopped one resumes; the results are written after each. A file that fails the
comparison at export has no row; of several seeds, those that pass count.
"""

import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.studies import recipes
from ferjax import cli, errors, export, folders, weights
from ferjax import spec as contract
from ferjax.evaluate import intervals, predictor
from ferjax.evaluate.benchmark import measuring
from tools import tables

PACKAGES = ("jax", "flax", "optax", "tensorflow-cpu", "ai-edge-litert")
COLUMNS = [
    ("network, training", "{network}, {training}"),
    ("change", "{row}"),
    ("seeds", "{seeds}"),
    ("accuracy %", "{accuracy:.2f}"),
    ("difference to dense, points (95 %)", "{change:+.2f} ({change_low:+.2f} … {change_high:+.2f})"),
    ("file, kB", "{bytes:,.0fk}"),
    ("speedup over dense", "{speedup:.2f}"),
]


def main(argv: Sequence[str] | None = None) -> None:
    parser = tables.arguments(__doc__)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="a training run in floats, or .safetensors")
    parser.add_argument("--teacher", type=pathlib.Path, help="of the rows with one; the run itself if not given")
    parser.add_argument("--distil", action="store_true", help="train all rows with the teacher")
    parser.add_argument("--runs", type=pathlib.Path, help="folder of the rows; one of runs/ if not given")
    parser.add_argument("--epochs", type=int, default=15, help="of each row")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=1, help="runs of each row")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="names; all if not given. The dense one is first")
    parser.add_argument("--passes", type=int, default=1000, help="timed inferences of each file")
    parser.add_argument("--data-dir", help="where prepared data lies; $FERJAX_DATA or the cache if not given")
    options = parser.parse_args(argv)
    if min(options.epochs, options.batch_size, options.seeds, options.passes) < 1:
        raise errors.InputError("epochs, batch size, seeds and passes must be positive")
    names = [row.name for row in recipes.ROWS]
    for name in options.rows or ():
        if name not in names:
            raise errors.unknown("row", name, names)
    network = weights.load(options.model).spec.architecture
    study = recipes.Study(
        options.model,
        options.teacher or options.model,
        options.distil,
        options.runs or pathlib.Path("runs") / f"compression-{network}-{options.epochs}{'-distilled' * options.distil}",
        options.epochs,
        options.batch_size,
        options.data_dir,
        options.passes,
    )
    _claim(study)
    command = tables.command("benchmarks.studies.compression", argv)
    for seed in range(options.seeds):
        for row in recipes.ROWS:
            if row.name not in (options.rows or names) and row.name != "dense":
                continue
            try:
                one(row, seed, study)
            except errors.InputError as error:  # a file that fails the gate is a result, too
                if row is recipes.ROWS[0]:
                    raise  # what all others are compared with
                cli.note(f"{row.name}, seed {seed}: {error}")
                continue
            found = summary(row, study, seeds=seed + 1) | {
                "network": network,
                "training": study.training,
                "name": f"{network}, {study.training}: {row.name}",
            }
            table = tables.save(
                "compression", COLUMNS, [found], command=command, packages=PACKAGES, results=options.results
            )
    print(tables.render(table))


def _claim(study: recipes.Study) -> None:
    """Marks the folder of the rows as this study's, so that no other takes its rows for its own.

    Raises:
      InputError: if it is another's.
    """
    starts = {"model": study.model} | ({"teacher": study.teacher} if study.teacher != study.model else {})
    ours: dict[str, Any] = {name: weights.load(path).spec.params_sha256 for name, path in starts.items()}
    ours |= {"training": study.training, "batch_size": study.batch_size}
    path = study.runs / "study.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with folders.atomic_file(path) as part:
            part.write_text(json.dumps(ours, indent=1) + "\n")
    theirs = json.loads(path.read_text())
    if other := [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]:
        raise errors.InputError(
            f"{study.runs} holds rows of another study (another {', '.join(other)}): give another --runs"
        )


def one(row: recipes.Row, seed: int, study: recipes.Study) -> None:
    """Trains, exports and measures a row with one seed, unless it is there already."""
    folder = study.runs / row.folder / f"seed{seed}"
    path = _path(row, seed, study)
    if path.exists():
        return
    cli.note(f"{row.name}, seed {seed}")
    recipes.train(row, seed, folder / "run", study)
    jax.clear_caches()  # the next row compiles another step
    out = folder / f"files-{row.quantization}"
    (file,) = export.export(
        folder / "run",
        out,
        wanted_formats=["tflite"],
        wanted_quantizations=[row.quantization],
        data_dir=study.data_dir,
        overwrite=True,
    )
    spec, variables = weights.load(folder / "run")
    faces = predictor.load_split(spec, "validation", data_dir=study.data_dir)
    answers = predictor.open_model(out / file.file).logits(faces.images).argmax(1)
    dense = study.runs / recipes.ROWS[0].folder / f"seed{seed}" / "files-none"
    chosen = [measuring.Contender(each, "cpu") for each in {*dense.glob("*.tflite"), out / file.file}]
    times = dict(zip(chosen, measuring.measure(chosen, threads=1, passes=study.passes), strict=True))
    taken = {contender.path: found["p50_ms"] for contender, found in times.items()}
    (base,) = dense.glob("*.tflite")
    measured = {
        "accuracy": 100 * file.comparison.accuracy,
        "low": 100 * file.comparison.accuracy_interval[0],
        "high": 100 * file.comparison.accuracy_interval[1],
        "parameters": spec.parameters,
        "nonzeros": sum(int(np.count_nonzero(leaf)) for leaf in jax.tree.leaves(variables["params"])),
        "macs": contract.read(out / file.file).macs,
        "bytes": file.bytes,
        "milliseconds": taken[out / file.file],
        "speedup": taken[base] / taken[out / file.file],
        "float_operations": sum(file.float_operations.values()),
        "agreement": 100 * file.comparison.agreement,
        "answers": answers.tolist(),
        "labels": faces.labels.tolist(),
        "classes": len(spec.class_names),
    }
    with folders.atomic_file(path) as part:
        part.write_text(json.dumps(measured))


def summary(row: recipes.Row, study: recipes.Study, *, seeds: int) -> dict[str, Any]:
    """Returns the row of the table from the results of its seeds, of those that have one."""
    passed = [seed for seed in range(seeds) if _path(row, seed, study).exists()]
    found = [_result(row, seed, study) for seed in passed]
    dense = [_result(recipes.ROWS[0], seed, study) for seed in passed]
    changes = [_change(ours, theirs) for ours, theirs in zip(found, dense, strict=True)]
    mean = {
        key: statistics.mean(each[key] for each in found)
        for key in ("accuracy", "low", "high", "milliseconds", "speedup", "agreement")
    }
    kept = ("parameters", "nonzeros", "macs", "bytes", "float_operations")
    return {
        "row": row.name,
        **mean,
        **{key: found[0][key] for key in kept},
        "change": statistics.mean(value for value, _, _ in changes),
        "change_low": min(low for _, low, _ in changes),
        "change_high": max(high for _, _, high in changes),
        "seeds": len(passed),
        "each": [
            {**{k: v for k, v in one.items() if k not in ("answers", "labels", "classes")}, "change": change}
            for one, change in zip(found, changes, strict=True)
        ],
        "epochs": study.epochs,
    }


def _path(row: recipes.Row, seed: int, study: recipes.Study) -> pathlib.Path:
    return study.runs / row.folder / f"seed{seed}" / f"result-{row.quantization}.json"


def _result(row: recipes.Row, seed: int, study: recipes.Study) -> dict[str, Any]:
    return json.loads(_path(row, seed, study).read_text())


def _change(ours: Mapping[str, Any], dense: Mapping[str, Any]) -> tuple[float, float, float]:
    """Returns accuracy minus the dense file's in points, with the paired 95 % interval."""
    labels, first, second = (np.array(v) for v in (ours["labels"], dense["answers"], ours["answers"]))
    found = intervals.paired_bootstrap(labels, first, second, ours["classes"])["accuracy"]
    return 100 * float(found.value), 100 * float(found.low), 100 * float(found.high)


if __name__ == "__main__":
    cli.run(main)

"""One trained network made smaller in every way, each with the same extra training, scored as exported files.

    python -m benchmarks.compression --model runs/resnet20 --epochs 15 --seeds 3
    python -m benchmarks.compression --model runs/resnet20 --rows dense "int8, trained"
    python -m benchmarks.compression --model ferjax/runtime/models/resnet20.safetensors --epochs 1

Every row starts from the same run and is trained on for the same number of epochs, with `--distil` all of them with the
teacher: a distilled network that goes on without one gets worse. What is said to be "after training" is the dense row's
network. Accuracy is that of the TFLite file on the validation split (FER2013's PublicTest), with its
95 % interval; with several seeds, the mean of the seeds' figures. The difference is paired with the dense file of the
same seed, image by image; its interval is the widest that the seeds' intervals span. Milliseconds are medians of one
thread, the file taking turns with the dense one.

Rows that are there are taken as they are, one that was stopped goes on; the results are written after each. A file that
fails the comparison at export has no row; of several seeds, those that pass count.
"""

import argparse
import json
import os
import pathlib
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import tables
from configs.compress import finetune, prune, qat
from ferjax import cli, compress, errors, export, weights
from ferjax import spec as contract
from ferjax.evaluate import intervals, predictor
from ferjax.evaluate.benchmark import measuring
from ferjax.train import experiment
from ferjax.weights import single_file

PACKAGES = ("jax", "flax", "optax", "tensorflow-cpu", "ai-edge-litert")
COLUMNS = [
    ("network", "{network}"),
    ("row", "{row}"),
    ("trained on", "{training}"),
    ("accuracy % (95 %)", "{accuracy:.2f} ({low:.2f} … {high:.2f})"),
    ("against dense, points (95 %)", "{change:+.2f} ({change_low:+.2f} … {change_high:+.2f})"),
    ("seeds", "{seeds}"),
    ("parameters", "{parameters:,}"),
    ("non-zeros", "{nonzeros:,}"),
    ("MACs", "{macs:,}"),
    ("bytes", "{bytes:,}"),
    ("ms", "{milliseconds:.2f}"),
    ("times as fast as dense", "{speedup:.2f}"),
    ("float operations", "{float_operations}"),
    ("agrees with Flax %", "{agreement:.2f}"),
]


class Row(NamedTuple):
    """One way to a smaller network.

    Attributes:
      name: in the table.
      quantization: of the exported file.
      sparsity: percent of the weights that are pruned while training on; 0, 50, 80 or 90.
      macs: share of the multiplications that removing channels leaves, before training on.
      bits: of the weights while training on; 0 for floats.
      taught: whether it is trained on with a teacher.
      trained_as: the row whose trained network this is, if not its own.
    """

    name: str
    quantization: str = "none"
    sparsity: int = 0
    macs: float = 1.0
    bits: int = 0
    taught: bool = False
    trained_as: str = ""

    @property
    def folder(self) -> str:
        """Where its runs lie."""
        return "".join(c if c.isalnum() else "-" for c in self.trained_as or self.name)


ROWS = (
    Row("dense"),
    Row("50 % of weights", sparsity=50),
    Row("80 % of weights", sparsity=80),
    Row("90 % of weights", sparsity=90),
    Row("30 % of MACs removed", macs=0.7),
    Row("50 % of MACs removed", macs=0.5),
    Row("int8, after training", "int8", trained_as="dense"),
    Row("int8, trained", "qat", bits=8),
    Row("int4 weights, trained", "int4", bits=4),
    Row("50 % of MACs removed, int8 trained", "qat", macs=0.5, bits=8),
    Row("50 % of MACs removed, int8 trained, distilled", "qat", macs=0.5, bits=8, taught=True),
)


class Study(NamedTuple):
    """What all rows share.

    Attributes:
      model: the run, or the .safetensors file, to start from.
      teacher: of the rows with one.
      distil: whether all rows have one.
      runs: folder of the rows' runs.
      epochs: of each row's training.
      batch_size: of it.
      data_dir: where prepared data lie.
      passes: timed inferences.
    """

    model: pathlib.Path
    teacher: pathlib.Path
    distil: bool
    runs: pathlib.Path
    epochs: int
    batch_size: int
    data_dir: str | None
    passes: int

    @property
    def training(self) -> str:
        """What each row gets, in words."""
        return f"{self.epochs} {'epoch' if self.epochs == 1 else 'epochs'}{', distilled' if self.distil else ''}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    parser.add_argument("--results", type=pathlib.Path, default=tables.RESULTS, help="folder of compression.json")
    options = parser.parse_args(argv)
    if min(options.epochs, options.batch_size, options.seeds, options.passes) < 1:
        raise errors.InputError("epochs, batch size, seeds and passes must be positive")
    names = [row.name for row in ROWS]
    for name in options.rows or ():
        if name not in names:
            raise errors.unknown("row", name, names)
    network = weights.load(options.model).spec.architecture
    study = Study(
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
    command = f"python -m benchmarks.compression {shlex.join(argv if argv is not None else sys.argv[1:])}"
    for seed in range(options.seeds):
        for row in ROWS:
            if row.name not in (options.rows or names) and row.name != "dense":
                continue
            try:
                one(row, seed, study)
            except errors.InputError as error:  # a file that fails the gate is a result, too
                if row is ROWS[0]:
                    raise  # what all others are compared with
                cli.note(f"{row.name}, seed {seed}: {error}")
                continue
            found = summary(row, study, seeds=seed + 1) | {
                "network": network,
                "training": study.training,
                "name": f"{network}, {study.training}: {row.name}",
            }
            result = tables.save(
                "compression", COLUMNS, [found], command=command, packages=PACKAGES, results=options.results
            )
    print(tables.render(result))


def _claim(study: Study) -> None:
    """Marks the folder of the rows as this study's, so that no other takes its rows for its own.

    Raises:
      InputError: if it is another's.
    """
    starts = {"model": study.model} | ({"teacher": study.teacher} if study.teacher != study.model else {})
    ours = {name: weights.load(path).spec.params_sha256 for name, path in starts.items()}
    ours |= {"training": study.training, "batch_size": study.batch_size}
    path = study.runs / "study.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(ours, indent=1) + "\n")
        os.replace(part, path)
    theirs = json.loads(path.read_text())
    if other := [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]:
        raise errors.InputError(
            f"{study.runs} holds rows of another study (another {', '.join(other)}): give another --runs"
        )


def one(row: Row, seed: int, study: Study) -> None:
    """Trains, exports and measures a row with one seed, unless it is there already."""
    folder = study.runs / row.folder / f"seed{seed}"
    path = _path(row, seed, study)
    if path.exists():
        return
    cli.note(f"{row.name}, seed {seed}")
    train(row, seed, folder / "run", study)
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
    dense = study.runs / ROWS[0].folder / f"seed{seed}" / "files-none"
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
    part = path.with_suffix(".part")
    part.write_text(json.dumps(measured))
    part.rename(path)


def train(row: Row, seed: int, workdir: pathlib.Path, study: Study) -> None:
    """Trains a row's network on from the run, slimmed first where the row says so; a finished one is left as it is.

    What is slimmed and trained in integers gets the first half of its epochs in floats: integers come with folded
    normalisations, without which a network that was cut hardly recovers.
    """
    row = next(other for other in ROWS if other.name == (row.trained_as or row.name))
    start = study.model
    if row.macs < 1:
        start = study.runs / f"slim-{row.macs:g}"
        if not (start / "compress.json").exists():
            compress.compress(study.model, start, compress.Wish(macs=row.macs), data_dir=study.data_dir)
    if row.macs < 1 and row.bits:
        if study.epochs < 2:
            raise errors.InputError("it needs 2 epochs: one in floats, one in integers")
        floats, integers = workdir.with_name("floats"), study.epochs // 2
        _train(row._replace(bits=0), seed, start, floats, study._replace(epochs=study.epochs - integers))
        start, study = floats, study._replace(epochs=integers)
    _train(row, seed, start, workdir, study)


def _train(row: Row, seed: int, start: pathlib.Path, workdir: pathlib.Path, study: Study) -> None:
    config = recipe(row, seed, start, study)
    options = {"workdir": workdir, "data_dir": study.data_dir, "name": f"benchmarks/compression.py, {row.name}"}
    if row.taught or study.distil:
        experiment.distill(config, teachers=[study.teacher], **options)
    else:
        experiment.train(config, **options)


def recipe(row: Row, seed: int, start: pathlib.Path, study: Study) -> dict[str, Any]:
    """Returns the configuration that trains a row: one of configs/compress, its epochs scaled to the study's."""
    if row.bits:
        config = qat.get_config("int4" if row.bits == 4 else None)
    elif row.sparsity:
        config = prune.get_config(f"s{row.sparsity}")
    else:
        config = finetune.get_config()
    spec = weights.load(study.model).spec
    made = config.to_dict()
    made["data"] = {"name": spec.dataset, **spec.dataset_args}
    made["init"]["pretrained" if start.suffix == single_file.SUFFIX else "workdir"] = str(start)
    share = study.epochs / made["fit"]["epochs"]
    for group, key in (("optim", "warmup_epochs"), ("prune", "ramp_epochs"), ("quant", "freeze_epochs")):
        made[group][key] *= share
    made["fit"].update(epochs=study.epochs, batch_size=study.batch_size, seed=seed)
    if row.taught or study.distil:
        made["loss"].update(label_smoothing=0.0, alpha=0.7, temperature=4.0)
    return made


def summary(row: Row, study: Study, *, seeds: int) -> dict[str, Any]:
    """Returns the row of the table from the results of its seeds, of those that have one."""
    passed = [seed for seed in range(seeds) if _path(row, seed, study).exists()]
    found = [_result(row, seed, study) for seed in passed]
    dense = [_result(ROWS[0], seed, study) for seed in passed]
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


def _path(row: Row, seed: int, study: Study) -> pathlib.Path:
    return study.runs / row.folder / f"seed{seed}" / f"result-{row.quantization}.json"


def _result(row: Row, seed: int, study: Study) -> dict[str, Any]:
    return json.loads(_path(row, seed, study).read_text())


def _change(ours: Mapping[str, Any], dense: Mapping[str, Any]) -> tuple[float, float, float]:
    """Returns accuracy minus the dense file's in points, with the paired 95 % interval."""
    labels, first, second = (np.array(v) for v in (ours["labels"], dense["answers"], ours["answers"]))
    found = intervals.paired_bootstrap(labels, first, second, ours["classes"])["accuracy"]
    return 100 * float(found.value), 100 * float(found.low), 100 * float(found.high)


if __name__ == "__main__":
    cli.run(main)

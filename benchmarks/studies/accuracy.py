"""Measures accuracy, size and speed of a trained model, as a row of the results.

    python -m benchmarks.studies.accuracy --model runs/resnet20 --command "python train.py …"
    python -m benchmarks.studies.accuracy --model runs/mini/seed0 runs/mini/seed1 runs/mini/seed2 \
        --file exports/mini/mini_xception_qat.tflite --command "python train.py …"

Scores the exported file, or the best checkpoint of the run if none is given, on validation, the split that selected the
epoch: it is no test figure, and the table says so. Writes results/fer2013.jsonl; another data set has a file of its own
name. Several runs are seeds of one recipe: the file is exported from the first, the others count in the mean over
seeds, which is that of the checkpoints. A row is replaced by a later one of the same configuration and kind.
"""

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from configs import microexpnet, tormalm, valverde
from ferjax import cli, errors, weights
from ferjax import spec as contract
from ferjax.evaluate import scoring
from ferjax.evaluate.benchmark import measuring
from ferjax.spec import ModelSpec
from ferjax.train import objective, run_folder
from ferjax.weights import checkpoint
from tools import tables

COLUMNS = [
    ("network", "{network}"),
    ("teachers", "{how}"),
    ("epochs", "{epochs}"),
    ("file", "{quantization}, {bytes:,.0fk} kB"),
    ("accuracy % (95 %)", "{accuracy:.2f} ({low:.1f} … {high:.1f})"),
    ("without duplicates %", "{own:.2f}"),
    ("macro-F1", "{macro_f1:.3f}"),
]
QUANTIZATIONS = {
    "none": "float32",
    "qat": "int8 (QAT)",
    "int8": "int8 (PTQ)",
    "dynamic": "int8 (dynamic)",
}
PACKAGES = ("jax", "flax", "optax", "ai-edge-litert", "onnxruntime")
# Tormalm's ResNet-18 from scratch, MicroExpNet with its VGGFace2 teacher, Valverde's mini-Xception.
PAPERS = {
    "resnet18": tormalm.PAPER["full"],
    "microexpnet": microexpnet.PAPER["full"],
    "mini_xception": valverde.PAPER[""],
}


def row(
    runs: Sequence[pathlib.Path], *, file: pathlib.Path | None = None, how: str = "", data_dir: str | None = None
) -> dict[str, Any]:
    """Returns everything but the latency of a model: what is scored is the file, or else the first run's best epoch.

    Args:
      runs: --workdirs of the seeds of one recipe.
      file: exported from the first.
      how: the teachers, in words; from the configuration if not given.
      data_dir: where prepared data lies.

    Raises:
      InputError: if a run or file cannot be read, they do not belong together, or the time of training is not known.
    """
    (spec, _), meta = checkpoint.read(runs[0])
    if file is not None and (told := contract.read(file)).params_sha256 != spec.params_sha256:
        raise errors.InputError(
            f"{file} was exported from {told.source_run}, {told.params_sha256[:12]}…, not from {runs[0]}, "
            f"{spec.params_sha256[:12]}…"
        )
    scored = scoring.evaluate(file or runs[0], data_dir=data_dir)
    how = how or teachers(meta["config"])
    quantization = (contract.read(file) if file else spec).quantization
    quantization = QUANTIZATIONS.get(quantization, quantization)
    scores = [_best(run, spec) for run in runs]
    own = scored.get("without_twins")
    interval = scored["intervals"]["accuracy"]
    return {
        "name": ", ".join((spec.source_run, spec.architecture, how, quantization)),
        "network": spec.architecture,
        "how": how,
        "quantization": quantization,
        "file": file.name if file else None,
        "parameters": spec.parameters,
        "accuracy": 100 * scored["accuracy"],
        "low": 100 * interval[1],
        "high": 100 * interval[2],
        "own": 100 * own["accuracy"] if own else None,
        "own_low": 100 * own["interval"][0] if own else None,
        "own_high": 100 * own["interval"][1] if own else None,
        "mean": statistics.mean(scores) if len(scores) > 1 else None,
        "spread": statistics.stdev(scores) if len(scores) > 1 else None,
        "seeds": len(scores),
        "each": scores,
        "macro_f1": scored["macro_f1"],
        "ece": scored["calibration"]["ece"],
        "paper": PAPERS.get(spec.architecture) if spec.dataset == "fer2013" else None,
        "bytes": file.stat().st_size if file else None,
        "epochs": epochs(runs[0]),
        "best_epoch": meta["step"] // meta["history"][0]["step"],
        "minutes": minutes(runs[0]),
        "seed": meta["config"]["fit"]["seed"],
        "confusion": scored["confusion"],
        "n": scored["n"],
    }


def teachers(config: Mapping[str, Any]) -> str:
    """Returns the names of the teachers that a model learned from, or "none (labels only)"."""
    loss, workdirs = config.get("loss", {}), config.get("teacher", {}).get("workdirs")
    taught = workdirs and objective.uses_teacher(loss.get("method", "soft"), loss.get("alpha"))
    return ", ".join(pathlib.Path(each).stem for each in workdirs) if taught else "none (labels only)"


def epochs(run: pathlib.Path) -> str:
    """Returns the epochs of a run, those of its start before them, such as "60 + 30"; a file does not know its own."""
    _, meta = checkpoint.read(run, "last")
    asked, done = meta["config"]["fit"]["epochs"], len(meta["history"])
    text = f"{done}" if done == asked else f"{done} of {asked}"
    init = meta["config"].get("init", {})
    start = init.get("workdir") or init.get("pretrained")
    if not start:
        return text
    before = pathlib.Path(start)
    return f"{epochs(before) if (before / 'last').is_dir() else '?'} + {text}"


def latency(file: pathlib.Path, *, passes: int = 1000) -> dict[str, float]:
    """Returns the median and the 95th percentile of one image's milliseconds on two threads."""
    (found,) = measuring.measure([measuring.Contender(file, "cpu")], threads=2, passes=passes)
    return {"p50": found["p50_ms"], "p95": found["p95_ms"]}


def _best(run: pathlib.Path, spec: ModelSpec) -> float:
    """Returns the accuracy in percent by which a run's epoch was selected."""
    theirs = weights.load(run).spec
    if theirs.architecture != spec.architecture:
        raise errors.InputError(
            f"{run} holds {theirs.architecture}, the first run {spec.architecture}: no seeds of one"
        )
    return validated(theirs, run)


def validated(spec: ModelSpec, run: pathlib.Path) -> float:
    """Returns a run's accuracy on validation in percent.

    Raises:
      InputError: if it was stopped before its first epoch ended.
    """
    if "validation" not in spec.accuracy:
        raise errors.InputError(f"{run} has no epoch that ended: train it on")
    return 100 * spec.accuracy["validation"]


def minutes(run: pathlib.Path) -> float:
    """Returns how long a run's epochs took, see `run_folder.training_seconds`."""
    _, meta = checkpoint.read(run, "last")
    images = meta["history"][0]["step"] * meta["config"]["fit"]["batch_size"]
    return run_folder.training_seconds(run, images) / 60


def main(argv: Sequence[str] | None = None) -> None:
    parser = tables.arguments(__doc__)
    parser.add_argument("--model", type=pathlib.Path, nargs="+", required=True, help="--workdirs, one per seed")
    parser.add_argument("--file", type=pathlib.Path, help="exported from the first; it is scored and timed then")
    parser.add_argument("--how", default="", help="the teachers, in words; from the configuration if not given")
    parser.add_argument("--data-dir", help="where prepared data lies")
    parser.add_argument("--command", required=True, help="the command that trained it, for the record")
    parser.add_argument("--passes", type=int, default=1000, help="timed inferences of the file")
    options = parser.parse_args(argv)
    found = row(options.model, file=options.file, how=options.how, data_dir=options.data_dir)
    if options.file is not None:
        found |= latency(options.file, passes=options.passes)
    dataset = weights.load(options.model[0]).spec.dataset
    table = tables.save(dataset, COLUMNS, [found], command=options.command, packages=PACKAGES, results=options.results)
    print(tables.render(table))


if __name__ == "__main__":
    cli.run(main)

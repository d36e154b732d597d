"""Exports every network in every format and compares each file with Flax.

    python -m benchmarks.studies.export_matrix --models resnet20 mini_xception

Each network of the registry is trained on the embedded faces by the demo's recipe for a few minutes (a run that is
there is taken as it is), exported in all its formats and quantizations, reloaded and compared. Writes
results/export.jsonl and the tables of docs/export.md; files that fail are named there too.
"""

import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from configs import resnet20
from ferjax import cli, data, export, models, weights
from ferjax.export import pipeline
from ferjax.models.costs import cost
from ferjax.train import experiment
from tools import tables

PAGE = tables.ROOT / "docs" / "export.md"
PACKAGES = ("jax", "flax", "tensorflow-cpu", "tf2onnx", "onnxruntime", "ai-edge-litert")
_HEAVY = 100_000_000  # multiplications of one image, above which one epoch has to do
# Depthwise networks, transformers, the smallest and the largest learn little from the demo's 2,000 faces, and answers
# that are nearly ties flip with any rounding; and 500 faces seldom tell a change of accuracy by one point from none.
_FACES, _HELD = 12_000, 2_000
# Epochs, learning rate and batch: at a higher rate, transformers learn nothing and the others diverge at some faces;
# ResEmoteNet, which takes half an hour an epoch, has small batches, for more steps.
_LONGER = {
    "baseline_cnn3": (10, 0.003, 32),
    "mini_xception": (10, 0.003, 32),
    "microexpnet": (25, 0.001, 32),
    "mobilenetv3_small": (15, 0.001, 32),
    "efficientnet_lite0": (6, 0.001, 32),
    "deit": (15, 0.0002, 32),
    "resnet50": (6, 0.001, 32),
    "resemotenet": (1, 0.0005, 16),
}
COLUMNS = [
    ("network", "{network}"),
    ("file", "{format} {quantization}"),
    ("bytes", "{bytes:,}"),
    ("equal answers %", "{percent_agreement:.2f}"),
    ("difference in accuracy, points (95 %)", "{accuracy_difference:+.2f} ({low:+.2f} … {high:+.2f})"),
    ("ms, 2 threads", "{milliseconds:.2f}"),
    ("passes", "{verdict}"),
]


def main() -> None:
    parser = tables.arguments(__doc__)
    parser.add_argument("--models", nargs="+", default=models.list_models(), help="names; all if not given")
    parser.add_argument(
        "--runs", type=pathlib.Path, default=pathlib.Path("runs/export_matrix"), help="trained networks"
    )
    parser.add_argument("--data-dir", help="where the rendered faces are kept")
    options = parser.parse_args()
    for name in options.models:
        start = time.perf_counter()
        workdir = options.runs / name
        experiment.train(recipe(name), workdir=workdir, data_dir=options.data_dir, name="configs/resnet20.py:demo")
        rows = list(measure(workdir, options.data_dir))
        command = "python -m benchmarks.studies.export_matrix"
        made = {"command": command, "packages": PACKAGES, "results": options.results}
        table = tables.save("export", COLUMNS, rows, whole="network", **made)
        refused = sum(row["verdict"] != "yes" for row in rows)
        cli.note(f"{name}: {len(rows)} files, {refused} refused, {time.perf_counter() - start:.0f} s")
        if options.results == tables.RESULTS:
            tables.update(PAGE, tables.RESULTS)
    print(tables.render(table))


def recipe(name: str) -> dict[str, Any]:
    """Returns the demo's configuration for a network.

    Raises:
      InputError: if there is no such network.
    """
    config = resnet20.get_config("demo")
    config.model.name = name
    shape = (config.data.size, config.data.size, config.data.channels)
    if longer := [given for start, given in _LONGER.items() if name.startswith(start)]:
        config.data.update(train=_FACES, validation=_HELD)
        config.fit.epochs, config.optim.learning_rate, config.fit.batch_size = longer[0]
    elif cost(models.for_export(models.create(name)), shape).macs > _HEAVY:
        config.fit.epochs, config.optim.learning_rate = 1, 0.001
    return config.to_dict()


def measure(workdir: pathlib.Path, data_dir: str | None) -> Iterator[dict[str, Any]]:
    """Yields one row of the table for each file of a trained network."""
    network = weights.load(workdir)
    spec = network.spec
    faces = data.load(spec.dataset, data_dir=data_dir, **spec.dataset_args)
    with tempfile.TemporaryDirectory() as folder:
        results = pipeline.export_network(network, faces, export.choose(spec), pathlib.Path(folder))
    for result in results:
        found = pipeline.record(result)
        low, high = found["difference_interval"]
        verdict = "no: " + "; ".join(found["faults"]) if found["faults"] else "yes"
        more = {"percent_agreement": 100 * found["agreement"], "percent": 100 * found["accuracy"]}
        yield {"name": result.file, "network": spec.architecture, **found, **more} | {
            "low": low,
            "high": high,
            "verdict": verdict,
        }


if __name__ == "__main__":
    cli.run(main)

"""Accuracy of a trained model as a row of the results: python -m benchmarks.accuracy --model WORKDIR.

Scores the best checkpoint on validation, the split that selected it, and writes results/fer2013.json (for FER2013; any
other data set gets a file of its own name). The table says so: it is no test figure.
"""

import argparse
import json
import pathlib

from benchmarks import tables
from ferjax import checkpoint, cli, evaluate

COLUMNS = [
    ("network", "{network}"),
    ("parameters", "{parameters:,}"),
    ("accuracy % (validation, selected on it)", "{accuracy:.2f}"),
    ("without twins in training", "{own:.2f}"),
    ("macro-F1", "{macro_f1:.3f}"),
    ("epochs", "{epochs}"),
    ("training, minutes", "{minutes:.0f}"),
    ("seed", "{seed}"),
]
PACKAGES = ("jax", "flax", "optax")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=pathlib.Path, required=True, help="the --workdir of a training run")
    parser.add_argument("--data-dir", help="where prepared data lies")
    parser.add_argument("--command", required=True, help="the command that trained it, for the record")
    options = parser.parse_args()
    spec, _, meta = checkpoint.load(options.model)
    scored = evaluate.evaluate(options.model, data_dir=options.data_dir)
    _, _, last = checkpoint.load(options.model, "last")
    timing = options.model / "timing.jsonl"
    if not timing.exists():
        raise cli.InputError(f"{timing} is missing: the time that training took is not known")
    seconds = sum(json.loads(line)["seconds"] for line in timing.read_text().splitlines())
    row = {
        "name": spec.source_run,
        "network": spec.architecture,
        "parameters": spec.parameters,
        "accuracy": 100 * scored["accuracy"],
        "own": 100 * scored["without_twins"]["accuracy"] if "without_twins" in scored else None,
        "macro_f1": scored["macro_f1"],
        "epochs": len(last["history"]),
        "best_epoch": scored["step"] // (last["history"][0]["step"]),
        "minutes": seconds / 60,
        "seed": meta["config"]["fit"]["seed"],
        "confusion": scored["confusion"],
        "n": scored["n"],
    }
    result = tables.save(spec.dataset, COLUMNS, [row], command=options.command, packages=PACKAGES)
    print(tables.render(result))


if __name__ == "__main__":
    cli.run(main)

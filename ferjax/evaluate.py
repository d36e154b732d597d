"""Evaluation of a trained model: python -m ferjax.evaluate --model WORKDIR --split validation --out DIR.

Every image of the split counts exactly once. The test split is read only when it is asked for by name.
"""

import argparse
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ferjax import checkpoint, cli, data, metrics, models, report, training
from ferjax.spec import ModelSpec

SPLITS = ("train", "validation", "test", "test_all")


def evaluate(
    model: pathlib.Path | str,
    *,
    split: str = "validation",
    dataset: str | None = None,
    data_dir: pathlib.Path | str | None = None,
    kind: str = "best",
    batch_size: int = 256,
) -> dict[str, Any]:
    """Scores a checkpoint on one split.

    Args:
      model: the --workdir of a training run.
      split: "train", "validation", "test" or "test_all".
      dataset: a prepared data set; the one that the model was trained on if not given.
      data_dir: where prepared data sets lie.
      kind: "best" or "last" checkpoint.
      batch_size: images per forward pass.

    Returns:
      What `metrics.summary` returns, and `model`, `dataset`, `split`, `step`; where the data marks exact copies of
      training images, also `without_twins`: accuracy and n over the other images.

    Raises:
      InputError: if model, data and split do not fit together.
    """
    if split not in SPLITS:
        raise cli.unknown("split", split, SPLITS)
    spec, variables, meta = checkpoint.load(model, kind)
    same = dataset is None or dataset == spec.dataset
    faces = data.load(
        dataset or spec.dataset, data_dir=data_dir, splits=(split,), **(spec.dataset_args if same else {})
    )
    check_fit(spec, faces)
    chosen = faces.splits[split]
    logits = predict(spec, variables, chosen.images, batch_size=batch_size)
    predictions, classes = logits.argmax(1), len(spec.class_names)
    summary = metrics.summary(metrics.confusion(chosen.labels, predictions, classes), spec.class_names)
    twins = chosen.columns.get("twin_in_train")
    if twins is not None and twins.any() and not twins.all():
        own = ~twins.astype(bool)
        counts = metrics.confusion(chosen.labels[own], predictions[own], classes)
        summary["without_twins"] = {"accuracy": metrics.accuracy(counts), "n": int(own.sum())}
    return {"model": str(model), "dataset": faces.name, "split": split, "step": meta["step"], **summary}


def predict(spec: ModelSpec, variables: Any, images: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
    """Runs the network that a spec describes over uint8 images (N, H, W, C), in float32.

    Returns:
      float32 logits (N, classes), each image once.

    Raises:
      InputError: for an empty split, or logits that are not finite.
    """
    module = models.create(spec.architecture, num_classes=len(spec.class_names), **spec.architecture_args)
    step = training.make_eval_step(module.apply, mean=spec.mean, std=spec.std)
    logits = training.predict(step, variables, images, batch_size=batch_size)
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(1).sum())
        raise cli.InputError(f"the model gives non-finite logits for {bad} of {len(logits)} images: its file is broken")
    return logits


def check_fit(spec: ModelSpec, faces: data.FaceData) -> None:
    """Checks that a model can be scored on a data set.

    Raises:
      InputError: if classes or image shape differ.
    """
    if tuple(faces.class_names) != spec.class_names:
        raise cli.InputError(
            f"the model's classes are {', '.join(spec.class_names)}, those of {faces.name} are "
            f"{', '.join(faces.class_names)}: evaluate on data with the same classes"
        )
    if faces.image_shape != spec.input_shape:
        raise cli.InputError(
            f"the model takes images of shape {spec.input_shape}, {faces.name} holds {faces.image_shape}: "
            "prepare the data at that size and colour"
        )


def save(result: dict[str, Any], out: pathlib.Path) -> None:
    """Writes metrics.json and confusion.png into a folder, made if missing."""
    out.mkdir(parents=True, exist_ok=True)
    part = out / "metrics.json.part"
    part.write_text(json.dumps(result, indent=1))
    os.replace(part, out / "metrics.json")
    report.plot_confusion(np.array(result["confusion"]), list(result["per_class"]), out / "confusion.png")


def main(argv: Sequence[str] | None = None) -> None:
    """Scores a model and prints and saves the result."""
    parser = argparse.ArgumentParser(prog="python -m ferjax.evaluate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True, help="the --workdir of a training run")
    parser.add_argument("--data", help="a prepared data set; the one the model was trained on if not given")
    parser.add_argument("--data-dir", help="where prepared data lies; $FERJAX_DATA or the cache if not given")
    parser.add_argument("--split", default="validation", help=", ".join(SPLITS))
    parser.add_argument("--out", type=pathlib.Path, help="folder for metrics.json and confusion.png")
    parser.add_argument("--checkpoint", default="best", choices=checkpoint.KINDS)
    parser.add_argument("--batch-size", type=int, default=256)
    options = parser.parse_args(argv)
    if options.batch_size < 1:
        raise cli.InputError(f"--batch-size must be at least 1, got {options.batch_size}")
    result = evaluate(
        options.model,
        split=options.split,
        dataset=options.data,
        data_dir=options.data_dir,
        kind=options.checkpoint,
        batch_size=options.batch_size,
    )
    print(metrics.classification_report(result))
    if "without_twins" in result:
        twins = result["without_twins"]
        print(f"accuracy without images that have an exact copy in training: {twins['accuracy']:.3f} ({twins['n']})")
    if options.out is not None:
        save(result, options.out)
        print(f"saved {options.out / 'metrics.json'} and confusion.png")


if __name__ == "__main__":
    cli.run(main)

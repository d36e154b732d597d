"""Builds the sections of a report: overview, comparison, and a chapter per model."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ferjax import cli, data, weights
from ferjax.data.prepare.contact_sheets import Tile, contact_sheet, save
from ferjax.evaluate import calibration, grad_cam, robustness, scoring
from ferjax.evaluate.benchmark import tables
from ferjax.evaluate.metrics import best_row
from ferjax.evaluate.predictor import Scorer
from ferjax.evaluate.report import plots
from ferjax.runtime.show.page import Block, Code, Figure, Heading, Table, Text
from ferjax.weights import checkpoint

MISTAKES = 40


class Measured(NamedTuple):
    """A model and its results on a split.

    Attributes:
      scorer: the model.
      result: from `scoring.score`, with `robustness` if measured.
      logits: (N, classes) on the split.
    """

    scorer: Scorer
    result: dict[str, Any]
    logits: np.ndarray


def measure(scorer: Scorer, faces: data.Split, *, dataset: str, split: str, corrupted: bool) -> Measured:
    """Evaluates a model on a split and, if `corrupted`, on corrupted images."""
    logits = scorer.logits(faces.images)
    result = scoring.score(scorer, faces, logits, dataset=dataset, split=split)
    if corrupted:
        result["robustness"] = robustness.measure(scorer.logits, faces, trained=scorer.spec.trained_corruptions)
    return Measured(scorer, result, logits)


def overview(models: Sequence[Measured]) -> list[Block]:
    """Returns the table of all models with a note on the split."""
    rows = []
    for scorer, result, _ in models:
        spec = scorer.spec
        path = pathlib.Path(scorer.name)
        size = f"{path.stat().st_size / 1e6:.3f}" if path.is_file() else f"{4 * spec.parameters / 1e6:.3f} (float32)"
        low, high = result["intervals"]["accuracy"][1:]
        own, robust = result.get("without_twins"), result.get("robustness")
        rows.append(
            [
                scorer.name,
                spec.architecture,
                spec.quantization,
                f"{spec.parameters:,}",
                size,
                f"{100 * result['accuracy']:.2f} ({100 * low:.1f} to {100 * high:.1f})",
                f"{100 * own['accuracy']:.2f}" if own else "–",
                f"{result['macro_f1']:.3f}",
                f"{result['calibration']['ece']:.3f}",
                f"{100 * robust['mean']:.1f}" if robust else "–",
            ]
        )
    header = ["model", "network", "quantization", "parameters", "MB", "accuracy % (95 %)", "without duplicates %"]
    note = (
        f"{models[0].result['n']:,} images of the {models[0].result['split']} split of {models[0].result['dataset']}, "
        "single crop. Duplicates are exact copies of training images. The epoch of each run was selected on the "
        "validation split, so results on that split are biased upward."
    )
    return [Text(note), Table([*header, "macro-F1", "calibration error", "corrupted %"], rows)]


def comparison(models: Sequence[Measured], labels: np.ndarray) -> list[Block]:
    """Returns the paired comparison of the models."""
    names = models[0].scorer.spec.class_names
    answers = {m.scorer.name: m.logits.argmax(1) for m in models if m.scorer.spec.class_names == names}
    rows = []
    for pair in scoring.compare(labels, answers, len(names)):
        gain, low, high = pair["difference"]["accuracy"]
        rows.append(
            [
                pair["second"],
                pair["first"],
                f"{100 * gain:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})",
                f"{pair['second_only']} / {pair['first_only']}",
                f"{pair['p_value']:.3g}",
            ]
        )
    header = ["model", "against", "accuracy, points (95 %)", "correct in only one of them", "McNemar p"]
    return [Heading(2, "Comparison on the same images"), Table(header, rows)] if rows else []


def timings(path: pathlib.Path) -> list[Block]:
    """Returns the table of a benchmark.csv."""
    header, *rows = tables.cells(tables.read_csv(path))
    return [Heading(2, "Size and latency"), Table(header, rows)]


def chapter(measured: Measured, faces: data.Split, out: pathlib.Path, number: int) -> list[Block]:
    """Returns the chapter on one model and writes its figures into a folder."""
    scorer, result, logits = measured
    names = scorer.spec.class_names
    stem = f"{number}_{pathlib.Path(scorer.name).stem}"
    blocks: list[Block] = [Heading(2, scorer.name)]
    if pathlib.Path(scorer.name).is_dir():
        blocks += _training(scorer, out / f"{stem}_curves.png")
    plots.plot_confusion(np.array(result["confusion"]), names, out / f"{stem}_confusion.png")
    plots.plot_f1(result["per_class"], out / f"{stem}_f1.png")
    blocks += [
        Heading(3, "Accuracy by class"),
        _per_class(result["per_class"]),
        Figure(out / f"{stem}_f1.png", "F1 by class"),
        Figure(out / f"{stem}_confusion.png", "Confusion matrix; rows are true classes"),
    ]
    blocks += _groups(result)
    probabilities = calibration.softmax(logits, scorer.spec.temperature)
    caption = f"T = {scorer.spec.temperature:.2f}"
    bins = {caption: calibration.reliability(probabilities, faces.labels)}
    curve = calibration.coverage(probabilities, faces.labels)
    plots.plot_reliability(bins, curve, out / f"{stem}_reliability.png")
    blocks += [
        Heading(3, "Calibration"),
        Figure(out / f"{stem}_reliability.png", "Reliability, confidences, and accuracy against coverage"),
    ]
    if "robustness" in result:
        plots.plot_robustness(result["robustness"], out / f"{stem}_robustness.png")
        clean, qin = result["robustness"]["clean"], result["robustness"]["qin"]
        blocks += [
            Heading(3, "Robustness"),
            Text(f"Clean {clean:.1%}, with Qin's perturbation {qin:.1%}, on {result['robustness']['n']} images."),
            Figure(out / f"{stem}_robustness.png", "Accuracy by corruption and severity"),
        ]
    _mistakes(probabilities, faces, names, out / f"{stem}_mistakes.png")
    blocks += [
        Heading(3, "Errors"),
        Figure(out / f"{stem}_mistakes.png", "Errors of the highest confidence: prediction, then label"),
    ]
    return blocks


def attention(
    scorer: Scorer, faces: data.Split, predictions: np.ndarray, out: pathlib.Path, number: int
) -> list[Block]:
    """Returns the Grad-CAM sheets of a checkpoint and the share of heat in each region."""
    network = weights.load(scorer.name)
    found = grad_cam.write_sheets(network, faces, predictions, out / f"{number}_gradcam", samples=50, seed=0)
    rows = [[name, *(f"{100 * share:.1f}" for share in shares.values())] for name, shares in found["shares"].items()]
    sheets = [Figure(path, f"Grad-CAM, {path.stem.removeprefix('gradcam_')}") for path in found["sheets"]]
    return [
        Heading(3, "Grad-CAM"),
        Text("Share of the heat in each region of the face, percent, over correctly classified faces."),
        Table(["class", *grad_cam.REGIONS], rows),
        *sheets,
    ]


def _training(scorer: Scorer, curves: pathlib.Path) -> list[Block]:
    _, meta = checkpoint.read(scorer.name, "last")  # the history of the best checkpoint ends at its own epoch
    history = meta["history"]
    spec, config = scorer.spec, meta["config"]
    seed = config.get("fit", {}).get("seed", 0)
    drawn, epochs = [], "0"  # a compressed run, or one that was stopped in its first epoch
    if history:
        plots.plot_curves(history, curves)
        drawn = [Figure(curves, "Loss, accuracy, learning rate")]
        epochs = f"{len(history)}; best on validation: epoch {best_row(history)['epoch']}"
    facts = [
        ["epochs", epochs],
        ["configuration", spec.source_run],
        ["seed", str(seed)],
        ["parameters", f"{spec.parameters:,}"],
        ["SHA-256 of the variables", spec.params_sha256],
        ["SHA-256 of the data", spec.dataset_sha256],
        ["ferjax", spec.ferjax_version],
        ["license", spec.license],
    ]
    return [
        Heading(3, "Training"),
        Table(["", ""], facts),
        *drawn,
        Text("Resolved configuration:"),
        Code(json.dumps(config, sort_keys=True)),
    ]


def _per_class(per_class: Mapping[str, Mapping[str, float]]) -> Table:
    rows = [
        [name, f"{s['precision']:.3f}", f"{s['recall']:.3f}", f"{s['f1']:.3f}", f"{s['support']:,}"]
        for name, s in per_class.items()
    ]
    return Table(["class", "precision", "recall", "F1", "images"], rows)


def _groups(result: Mapping[str, Any]) -> list[Block]:
    rows = [
        [column, name, f"{100 * g['value']:.1f} ({100 * g['low']:.1f} to {100 * g['high']:.1f})", f"{g['n']:,}"]
        for column, groups in result.get("groups", {}).items()
        for name, g in groups.items()
    ]
    header = ["group", "", "accuracy % (95 %)", "images"]
    return [Heading(3, "By group of people"), Table(header, rows)] if rows else []


def _mistakes(probabilities: np.ndarray, faces: data.Split, names: Sequence[str], path: pathlib.Path) -> None:
    predictions, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predictions != faces.labels)
    if not len(wrong):
        cli.note("the model makes no error on this split")
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    tiles = [Tile(faces.images[i], f"{names[predictions[i]]}\nnot {names[faces.labels[i]]}") for i in worst]
    rows = [("", tiles[i : i + 8]) for i in range(0, len(tiles), 8)]
    save(contact_sheet(f"{len(worst)} of {len(wrong):,} errors on {len(faces.labels):,} images", rows), path)

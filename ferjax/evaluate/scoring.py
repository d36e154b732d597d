"""Evaluates trained models: `ferjax evaluate --model MODEL… --split validation --out DIR`.

Checkpoints and exported files run the same code on the same pixels. Each image of the split counts once. The test
split is read by `--split test` only.
"""

import argparse
import hashlib
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ferjax import augment, cli, data, errors, folders
from ferjax.evaluate import calibration, corruptions, intervals, metrics, open_set, report, robustness
from ferjax.evaluate.predictor import Scorer, left_out, load_split, open_model
from ferjax.weights import checkpoint

Result = dict[str, Any]


def evaluate(
    model: pathlib.Path | str | Scorer,
    *,
    split: str = "validation",
    dataset: str | None = None,
    data_dir: pathlib.Path | str | None = None,
    kind: str = "best",
    batch_size: int = 256,
) -> Result:
    """Evaluates a model on one split.

    Args:
      model: a workdir, a .safetensors file, an exported file, or an opened model.
      split: see `load_split`.
      dataset: see `load_split`.
      data_dir: see `load_split`.
      kind: "best" or "last" checkpoint.
      batch_size: images per forward pass.

    Returns:
      `metrics.summary`, and `model`, `dataset`, `split`, `step`, `intervals` (95 %, bootstrap) and `calibration`;
      if the data marks exact copies of training images, `without_twins`: accuracy, interval and n without them; if
      the data names groups of people, `groups`; if it has votes, `votes` (`calibration.vote_scores`).

    Raises:
      InputError: if the model, the data and the split do not fit together.
    """
    scorer = model if isinstance(model, Scorer) else open_model(model, kind=kind, batch_size=batch_size)
    chosen = load_split(scorer.spec, split, dataset=dataset, data_dir=data_dir)
    return score(scorer, chosen, scorer.logits(chosen.images), dataset=dataset or scorer.spec.dataset, split=split)


def score(scorer: Scorer, faces: data.Split, logits: np.ndarray, *, dataset: str, split: str) -> Result:
    """Returns the result of `evaluate` from the logits (N, classes) of a split."""
    names, predictions = scorer.spec.class_names, logits.argmax(1)
    counts = metrics.confusion(faces.labels, predictions, len(names))
    summary = {**metrics.summary(counts, names), "intervals": _shown(intervals.bootstrap(counts))}
    probabilities = calibration.softmax(logits, scorer.spec.temperature)
    summary["calibration"] = {
        "temperature": scorer.spec.temperature,
        **calibration.scores(probabilities, faces.labels),
    }
    if "votes" in faces.columns:
        summary["votes"] = calibration.vote_scores(probabilities, faces.columns["votes"])
    copies = faces.columns.get("twin_in_train")
    if copies is not None and copies.any() and not copies.all():
        own = ~copies.astype(bool)
        apart = metrics.confusion(faces.labels[own], predictions[own], len(names))
        found = intervals.bootstrap(apart)["accuracy"]
        summary["without_twins"] = {"accuracy": found.value, "interval": [found.low, found.high], "n": int(own.sum())}
    if groups := _groups(faces, predictions, data.groups(dataset)):
        summary["groups"] = groups
    return {"model": scorer.name, "dataset": dataset, "split": split, "step": scorer.step, **summary}


def _groups(
    faces: data.Split, predictions: np.ndarray, groups: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Returns the accuracy with its 95 % interval (Wilson) for each group of people."""
    found: dict[str, dict[str, Any]] = {}
    for column, names in groups.items():
        if column in faces.columns:
            correct, member = predictions == faces.labels, faces.columns[column]
            found[column] = {
                name: {
                    **intervals.wilson(int(correct[member == i].sum()), int((member == i).sum()))._asdict(),
                    "n": int((member == i).sum()),
                }
                for i, name in enumerate(names)
                if (member == i).any()
            }
    return found


def test_time_average(scorer: Scorer, images: data.Images, kind: str) -> np.ndarray:
    """Returns probabilities (N, classes) averaged over the views "flip" or "ten" (`augment.views`), as uint8 images."""
    total = np.zeros((len(images), len(scorer.spec.class_names)))
    count = 0
    for start in range(0, len(images), 512):
        part = slice(start, start + 512)
        floats = np.asarray(augment.views(augment.to_float(jnp.asarray(images[part])), kind=kind))
        count = len(floats)
        for view in floats:
            pixels = np.rint(view * 255).astype(np.uint8)
            total[part] += calibration.softmax(scorer.logits(pixels), scorer.spec.temperature)
    return total / count


def compare(labels: np.ndarray, answers: Mapping[str, np.ndarray], num_classes: int) -> list[dict[str, Any]]:
    """Compares all pairs of models on the same images.

    Args:
      labels: (N,) true classes.
      answers: model -> predictions (N,).
      num_classes: C.

    Returns:
      For each pair, `first`, `second`, `difference` (second minus first, with 95 % intervals of the paired bootstrap)
      and the fields of `intervals.McNemar`.
    """
    rows = []
    for (one, first), (other, second) in itertools.combinations(answers.items(), 2):
        difference = intervals.paired_bootstrap(labels, first, second, num_classes)
        test = intervals.mcnemar(labels, first, second)
        rows.append({"first": one, "second": other, "difference": _shown(difference), **test._asdict()})
    return rows


def save(result: Result, out: pathlib.Path) -> None:
    """Writes metrics.json, confusion.png and, if measured, robustness.png to a folder, created if missing."""
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "metrics.json", result)
    report.plot_confusion(np.array(result["confusion"]), list(result["per_class"]), out / "confusion.png")
    if "robustness" in result:
        report.plot_robustness(result["robustness"], out / "robustness.png")
    else:
        (out / "robustness.png").unlink(missing_ok=True)  # from an earlier evaluation


def _write(path: pathlib.Path, value: Any) -> None:
    with folders.atomic_file(path) as part:
        part.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _shown(found: Mapping[str, intervals.Interval]) -> dict[str, list[float]]:
    return {name: list(interval) for name, interval in found.items()}


def _text(result: Mapping[str, Any]) -> str:
    """Returns the results of one model as text."""
    lines = [metrics.classification_report(result)]
    for name, (_, low, high) in result["intervals"].items():
        lines.append(f"{name.replace('_', ' ')} 95 % interval {low:.3f} to {high:.3f}")
    if "without_twins" in result:
        own = result["without_twins"]
        lines.append(f"accuracy without exact copies of training images: {own['accuracy']:.3f} ({own['n']})")
    lines.append(
        f"calibration error {result['calibration']['ece']:.3f} at T = {result['calibration']['temperature']:g}"
    )
    if "votes" in result:
        lines.append(
            f"against the votes: KL {result['votes']['kl']:.3f}, calibration error {result['votes']['ece']:.3f}"
        )
    if "test_time_average" in result:
        average = result["test_time_average"]
        value, low, high = average["accuracy"]
        lines.append(f"accuracy averaged over views ({average['views']}): {value:.3f} (95 % {low:.3f} to {high:.3f})")
    for column, groups in result.get("groups", {}).items():
        each = (
            f"{name} {g['value']:.3f} ({g['low']:.3f} to {g['high']:.3f}, n {g['n']})" for name, g in groups.items()
        )
        lines.append(f"accuracy by {column}: {', '.join(each)}")
    for kind, found in result.get("open_set", {}).items():
        if isinstance(found, dict):
            lines.append(
                f"faces against {kind.replace('_', ' ')}: AUROC {found['auroc']:.3f} "
                f"(mean confidence {result['open_set']['faces']:.2f} and {found['confidence']:.2f})"
            )
    if "robustness" in result:
        lines.append(robustness.table(result["robustness"]))
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Runs `ferjax evaluate`."""
    options = _options(argv)
    results: list[Result] = []
    answers: dict[str, np.ndarray] = {}
    seen: list[tuple[Any, ...]] = []
    for scorer in [open_model(m, kind=options.checkpoint, batch_size=options.batch_size) for m in options.model]:
        faces = load_split(scorer.spec, options.split, dataset=options.data, data_dir=options.data_dir)
        logits = scorer.logits(faces.images)
        result = score(scorer, faces, logits, dataset=options.data or scorer.spec.dataset, split=options.split)
        result |= _optional(scorer, faces, options)
        seen.append((scorer.spec.class_names, *_digests(faces)))
        if options.robustness and results and seen[-1] == seen[0]:
            result["robustness"] |= _relative(result["robustness"]["accuracy"], results[0])
        print(f"{scorer.name}\n{_text(result)}\n" if len(options.model) > 1 else _text(result))
        results.append(result)
        answers[scorer.name] = logits.argmax(1)
    pairs: list[dict[str, Any]] = []
    if len(set(seen)) > 1:
        cli.note("the models are not compared: they have different images or classes")
    elif len(seen) > 1:
        pairs = compare(faces.labels, answers, len(seen[0][0]))
    for pair in pairs:
        gain, low, high = pair["difference"]["accuracy"]
        print(
            f"{pair['second']} against {pair['first']}: accuracy {gain:+.4f} (95 % {low:+.4f} to {high:+.4f}), "
            f"McNemar p = {pair['p_value']:.3g}"
        )
    if options.out is not None:
        for number, result in enumerate(results):
            name = f"{number}_{pathlib.Path(result['model']).stem}"
            save(result, options.out if len(results) == 1 else options.out / name)
        if pairs:
            _write(options.out / "comparison.json", pairs)
        print(f"saved {options.out}")


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser("evaluate", __doc__)
    cli.add_model(parser, several=True)
    cli.add_data(parser)
    cli.add_split(parser)
    cli.add_out(parser, "folder for metrics.json and the figures", required=False)
    parser.add_argument("--checkpoint", default="best", choices=checkpoint.KINDS, help="(default: best)")
    parser.add_argument("--batch-size", type=int, default=256, help="images per forward pass (default: 256)")
    parser.add_argument("--tta", choices=["flip", "ten"], help="test-time average over views, reported separately")
    parser.add_argument("--robustness", action="store_true", help="accuracy on corrupted images")
    parser.add_argument("--open-set", action="store_true", help="out-of-distribution detection by confidence")
    parser.add_argument("--full", action="store_true", help="corrupt all images (default: a stratified 1,000)")
    options = parser.parse_args(argv)
    if options.out is not None:
        folders.check_out(options.out)
    if options.batch_size < 1:
        raise errors.InputError(f"--batch-size must be at least 1, got {options.batch_size}")
    if options.full and not options.robustness:
        raise errors.InputError("--full requires --robustness")
    if repeated := [model for model in options.model if options.model.count(model) > 1]:
        raise errors.InputError(f"--model names {repeated[0]} twice")
    return options


def _optional(scorer: Scorer, faces: data.Split, options: argparse.Namespace) -> Result:
    """Returns the results of --tta, --open-set and --robustness."""
    result: Result = {}
    if options.tta:
        averaged = test_time_average(scorer, faces.images, options.tta).argmax(1)
        counts = metrics.confusion(faces.labels, averaged, len(scorer.spec.class_names))
        result["test_time_average"] = {"views": options.tta, **_shown(intervals.bootstrap(counts))}
    if options.open_set:
        unknown = left_out(scorer.spec, options.split, dataset=options.data, data_dir=options.data_dir)
        result["open_set"] = open_set.measure(
            scorer.logits, faces.images, temperature=scorer.spec.temperature, unknown=unknown
        )
    if options.robustness:
        result["robustness"] = robustness.measure(
            scorer.logits, faces, trained=scorer.spec.trained_corruptions, full=options.full
        )
    return result


def _relative(accuracy: Mapping[str, Sequence[float]], first: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the mean corruption error relative to the first model; {} with a note if that makes no error."""
    wrong, reference = (
        {kind: [1 - value for value in values] for kind, values in each.items()}
        for each in (accuracy, first["robustness"]["accuracy"])
    )
    try:
        mean = corruptions.mean_corruption_error(wrong, reference)
    except errors.InputError as error:
        cli.note(f"no mean corruption error relative to {first['model']}: {error}")
        return {}
    return {"relative_to": first["model"], "mean_corruption_error": mean}


def _digests(faces: data.Split) -> tuple[str, str]:
    """Returns the hashes of the labels and of the first 64 images, to tell splits apart."""
    labels, first = (hashlib.sha256(np.asarray(part).tobytes()) for part in (faces.labels, faces.images[:64]))
    return labels.hexdigest(), first.hexdigest()

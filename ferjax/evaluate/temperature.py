"""Calibrates confidences: `ferjax calibrate --model MODEL… [--accuracy 0.8] [--out DIR]`.

Fits a temperature and an abstention threshold on one half of the validation split, reports them on the other half, and
stores them in the spec of the model. The temperature changes no prediction.
"""

import json
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from ferjax import cli, errors, folders
from ferjax import spec as specs
from ferjax.data import subsets
from ferjax.evaluate import calibration, report
from ferjax.evaluate.predictor import FILES, load_split, open_model
from ferjax.weights import checkpoint, single_file


def halves(labels: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of two halves of a split, drawn by seed and stratified by class."""
    chosen = subsets.by_class(labels, np.bincount(labels) // 2, subsets.drawn(seed))
    return chosen, np.setdiff1d(np.arange(len(labels)), chosen)


def calibrate(
    logits: np.ndarray, labels: np.ndarray, *, accuracy: float = 0.0, threshold: float = 0.0, seed: int = 0
) -> dict[str, Any]:
    """Fits a temperature and an abstention threshold on one half of a split and measures both on the other half.

    Args:
      logits: (N, C).
      labels: (N,) true classes.
      accuracy: target accuracy of the answered images; 0 keeps `threshold`.
      threshold: current abstention threshold.
      seed: seed of the halves.

    Returns:
      `temperature`, `threshold`, `fitted_on` and `reported_on` (numbers of images), `before` and `after`
      (`calibration.scores` on the second half) and `abstention`: `coverage` and `accuracy` there.

    Raises:
      InputError: if a half is empty, or no threshold reaches the accuracy.
    """
    if not 0 <= accuracy < 1:
        raise errors.InputError(f"--accuracy must be in [0, 1), got {accuracy}")
    fit, rest = halves(labels, seed=seed)
    if not len(fit) or not len(rest):
        raise errors.InputError(f"calibration requires two images of a class, got {cli.counted(len(labels), 'image')}")
    temperature = calibration.fit_temperature(logits[fit], labels[fit])
    if accuracy:
        curve = calibration.coverage(calibration.softmax(logits[fit], temperature), labels[fit])
        if (found := curve.abstention(accuracy)) is None:
            raise errors.InputError(
                f"no threshold reaches --accuracy {accuracy:g}: the maximum is {curve.accuracy.max():.3f}"
            )
        threshold = found[0]
    before, after = (calibration.softmax(logits[rest], t) for t in (1.0, temperature))
    answered = after.max(axis=1) >= threshold
    correct = after.argmax(axis=1) == labels[rest]
    return {
        "temperature": temperature,
        "threshold": threshold,
        "fitted_on": len(fit),
        "reported_on": len(rest),
        "seed": seed,
        "before": calibration.scores(before, labels[rest]),
        "after": calibration.scores(after, labels[rest]),
        "abstention": {
            "coverage": float(answered.mean()),
            "accuracy": float(correct[answered].mean()) if answered.any() else None,
        },
    }


def store(model: pathlib.Path | str, *, temperature: float, threshold: float) -> None:
    """Stores temperature and abstention threshold in the spec of a run, a .safetensors or an exported file."""
    path = pathlib.Path(model)
    if path.suffix.lower() in FILES:
        specs.embed(path, specs.read(path).replace(temperature=temperature, abstention_threshold=threshold))
        card = path.with_name(f"{path.name}.md")
        if card.exists():
            command = shlex.join(["ferjax", "card", str(path), "--out", str(card)])
            cli.note(f"{card} is outdated; next: {command}")
    elif path.suffix == single_file.SUFFIX:
        network = single_file.load(path)
        calibrated = network.spec.replace(temperature=temperature, abstention_threshold=threshold)
        single_file.save(path, network._replace(spec=calibrated))
    else:
        checkpoint.calibrate(path, temperature=temperature, abstention_threshold=threshold)


def main(argv: Sequence[str]) -> None:
    """Runs `ferjax calibrate`."""
    parser = cli.parser("calibrate", __doc__)
    cli.add_model(parser, several=True)
    cli.add_data(parser)
    parser.add_argument(
        "--accuracy",
        type=float,
        help="target accuracy; images of lower confidence become 'uncertain'; 0 never abstains "
        "(default: keep the threshold)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the halves (default: 0)")
    cli.add_out(parser, "folder for calibration.json and reliability.png", required=False)
    options = parser.parse_args(argv)
    if options.seed < 0:
        raise errors.InputError(f"--seed must be 0 or more, got {options.seed}")
    results: dict[str, dict[str, Any]] = {}
    scorers = {name: open_model(name) for name in options.model}
    if options.out is not None:
        folders.check_out(options.out)
        options.out.mkdir(parents=True, exist_ok=True)
    for name, scorer in scorers.items():
        faces = load_split(scorer.spec, "validation", dataset=options.data, data_dir=options.data_dir)
        logits = scorer.logits(faces.images)
        threshold = scorer.spec.abstention_threshold if options.accuracy is None else 0.0
        result = calibrate(
            logits, faces.labels, accuracy=options.accuracy or 0.0, threshold=threshold, seed=options.seed
        )
        results[name] = result
        print(_text(name, result))
        if options.out is not None:
            rest = halves(faces.labels, seed=options.seed)[1]
            suffix = f"_{len(results) - 1}" if len(options.model) > 1 else ""
            path = options.out / f"reliability{suffix}.png"
            _plot(logits[rest], faces.labels[rest], result["temperature"], path)
    for name, result in results.items():  # after all models were calibrated without an error
        store(name, temperature=result["temperature"], threshold=result["threshold"])
    if options.out is not None:
        with folders.atomic_file(options.out / "calibration.json") as part:
            part.write_text(json.dumps(results, indent=1), encoding="utf-8")
        print(f"saved {options.out}")


def _plot(logits: np.ndarray, labels: np.ndarray, temperature: float, path: pathlib.Path) -> None:
    before, after = (calibration.softmax(logits, t) for t in (1.0, temperature))
    diagrams = {
        "T = 1": calibration.reliability(before, labels),
        f"T = {temperature:.2f}": calibration.reliability(after, labels),
    }
    report.plot_reliability(diagrams, calibration.coverage(after, labels), path)


def _text(name: str, result: dict[str, Any]) -> str:
    before, after, given = result["before"], result["after"], result["abstention"]
    lines = [
        f"{name}: temperature {result['temperature']:.3f}, fitted on "
        f"{cli.counted(result['fitted_on'], 'image')}; on the other {result['reported_on']}:",
        f"  calibration error {before['ece']:.4f} -> {after['ece']:.4f}, Brier score {before['brier']:.4f} -> "
        f"{after['brier']:.4f}, log-likelihood {-before['nll']:.4f} -> {-after['nll']:.4f}",
    ]
    if result["threshold"]:
        lines.append(
            f"  abstention threshold {result['threshold']:.3f}: coverage {given['coverage']:.1%}, "
            f"accuracy {given['accuracy'] or 0.0:.1%}"
        )
    return "\n".join(lines)

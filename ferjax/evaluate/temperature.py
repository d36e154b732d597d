"""Calibrates confidences: `ferjax calibrate --model MODEL… [--accuracy 0.8] [--out DIR]`.

Temperature and abstention threshold are fitted on one half of the validation split, reported on the other, and stored
into the model's contract: beside the checkpoints of a run, inside an exported file. The temperature changes no answer.
"""

import json
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from ferjax import cli, errors, folders, spec
from ferjax.data import subsets
from ferjax.evaluate import calibration, report
from ferjax.evaluate.predictor import FILES, load_split, open_model
from ferjax.weights import checkpoint, single_file


def halves(labels: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of two halves of a split, drawn by seed, each class divided evenly between them."""
    chosen = subsets.by_class(labels, np.bincount(labels) // 2, subsets.drawn(seed))
    return chosen, np.setdiff1d(np.arange(len(labels)), chosen)


def calibrate(
    logits: np.ndarray, labels: np.ndarray, *, accuracy: float = 0.0, threshold: float = 0.0, seed: int = 0
) -> dict[str, Any]:
    """Fits a temperature and an abstention threshold on one half of a split and reports both on the other half.

    Args:
      logits: (N, C).
      labels: (N,) true classes.
      accuracy: wanted among the answers that are given; 0 fits no threshold, but keeps the one given.
      threshold: confidence below which the model abstains so far.
      seed: of the division.

    Returns:
      `temperature`, `threshold`, `fitted_on` and `reported_on` (numbers of images),
      `before` and `after` (each `ece, ece_adaptive, brier, nll` on the reporting half) and `abstention`: `coverage`
      and `accuracy` of the answers given there.

    Raises:
      InputError: if a half is empty, or no threshold reaches the wanted accuracy.
    """
    if not 0 <= accuracy < 1:
        raise errors.InputError(f"the wanted accuracy must be in [0, 1), got {accuracy}")
    fit, rest = halves(labels, seed=seed)
    if not len(fit) or not len(rest):
        raise errors.InputError(f"{len(labels)} images are too few: a class needs two to be divided")
    temperature = calibration.fit_temperature(logits[fit], labels[fit])
    if accuracy:
        curve = calibration.coverage(calibration.softmax(logits[fit], temperature), labels[fit])
        if (found := curve.abstention(accuracy)) is None:
            raise errors.InputError(
                f"no threshold reaches an accuracy of {accuracy:g}: the most certain answers are right in "
                f"{curve.accuracy.max():.3f} of the cases; ask for less"
            )
        threshold = found[0]
    before, after = (calibration.softmax(logits[rest], t) for t in (1.0, temperature))
    answered = after.max(axis=1) >= threshold
    right = after.argmax(axis=1) == labels[rest]
    return {
        "temperature": temperature,
        "threshold": threshold,
        "fitted_on": len(fit),
        "reported_on": len(rest),
        "seed": seed,
        "before": _scores(before, labels[rest]),
        "after": _scores(after, labels[rest]),
        "abstention": {
            "coverage": float(answered.mean()),
            "accuracy": float(right[answered].mean()) if answered.any() else None,
        },
    }


def _scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return {
        "ece": calibration.reliability(probabilities, labels).error(),
        "ece_adaptive": calibration.reliability(probabilities, labels, adaptive=True).error(),
        "brier": calibration.brier(probabilities, labels),
        "nll": calibration.negative_log_likelihood(probabilities, labels),
    }


def store(model: pathlib.Path | str, *, temperature: float, threshold: float) -> None:
    """Writes temperature and abstention threshold into the contract of a run or an exported file, in one step."""
    path = pathlib.Path(model)
    if path.suffix.lower() in FILES:
        contract = spec.read(path)
        spec.embed(path, contract.replace(temperature=temperature, abstention_threshold=threshold))
        beside = path.with_name(f"{path.name}.md")
        if beside.exists():
            command = shlex.join(["ferjax", "card", str(path), "--out", str(beside)])
            cli.note(f"{beside} describes it as it was; next: {command}")
    elif path.suffix == single_file.SUFFIX:
        network = single_file.load(path)
        calibrated = network.spec.replace(temperature=temperature, abstention_threshold=threshold)
        single_file.save(path, network._replace(spec=calibrated))
    else:
        checkpoint.calibrate(path, temperature=temperature, abstention_threshold=threshold)


def main(argv: Sequence[str]) -> None:
    """Calibrates models, prints what it changed, and draws the reliability diagram."""
    parser = cli.parser("calibrate", __doc__)
    cli.add_model(parser, several=True)
    cli.add_data(parser)
    parser.add_argument(
        "--accuracy",
        type=float,
        help="wanted among the answers given; others become 'uncertain'. 0 answers always; kept as it is if not given",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the division into halves")
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
            after = calibration.softmax(logits[rest], result["temperature"])
            diagrams = {
                "as trained": calibration.reliability(calibration.softmax(logits[rest]), faces.labels[rest]),
                f"T = {result['temperature']:.2f}": calibration.reliability(after, faces.labels[rest]),
            }
            suffix = f"_{len(results) - 1}" if len(options.model) > 1 else ""
            curve = calibration.coverage(after, faces.labels[rest])
            report.plot_reliability(diagrams, curve, options.out / f"reliability{suffix}.png")
    for name, result in results.items():  # when all of them could be done
        store(name, temperature=result["temperature"], threshold=result["threshold"])
    if options.out is not None:
        with folders.atomic_file(options.out / "calibration.json") as part:
            part.write_text(json.dumps(results, indent=1))
        print(f"saved {options.out}")


def _text(name: str, result: dict[str, Any]) -> str:
    before, after, given = result["before"], result["after"], result["abstention"]
    lines = [
        f"{name}: temperature {result['temperature']:.3f}, fitted on {result['fitted_on']} images; on the other "
        f"{result['reported_on']}:",
        f"  calibration error {before['ece']:.4f} -> {after['ece']:.4f}, Brier score {before['brier']:.4f} -> "
        f"{after['brier']:.4f}, log-likelihood {-before['nll']:.4f} -> {-after['nll']:.4f}",
    ]
    if result["threshold"]:
        lines.append(
            f"  answers only from a confidence of {result['threshold']:.3f}: {given['coverage']:.1%} of the images, "
            f"{given['accuracy'] or 0.0:.1%} of them right"
        )
    return "\n".join(lines)

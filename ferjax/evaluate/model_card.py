"""Writes model cards in Markdown: `ferjax card FILE --out CARD.md`.

After Mitchell et al., "Model Cards for Model Reporting" (2019). All figures are measured; a missing measurement is
marked "Not measured".
"""

import json
import os
import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ferjax import cli, errors, folders
from ferjax import spec as specs
from ferjax.evaluate.benchmark import tables
from ferjax.spec import ModelSpec

_TIES = 5  # images whose prediction may differ between machines
INTENDED = """Research and teaching on facial expression recognition, and applications whose users know of the camera
and consent to it. The model classifies the expression of a face in one image. An expression does not show what a person
feels.

Do not use it for decisions about people, such as hiring, grading, credit, insurance, policing or lie detection."""

LAW = """**European Union:** inferring people's emotions at workplaces and in education is prohibited, except for
medical or safety reasons (Regulation (EU) 2024/1689, the AI Act, Article 5(1)(f), which applies since 2 February 2025).
Elsewhere, emotion recognition is a high-risk use (Annex III), and the people in front of the camera must be informed
(Article 50(3)). Images of faces are personal data. This note is not legal advice."""

USE = """```python
import cv2, ferjax.runtime

model = ferjax.runtime.load("{model}")
print(model.predict(cv2.imread("face.jpg")))  # one cropped face; label, confidence, probabilities
```"""


def write(spec: ModelSpec, out_path: str | os.PathLike[str], measured: Mapping[str, Any]) -> None:
    """Writes the card of an exported file.

    Args:
      spec: the spec of the file.
      out_path: the Markdown file.
      measured: any of `file` (its name), `bytes`; `model` (argument of `ferjax.runtime.load`, if not the file),
        `weights` (name of the .safetensors file), `training` (its length), `commands` (lines that rebuild the file);
        `held_out` (scores on a test split, in words); `evaluation` (metrics.json of `ferjax evaluate`); `benchmark`
        (rows of benchmark.csv). Other numbers, texts, pairs of numbers and mappings of these are listed under "Checks
        at export".
    """
    sections = [
        _head(spec, measured),
        ("Intended use", f"{INTENDED}\n\n{LAW}"),
        ("Data and license", _data(spec)),
        ("Accuracy", _accuracy(spec, measured)),
        ("Robustness", _robustness(measured)),
        ("Speed and memory", _speed(measured)),
        ("Checks at export", _checks(measured)),
        ("Limits", _limits(spec, measured)),
        ("Use", _use(measured)),
        ("Origin", _origin(spec, measured)),
    ]
    text = "\n\n".join(
        f"{'#' if level == 0 else '##'} {title}\n\n{body}" for level, (title, body) in enumerate(sections)
    )
    with folders.atomic_file(out_path) as part:
        part.write_text(text + "\n", encoding="utf-8", errors="replace")


def _head(spec: ModelSpec, measured: Mapping[str, Any]) -> tuple[str, str]:
    title = measured.get("file") or f"{spec.architecture}, {spec.quantization}"
    height, width, _ = spec.input_shape
    facts = {
        "network": spec.architecture + "".join(f", {k} {v}" for k, v in spec.architecture_args.items()),
        "classes": ", ".join(spec.class_names),
        "input": f"one cropped face, {width}×{height} pixels, {spec.color_order}; (p / 255 − mean) / std with mean "
        f"{_numbers(spec.mean)}, std {_numbers(spec.std)}",
        "quantization": spec.quantization,
        "images per run": {0: "any number", 1: None}.get(spec.batch_size, spec.batch_size),
        "runtime": f"{spec.least_runtime} or newer" if spec.least_runtime else None,
        "parameters": f"{spec.parameters:,}" if spec.parameters else None,
        "multiply-accumulates": f"{spec.macs:,} per image" if spec.macs else None,
        "size": f"{measured['bytes']:,} bytes" if "bytes" in measured else None,
    }
    lines = [f"- **{name}:** {value}" for name, value in facts.items() if value]
    return f"Model card: {title}", "Facial expression recognition from one image of a face.\n\n" + "\n".join(lines)


def _data(spec: ModelSpec) -> str:
    if not spec.dataset:
        return f"The spec names no training data. {spec.license}".rstrip()
    options = "".join(f", {k} {v}" for k, v in spec.dataset_args.items())
    parts = [f"Trained on `{spec.dataset}`{options}. {spec.license}".rstrip()]
    if spec.dataset == "synthetic_faces":
        parts.append("**These faces are rendered: the figures do not apply to photographs.**")
    hashes = {"all arrays": spec.dataset_sha256, **spec.split_sha256}
    parts.append("\n".join(f"- SHA-256 of {name}: `{value}`" for name, value in hashes.items() if value))
    return "\n\n".join(filter(None, parts))


def _accuracy(spec: ModelSpec, measured: Mapping[str, Any]) -> str:
    parts = ["\n".join(f"- {split}: {value:.1%}" for split, value in spec.accuracy.items())]
    if "held_out" in measured:
        parts.append(f"Held-out test: {measured['held_out']}")
    if evaluation := measured.get("evaluation"):
        parts.append(
            f"On {evaluation['n']:,} images of {evaluation.get('dataset', spec.dataset)}, split "
            f"{evaluation.get('split', 'unknown')}: accuracy {evaluation['accuracy']:.1%}, macro-F1 "
            f"{evaluation['macro_f1']:.3f}, weighted F1 {evaluation['weighted_f1']:.3f}."
            f"{_more(evaluation, spec.dataset)}"
        )
        keys = ("precision", "recall", "f1")
        rows = [[n, *(f"{s[k]:.3f}" for k in keys), f"{s['support']:,}"] for n, s in evaluation["per_class"].items()]
        parts.append(_table(["class", "precision", "recall", "F1", "images"], rows))
    return "\n\n".join(filter(None, parts)) or "Not measured."


def _more(evaluation: Mapping[str, Any], dataset: str) -> str:
    """Returns sentences on the interval, near duplicates, calibration and split of an evaluation."""
    sentences = []
    if "intervals" in evaluation:
        _, low, high = evaluation["intervals"]["accuracy"]
        sentences.append(f"The 95 % interval of the accuracy is {low:.1%} to {high:.1%}.")
    if "without_twins" in evaluation:
        own = evaluation["without_twins"]
        sentences.append(f"On the {own['n']:,} images without an exact copy in training: {own['accuracy']:.1%}.")
    if "calibration" in evaluation:
        sentences.append(f"Expected calibration error: {evaluation['calibration']['ece']:.3f}.")
    if evaluation.get("split") == "validation" and evaluation.get("dataset", dataset) == dataset:
        sentences.append("**The epoch was selected on this split: these are not test results.**")
    return "".join(f" {sentence}" for sentence in sentences)


def _robustness(measured: Mapping[str, Any]) -> str:
    found = measured.get("evaluation", {}).get("robustness")
    if not found:
        return "Not measured."
    severities = range(1, 1 + max(map(len, found["accuracy"].values())))
    rows = [
        [kind, *(f"{value:.1%}" for value in values), f"{statistics.mean(values):.1%}"]
        for kind, values in found["accuracy"].items()
    ]
    text = (
        f"Accuracy on {found['n']:,} images: {found['clean']:.1%} clean, {found['mean']:.1%} corrupted (mean), "
        f"{found['qin']:.1%} with the perturbation of Qin (2025)."
    )
    if "trained" in found:
        text += (
            f" Training images had the corruptions {', '.join(found['trained'])}: mean {found['trained_mean']:.1%}; "
            f"mean of the others {found['untrained_mean']:.1%}."
        )
    text += " By corruption and severity:"
    return f"{text}\n\n{_table(['corruption', *map(str, severities), 'mean'], rows)}"


def _speed(measured: Mapping[str, Any]) -> str:
    rows = measured.get("benchmark", ())
    keys = ("runtime", "provider", "threads", "load_ms", "p50_ms", "p95_ms", "p99_ms", "memory_opencv")
    headings = ["runtime", "provider", "threads", "load ms", "p50 ms", "p95 ms", "p99 ms", "memory MB, with OpenCV"]
    if not rows:
        return "Not measured; run `ferjax benchmark FILE`."

    def cell(key: str, value: Any) -> str:
        if value in (None, ""):
            return "–"
        if key.endswith("_ms"):
            return f"{float(value):.2f}"
        return f"{float(value) / 1e6:.0f}" if "memory" in key else str(value)

    return _table(headings, [[cell(key, row.get(key)) for key in keys] for row in rows])


def _checks(measured: Mapping[str, Any]) -> str:
    known = {"file", "bytes", "model", "weights", "training", "commands", "held_out", "evaluation", "benchmark"}
    lines = list(_listed({k: v for k, v in measured.items() if k not in known}))
    return "\n".join(lines) or "None recorded."


def _listed(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        label = prefix + str(name).replace("_", " ")
        if isinstance(value, Mapping):
            yield from _listed(value, f"{label}, ")
        elif isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(v, float) for v in value):
            yield f"- {label}: {value[0]:.4g} to {value[1]:.4g}"
        elif isinstance(value, float):
            yield f"- {label}: {value:.4g}"
        elif isinstance(value, str | int) and value != "":
            yield f"- {label}: {value}"


def _limits(spec: ModelSpec, measured: Mapping[str, Any]) -> str:
    lines = [
        "It sees one image at a time: no context, voice or motion.",
        "It knows the classes above only and assigns one of them to any image"
        + ("." if not spec.abstention_threshold else ', or "uncertain".'),
        "Accuracy by age, skin color or sex, and with glasses or a beard, was not measured.",
        "Its confidence is calibrated: a temperature was fitted on validation data."
        if spec.temperature != 1
        else "Its confidence is not calibrated.",
    ]
    if spec.abstention_threshold:
        lines.append(f'It returns "uncertain" below a confidence of {spec.abstention_threshold:g}.')
    scores = measured.get("evaluation", {}).get("per_class", {})
    if scores:
        worst = min(scores, key=lambda name: scores[name]["f1"])
        lines.append(f"Weakest class: {worst}, recall {scores[worst]['recall']:.1%}, F1 {scores[worst]['f1']:.3f}.")
    if not measured.get("evaluation", {}).get("robustness"):
        lines.append("Noise, blur, darkness, masks and head poses were not tested.")
    else:
        lines.append("Noise, blur and darkness were simulated; head poses were not tested.")
    return "\n".join(f"- {line}" for line in lines)


def _use(measured: Mapping[str, Any]) -> str:
    use = USE.format(model=measured.get("model") or measured.get("file", "FILE"))
    if "weights" not in measured:
        return use
    return f"{use}\n\nTo fine-tune its float weights: `--config.init.pretrained={measured['weights']}`."


def _origin(spec: ModelSpec, measured: Mapping[str, Any]) -> str:
    facts = {
        "run": spec.source_run,
        "training": measured.get("training", ""),
        "SHA-256 of the variables": spec.params_sha256,
        "ferjax": spec.ferjax_version,
    }
    lines = "\n".join(f"- {name}: `{value}`" for name, value in facts.items() if value)
    commands = "\n".join(measured.get("commands", ()))
    return f"{lines}\n\nMade by\n\n```\n{commands}\n```" if commands else lines


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (headings, ["---"] * len(headings), *rows))


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def main(argv: Sequence[str]) -> None:
    """Runs `ferjax card`."""
    parser = cli.parser("card", "Writes the model card of an exported file.")
    parser.add_argument("file", metavar="FILE", type=pathlib.Path, help=".tflite or .onnx file of `ferjax export`")
    cli.add_out(parser, "Markdown file (default: FILE.md)", required=False)
    parser.add_argument("--evaluation", type=pathlib.Path, help="metrics.json of `ferjax evaluate`")
    parser.add_argument("--benchmark", type=pathlib.Path, help="benchmark.csv of `ferjax benchmark`")
    options = parser.parse_args(argv)
    if options.out is not None and options.out.suffix.lower() != ".md":
        raise errors.InputError(f"--out must be a .md file, got {options.out}")
    spec, name = specs.read(options.file), options.file.name
    measured: dict[str, Any] = {**read_export(options.file), "file": name, "bytes": options.file.stat().st_size}
    if options.evaluation is not None:
        measured["evaluation"] = _read_evaluation(options.evaluation, spec)
    if options.benchmark is not None:
        measured["benchmark"] = read_benchmark(options.benchmark, name)
    out = options.out or options.file.with_name(f"{name}.md")
    write(spec, out, measured)
    print(f"saved {out}")


def read_benchmark(path: pathlib.Path, name: str) -> list[dict[str, Any]]:
    """Returns the rows of a benchmark.csv for the file of this name.

    Raises InputError if there is no such table, or it contains several files of this name.
    """
    rows = [row for row in tables.read_csv(path) if pathlib.Path(row["file"]).name == name]
    if len(found := sorted({row["file"] for row in rows})) > 1:
        raise errors.InputError(f"{path} has several files named {name}: {', '.join(found)}; benchmark one of them")
    return rows


def read_export(path: pathlib.Path) -> Mapping[str, Any]:
    """Returns the entry of a file in the export.json beside it, or {}; raises InputError if that is malformed."""
    record = path.with_name("export.json")
    if not record.is_file():
        return {}
    try:
        entries = json.loads(record.read_text(encoding="utf-8"))["files"]
        return next((entry for entry in entries if entry["file"] == path.name), {})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise errors.InputError(f"{record} was not written by ferjax export: {error}") from error


def _read_evaluation(path: pathlib.Path, spec: ModelSpec) -> Any:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not text
        raise errors.InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict) or tuple(values.get("per_class", ())) != spec.class_names:
        raise errors.InputError(f"{path} must have the classes of the model: {', '.join(spec.class_names)}")
    scored, known = values.get("accuracy"), spec.accuracy.get(str(values.get("split")))
    same_data = values.get("dataset", spec.dataset) == spec.dataset
    if not isinstance(scored, float):
        raise errors.InputError(f"{path} has no accuracy: give the metrics.json of ferjax evaluate")
    if same_data and known is not None and abs(scored - known) > _TIES / max(values.get("n", 1), 1):
        raise errors.InputError(f"{path} belongs to another model: accuracy {scored:.4f}, the spec has {known:.4f}")
    return values

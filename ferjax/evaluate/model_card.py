"""Model cards: what a file is, how it did and what it is for, in Markdown: ferjax card FILE --out CARD.md.

After Mitchell et al., "Model Cards for Model Reporting" (2019). Every figure is one that was measured; what was not
measured is said to be so.
"""

import json
import os
import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ferjax import cli, errors, folders
from ferjax import spec as contract
from ferjax.evaluate.benchmark import tables
from ferjax.spec import ModelSpec

_TIES = 5  # images whose answer may be another one on another machine
INTENDED = """Research and teaching on facial expression recognition, and applications in which people know of the
camera and have agreed to it. The model names the expression that a face shows in one picture. What a person feels does
not follow from that: people smile without joy and are sad without showing it.

Do not use it to decide about people: not for hiring, marks, credit, insurance, policing or lie detection."""

LAW = """**European Union:** inferring people's emotions at workplaces and in education is prohibited, except for
medical or safety reasons (Regulation (EU) 2024/1689, the AI Act, Article 5(1)(f), which applies since 2 February 2025).
Elsewhere emotion recognition is a high-risk use (Annex III), and the people in front of the camera must be told of it
(Article 50(3)). Pictures of faces are personal data. This note is no legal advice."""

USE = """```python
import cv2, ferjax.runtime

model = ferjax.runtime.load("{model}")
print(model.predict(cv2.imread("face.jpg")))  # one cropped face; label, confidence, probabilities
```"""


def write(spec: ModelSpec, out_path: str | os.PathLike[str], measured: Mapping[str, Any]) -> None:
    """Writes the card of an exported file.

    Args:
      spec: the file's contract.
      out_path: the Markdown file to write, in one step.
      measured: any of `file` (its name), `bytes`; `model` (what `ferjax.runtime.load` takes, if not the file),
        `weights` (the name of a file to train on from), `training` (how long, in words), `commands` (lines that make it
        again); `evaluation` (metrics.json of `ferjax.evaluate.scoring`: accuracy, macro_f1, per_class, n, split,
        dataset, robustness where it was measured); `benchmark` (rows as in benchmark.csv).
        Further names with a number, a text or a flat mapping, such as those of the parity check, are listed as they
        are; two numbers as an interval.
    """
    sections = [
        _head(spec, measured),
        ("Intended use", f"{INTENDED}\n\n{LAW}"),
        ("Data and licence", _data(spec)),
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
        part.write_text(text + "\n", encoding="utf-8")


def _head(spec: ModelSpec, measured: Mapping[str, Any]) -> tuple[str, str]:
    title = measured.get("file") or f"{spec.architecture}, {spec.quantization}"
    height, width, _ = spec.input_shape
    facts = {
        "network": spec.architecture + "".join(f", {k} {v}" for k, v in spec.architecture_args.items()),
        "answers": ", ".join(spec.class_names),
        "input": f"one cropped face, {width}×{height} pixels, {spec.color_order}; (p / 255 − mean) / std with mean "
        f"{_numbers(spec.mean)}, std {_numbers(spec.std)}",
        "quantisation": spec.quantization,
        "parameters": f"{spec.parameters:,}" if spec.parameters else None,
        "multiply-accumulates": f"{spec.macs:,} an image" if spec.macs else None,
        "size": f"{measured['bytes']:,} bytes" if "bytes" in measured else None,
    }
    lines = [f"- **{name}:** {value}" for name, value in facts.items() if value]
    return f"Model card: {title}", "Facial expression recognition from a picture of a face.\n\n" + "\n".join(lines)


def _data(spec: ModelSpec) -> str:
    if not spec.dataset:
        return f"The contract does not say what data the model was trained on. {spec.license}".rstrip()
    options = "".join(f", {k} {v}" for k, v in spec.dataset_args.items())
    parts = [f"Trained on `{spec.dataset}`{options}. {spec.license}".rstrip()]
    if spec.dataset == "synthetic_faces":
        parts.append("**These faces are drawn by a program: the figures say nothing about people.**")
    hashes = {"all arrays": spec.dataset_sha256, **spec.split_sha256}
    parts.append("\n".join(f"- SHA-256 of {name}: `{value}`" for name, value in hashes.items() if value))
    return "\n\n".join(filter(None, parts))


def _accuracy(spec: ModelSpec, measured: Mapping[str, Any]) -> str:
    parts = []
    if spec.accuracy:
        parts.append("\n".join(f"- {split}: {value:.1%}" for split, value in spec.accuracy.items()))
    evaluation = measured.get("evaluation")
    if evaluation:
        parts.append(
            f"On the {evaluation['n']:,} images of {evaluation.get('dataset', spec.dataset)}, split "
            f"{evaluation.get('split', 'not named')}: accuracy {evaluation['accuracy']:.1%}, macro-F1 "
            f"{evaluation['macro_f1']:.3f}, weighted F1 {evaluation['weighted_f1']:.3f}.{_more(evaluation)}"
        )
        keys = ("precision", "recall", "f1")
        rows = [[n, *(f"{s[k]:.3f}" for k in keys), f"{s['support']:,}"] for n, s in evaluation["per_class"].items()]
        parts.append(_table(["class", "precision", "recall", "F1", "images"], rows))
    return "\n\n".join(parts) or "Not measured."


def _more(evaluation: Mapping[str, Any]) -> str:
    """Returns what else an evaluation says of its accuracy, as sentences."""
    said = []
    if "intervals" in evaluation:
        _, low, high = evaluation["intervals"]["accuracy"]
        said.append(f"The accuracy's 95 % interval is {low:.1%} to {high:.1%}.")
    if "without_twins" in evaluation:
        own = evaluation["without_twins"]
        said.append(f"Without exact copies of training images ({own['n']:,} are left) it is {own['accuracy']:.1%}.")
    if "calibration" in evaluation:
        said.append(f"Expected calibration error: {evaluation['calibration']['ece']:.3f}.")
    if evaluation.get("split") == "validation":
        said.append("**The epoch was selected on this split: these are no test figures.**")
    return "".join(f" {sentence}" for sentence in said)


def _robustness(measured: Mapping[str, Any]) -> str:
    found = measured.get("evaluation", {}).get("robustness")
    if not found:
        return "Not measured."
    severities = range(1, 1 + max(map(len, found["accuracy"].values())))
    rows = [
        [kind, *(f"{value:.1%}" for value in values), f"{statistics.mean(values):.1%}"]
        for kind, values in found["accuracy"].items()
    ]
    said = (
        f"Accuracy on {found['n']:,} images, disturbed by severity: {found['mean']:.1%} over all, {found['clean']:.1%} "
        f"undisturbed, {found['qin']:.1%} under the perturbation of Qin (2025)."
    )
    return f"{said}\n\n{_table(['disturbance', *map(str, severities), 'mean'], rows)}"


def _speed(measured: Mapping[str, Any]) -> str:
    rows = measured.get("benchmark", ())
    keys = ("runtime", "provider", "threads", "load_ms", "p50_ms", "p95_ms", "p99_ms", "memory_opencv")
    headings = ["runtime", "provider", "threads", "load ms", "p50 ms", "p95 ms", "p99 ms", "memory MB, with OpenCV"]
    if not rows:
        return "Not measured; `ferjax benchmark FILE` does."

    def cell(key: str, value: Any) -> str:
        if value in (None, ""):
            return "–"
        return (
            f"{float(value):.2f}"
            if key.endswith("_ms")
            else f"{float(value) / 1e6:.0f}"
            if "memory" in key
            else str(value)
        )

    return _table(headings, [[cell(key, row.get(key)) for key in keys] for row in rows])


def _checks(measured: Mapping[str, Any]) -> str:
    known = {"file", "bytes", "model", "weights", "training", "commands", "evaluation", "benchmark"}
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
        "One picture at a time: no context, no voice, no course over time.",
        "Only the expressions listed above exist for it: every face gets one of them"
        + ("." if not spec.abstention_threshold else ', or "uncertain".'),
        "How well it does for people of one age, skin colour or sex, with glasses or a beard, is not shown here.",
        "Its confidence is calibrated: the logits are divided by a temperature fitted on validation data."
        if spec.temperature != 1
        else "Its confidence is not calibrated.",
    ]
    if spec.abstention_threshold:
        lines.append(f'It answers "uncertain" where the confidence is below {spec.abstention_threshold:g}.')
    scores = measured.get("evaluation", {}).get("per_class", {})
    if scores:
        worst = min(scores, key=lambda name: scores[name]["f1"])
        lines.append(f"Weakest class: {worst}, recall {scores[worst]['recall']:.1%}, F1 {scores[worst]['f1']:.3f}.")
    if not measured.get("evaluation", {}).get("robustness"):
        lines.append("Noise, blur, darkness, masks and turned heads were not tested.")
    else:
        lines.append("Noise, blur and darkness were made by a program, not by a camera; turned heads were not tested.")
    return "\n".join(f"- {line}" for line in lines)


def _use(measured: Mapping[str, Any]) -> str:
    use = USE.format(model=measured.get("model") or measured.get("file", "FILE"))
    if "weights" not in measured:
        return use
    return f"{use}\n\nTo train on from its weights in floats: `--config.init.pretrained={measured['weights']}`."


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
    """Writes the card of a file from what lies beside it and what is given."""
    parser = cli.parser("card", "Writes the model card of a file.")
    parser.add_argument("file", metavar="FILE", type=pathlib.Path, help="a .tflite or .onnx file written by export.py")
    cli.add_out(parser, "the Markdown file (default: FILE.md)", required=False)
    parser.add_argument("--evaluation", type=pathlib.Path, help="metrics.json of `ferjax evaluate`")
    parser.add_argument("--benchmark", type=pathlib.Path, help="benchmark.csv of `ferjax benchmark`")
    options = parser.parse_args(argv)
    if options.out is not None and options.out.suffix.lower() != ".md":
        raise errors.InputError(f"--out must be a .md file, got {options.out}")
    spec, name = contract.read(options.file), options.file.name
    measured: dict[str, Any] = {**read_export(options.file), "file": name, "bytes": options.file.stat().st_size}
    if options.evaluation is not None:
        measured["evaluation"] = _read_evaluation(options.evaluation, spec)
    if options.benchmark is not None:
        measured["benchmark"] = read_benchmark(options.benchmark, name)
    out = options.out or options.file.with_name(f"{name}.md")
    write(spec, out, measured)
    print(f"saved {out}")


def read_benchmark(path: pathlib.Path, name: str) -> list[dict[str, Any]]:
    """Returns the rows of a benchmark.csv that are of the file of this name.

    Raises:
      InputError: if there is no such table, or it holds several files of that name.
    """
    rows = [row for row in tables.read_csv(path) if pathlib.Path(row["file"]).name == name]
    if len(found := sorted({row["file"] for row in rows})) > 1:
        raise errors.InputError(f"{path} holds several files of that name, {', '.join(found)}: measure {name} alone")
    return rows


def read_export(path: pathlib.Path) -> Mapping[str, Any]:
    """Returns what export.py measured of a file, from the export.json beside it; nothing if there is none.

    Raises:
      InputError: if that is no record of an export.
    """
    record = path.with_name("export.json")
    if not record.is_file():
        return {}
    try:
        entries = json.loads(record.read_text(encoding="utf-8"))["files"]
        return next((entry for entry in entries if entry["file"] == path.name), {})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise errors.InputError(f"{record} is no record of an export: {error}") from error


def _read_evaluation(path: pathlib.Path, spec: ModelSpec) -> Any:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text at all
        raise errors.InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict) or tuple(values.get("per_class", ())) != spec.class_names:
        raise errors.InputError(
            f"{path} is no evaluation of this model: its classes are not {', '.join(spec.class_names)}"
        )
    scored, known = values.get("accuracy"), spec.accuracy.get(str(values.get("split")))
    same_data = values.get("dataset", spec.dataset) == spec.dataset
    if not isinstance(scored, float):
        raise errors.InputError(f"{path} is no evaluation: it has no accuracy")
    if same_data and known is not None and abs(scored - known) > _TIES / max(values.get("n", 1), 1):
        raise errors.InputError(
            f"{path} is no evaluation of this model: accuracy {scored:.4f} in it, {known:.4f} in the file"
        )
    return values

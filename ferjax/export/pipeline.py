"""Exports a network: converts, embeds the spec, compares with the network, and removes files that deviate."""

import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ferjax import cli, errors, folders, models, runtime, weights
from ferjax import spec as specs
from ferjax.data import FaceData
from ferjax.evaluate import metrics, model_card, predictor
from ferjax.export import diagnosis, formats, onnx_file, parity
from ferjax.export import faces as export_faces
from ferjax.export.conversion import Conversion, calibration_images
from ferjax.export.formats import Format
from ferjax.models.costs import cost
from ferjax.runtime.model import milliseconds
from ferjax.spec import ModelSpec
from ferjax.weights import Trained

RECORD = "export.json"
_EQUAL = 1.05  # files within this factor of the fastest count as equally fast


class Exported(NamedTuple):
    """The result for one file.

    Attributes:
      file: file name.
      row: format and quantization.
      bytes: file size, with the spec.
      comparison: comparison with the network.
      faults: violations of the tolerance; empty for a file that was kept.
      departure: where a removed file first deviates from the network.
      milliseconds: median time of one image, from uint8 pixels to logits, two threads; None for a removed file.
      float_operations: number of floating-point operations by name.
    """

    file: str
    row: Format
    bytes: int
    comparison: parity.Comparison
    faults: list[str]
    departure: str = ""
    milliseconds: float | None = None
    float_operations: Mapping[str, int] = MappingProxyType({})


def export(
    model: pathlib.Path | str,
    out: pathlib.Path | str,
    *,
    wanted_formats: Sequence[str] | None = None,
    wanted_quantizations: Sequence[str] | None = None,
    dataset: str | None = None,
    data_dir: pathlib.Path | str | None = None,
    images: int = 0,
    batch_size: int = 1,
    overwrite: bool = False,
) -> list[Exported]:
    """Exports a trained network, compares every file with it, and removes those that fail.

    Args:
      model: a workdir or a .safetensors file.
      out: folder of the files, written atomically.
      wanted_formats: see `formats.choose`.
      wanted_quantizations: see `formats.choose`.
      dataset: the prepared data for calibration and comparison; None for the training data. If that is not prepared and
        no file needs calibration images, files are compared on rendered faces, and accuracy is not measured.
      data_dir: folder of prepared data.
      images: number of validation images, at least 512; 0 for all.
      batch_size: images in one run of an ONNX file, see `formats.check_batch_size`; TFLite files take one.
      overwrite: whether to replace an existing export.

    Returns:
      One entry per file, including the removed ones.

    Raises:
      InputError: if the model, its data or the folder cannot be used, or no file passes.
    """
    network = weights.load(model)
    spec, rows = network.spec, formats.choose(network.spec, wanted_formats, wanted_quantizations)
    formats.check_batch_size(spec, rows, batch_size)
    with folders.result_folder(
        pathlib.Path(out), {RECORD}, overwrite=overwrite, what="an export", foreign=_not_of_an_export
    ) as folder:
        faces = export_faces.load(spec, rows, dataset, data_dir)
        name = export_faces.RENDERED if faces is None else faces.name
        results = export_network(network, faces, rows, folder, images=images, batch_size=batch_size)
        _record(folder, model, spec, name, results)
        for result in results:
            if not result.faults:
                _card(folder / result.file, result, name)
        if all(result.faults for result in results):
            raise errors.InputError(f"no file passes: {'; '.join(_failure(result) for result in results)}")
    for result in results:
        if result.faults:
            cli.note(f"removed {_failure(result)}")
    return results


def export_network(
    network: Trained,
    faces: FaceData | None,
    rows: Sequence[Format],
    folder: pathlib.Path,
    *,
    images: int = 0,
    batch_size: int = 1,
) -> list[Exported]:
    """Writes the files of a network into a folder, compares each and removes those that fail.

    Args:
      network: the network.
      faces: the data, with the splits train (calibration) and validation (comparison); None for rendered faces, without
        calibration and accuracy.
      rows: formats and quantizations.
      folder: an existing folder.
      images: see `export`.
      batch_size: see `export`.
    """
    spec = network.spec
    if faces is None:
        validation, examples = export_faces.rendered(spec), np.empty((0, *spec.input_shape), np.float32)
    else:
        places, validation = predictor.check_fit(spec, faces), faces.splits["validation"]
        validation = validation._replace(labels=places[validation.labels])
        examples = calibration_images(spec, faces.splits["train"])
    truth, source = parity.reference(network, validation, count=images), Conversion(network, examples)
    # The spec stores accuracies of whole splits of the training data only.
    scored = faces is not None and faces.name == spec.dataset and len(truth.labels) == len(validation.labels)

    def one(row: Format) -> Exported:
        number = batch_size if row.format == "onnx" else 1
        return _first_that_passes(row, source, truth, folder, batch_size=number, scored=scored)

    results = [one(row) for row in cli.progress(rows, what="files")]
    kept = [result.file for result in results if not result.faults]
    times = milliseconds({name: runtime.load(folder / name) for name in kept})
    return [result._replace(milliseconds=times.get(result.file)) for result in results]


def best(results: Sequence[Exported]) -> Exported:
    """Returns the smallest of the fastest files."""
    timed = [(result.milliseconds, result) for result in results if result.milliseconds is not None]
    fastest = min(time for time, _ in timed)
    return min((result for time, result in timed if time <= _EQUAL * fastest), key=lambda result: result.bytes)


def table(results: Sequence[Exported]) -> str:
    """Returns results as text, one line per file."""
    width = max(len(result.file) for result in results)
    lines = [f"{'file':{width}}       bytes   max |Δp|  agreement         accuracy %  ms/image  float ops  verdict"]
    for result in results:
        found = result.comparison
        spread = 50 * (found.accuracy_interval[1] - found.accuracy_interval[0])
        accuracy = f"{100 * found.accuracy:>8.2f} ± {spread:>6.2f}"
        time = "–" if result.milliseconds is None else f"{result.milliseconds:.2f}"
        verdict = "removed" if result.faults else "passes"
        lines.append(
            f"{result.file:{width}}  {result.bytes:>10,}  {found.max_difference:>9.2g}  {found.agreement:>9.2%}"
            f"  {'not measured' if math.isnan(found.accuracy) else accuracy:>17}  {time:>8}"
            f"  {sum(result.float_operations.values()):>9}  {verdict}"
        )
    return "\n".join(lines)


def _first_that_passes(
    row: Format, source: Conversion, truth: parity.Reference, folder: pathlib.Path, *, batch_size: int, scored: bool
) -> Exported:
    for convert in row.forms(source.network.spec):
        result = _one(row, convert, source, truth, folder, batch_size=batch_size, scored=scored)
        if not result.faults:
            break
    return result


def _one(
    row: Format,
    convert: Callable[[Conversion], bytes],
    source: Conversion,
    truth: parity.Reference,
    folder: pathlib.Path,
    *,
    batch_size: int,
    scored: bool,
) -> Exported:
    spec, module = source.network.spec, models.for_export(source.network.module)
    path, made = folder / (spec.architecture + row.suffix), convert(source)
    path.write_bytes(made if batch_size == 1 else onnx_file.with_batch_size(made, batch_size))
    written = spec.replace(
        quantization=row.quantization,
        batch_size=batch_size,
        accuracy={},
        macs=cost(module, spec.input_shape).macs,
        least_runtime=row.least_runtime(made),
    )
    specs.embed(path, written)
    found, floats = parity.compare(path, truth), diagnosis.float_operations(path)
    faults = parity.faults(found, row.tolerance)
    if faults:
        size, where = path.stat().st_size, diagnosis.explain(path, convert, source, truth)
        path.unlink()
        return Exported(path.name, row, size, found, faults, where, float_operations=floats)
    if scored:
        specs.embed(path, written.replace(accuracy={"validation": found.accuracy}))
    return Exported(path.name, row, path.stat().st_size, found, faults, float_operations=floats)


def _record(
    folder: pathlib.Path, model: pathlib.Path | str, spec: ModelSpec, dataset: str, results: Sequence[Exported]
) -> None:
    """Writes export.json."""
    files = [record(result) for result in results]
    content = {"model": str(model), "dataset": dataset, "split": "validation", "spec": json.loads(spec.to_json())}
    (folder / RECORD).write_text(json.dumps({**content, "files": files}, indent=1) + "\n", encoding="utf-8")


def record(result: Exported) -> dict[str, Any]:
    """Returns the entry of a file in export.json, as plain JSON values."""
    comparison = result.comparison._asdict()
    return {
        "file": result.file,
        "format": result.row.format,
        "quantization": result.row.quantization,
        "runtime": result.row.runtime,
        "bytes": result.bytes,
        **{k: None if isinstance(v, float | tuple) and not np.isfinite(v).all() else v for k, v in comparison.items()},
        "milliseconds": result.milliseconds,
        "float_operations": dict(result.float_operations),
        "faults": result.faults,
        "departure": result.departure,
    }


def _card(path: pathlib.Path, result: Exported, dataset: str) -> None:
    """Writes the model card beside a file."""
    spec, measured = specs.read(path), {"compared_on": dataset, **record(result)}
    if confusion := measured.pop("confusion"):
        scored = metrics.summary(np.array(confusion), spec.class_names)
        measured["evaluation"] = {**scored, "split": "validation", "dataset": dataset}
    model_card.write(spec, path.with_name(f"{path.name}.md"), measured)


def _failure(result: Exported) -> str:
    return f"{result.file}: {', '.join(result.faults)}; {result.departure}"


def _not_of_an_export(out: pathlib.Path) -> list[str]:
    """Returns the names in the folder of an export that do not belong to it."""
    names = {path.name for path in out.iterdir()} - {RECORD}
    return sorted(name for name in names if not model_card.read_export(out / name.removesuffix(".md")))

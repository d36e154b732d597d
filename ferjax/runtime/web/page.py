"""Writes the browser page of a model: a static folder for any web server."""

import json
import os
import pathlib
import shutil

import numpy as np

from ferjax import folders
from ferjax.errors import InputError, unknown
from ferjax.runtime import fetch, shipped
from ferjax.runtime.engine import open_engine
from ferjax.runtime.faces.detector import create_detector
from ferjax.runtime.model import load
from ferjax.runtime.web import DETECTORS, constants, litert, yunet
from ferjax.spec import ModelSpec

MARK = "runtime.json"  # the file that tells a page from other folders
_PACKAGE = pathlib.Path(__file__).parents[2]
_WHAT = "a page"
_WRITTEN = {"litert", "model.tflite", "yunet.tflite", "spec.json", MARK, "licenses.txt"}  # beside the source
_YUNET_LICENSE = "YuNet (https://github.com/opencv/opencv_zoo), converted to TFLite: MIT"


def write(
    out: str | os.PathLike[str],
    model: str | os.PathLike[str] | None = None,
    *,
    detector: str = "yunet",
    detector_model: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes the page of a model.

    Args:
      out: the folder, written atomically.
      model: a .tflite file written by `ferjax export`, or a name from `ferjax models` (default: the default model).
      detector: "yunet"; or "none", the central square of the image is the face.
      detector_model: the .onnx file of YuNet (default: the downloaded one).
      overwrite: whether to replace an existing page.

    Raises:
      InputError: if the model, the detector or the folder cannot be used, or LiteRT.js cannot be downloaded.
    """
    out, given = pathlib.Path(out), check(out, detector, detector_model, overwrite=overwrite)
    path = shipped.find(model)
    spec = _checked(path)
    found = create_detector(detector, model=given)
    with folders.result_folder(out, {MARK}, overwrite=overwrite, what=_WHAT, foreign=_foreign) as part:
        for file in _sources():
            shutil.copyfile(file, part / file.name)
        (part / "litert").mkdir()
        licenses = list(litert.write(part / "litert", source_folder() / "package-lock.json"))
        shutil.copyfile(path, part / "model.tflite")
        if given is not None:
            (part / "yunet.tflite").write_bytes(yunet.to_tflite(given))
            licenses.append(_YUNET_LICENSE)
        _write_text(part / "spec.json", spec.to_json())
        _write_text(part / MARK, json.dumps(constants.collect(spec, found), indent=1))
        _write_text(part / "licenses.txt", "\n".join([f"The model: {spec.license or 'unknown'}", *licenses]))


def check(
    out: str | os.PathLike[str],
    detector: str,
    detector_model: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
) -> pathlib.Path | None:
    """Checks the arguments of `write` before a long export, and returns the file of the detector.

    Raises:
      InputError: as `write`.
    """
    out = pathlib.Path(out)
    folders.check_out(out)
    folders.check_result(out, {MARK}, overwrite=overwrite, what=_WHAT, foreign=_foreign)
    if detector not in DETECTORS:
        raise unknown("detector of a page", detector, DETECTORS)
    given = pathlib.Path(detector_model) if detector_model is not None else None
    if detector == "yunet":
        given = given or fetch.cached("yunet")
    create_detector(detector, model=given)
    return given


def source_folder() -> pathlib.Path:
    """Returns the folder of the page's source: in the wheel, or at the top of a checkout."""
    inside = _PACKAGE / "web"
    return inside if inside.is_dir() else _PACKAGE.parent / "web"


def _sources() -> list[pathlib.Path]:
    return sorted(path for path in source_folder().iterdir() if path.suffix in (".html", ".js", ".css", ".svg"))


def _foreign(out: pathlib.Path) -> list[str]:
    """Returns the names in the folder of a page that do not belong to it."""
    return sorted({path.name for path in out.iterdir()} - {path.name for path in _sources()} - _WRITTEN)


def _checked(path: pathlib.Path) -> ModelSpec:
    """Returns the spec of a file that LiteRT.js can run; raises InputError for another."""
    if path.suffix.lower() == ".onnx":
        raise InputError(f"the page runs .tflite files, got {path}: give the .tflite file of the same network")
    spec, port = load(path).spec, open_engine(path, threads=1, provider="cpu").input
    if port.dtype != np.float32 or port.shape != (1, *spec.input_shape):
        raise InputError(f"{path} takes {port.dtype} {port.shape}; the page needs float32, one image: export it again")
    return spec


def _write_text(path: pathlib.Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")

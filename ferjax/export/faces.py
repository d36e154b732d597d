"""Loads the images that an export needs: a prepared data set, or rendered faces."""

import pathlib
from collections.abc import Sequence

import numpy as np

from ferjax import cli, data, errors
from ferjax.data import FaceData, Split, loading, store
from ferjax.data.prepare.decoding import decode
from ferjax.data.prepare.pipeline import DATASETS
from ferjax.data.synthetic import rendering
from ferjax.export import formats
from ferjax.export.formats import Format
from ferjax.spec import ModelSpec

RENDERED = "rendered faces"
_COUNT = 512


def load(
    spec: ModelSpec, rows: Sequence[Format], dataset: str | None, data_dir: pathlib.Path | str | None
) -> FaceData | None:
    """Loads the data set that calibrates files and measures their accuracy.

    Args:
      spec: the spec of the network.
      rows: the files to make.
      dataset: a prepared data set; None for the training data of the network.
      data_dir: folder of prepared data.

    Returns:
      The splits train and validation, or None, with a note, if the training data is not prepared and no file needs it.

    Raises:
      InputError: if the data cannot be loaded, or is not prepared and a file needs calibration images.
    """
    home = pathlib.Path(data_dir or data.default_data_dir())
    if dataset is None and spec.dataset not in ("synthetic_faces", *loading.prepared(home)):
        missing = f"the training data of this network, {spec.dataset or 'unknown'}, is not prepared in {home}"
        if any(row.needs_calibration(spec) for row in rows):
            raise _required(missing, spec, home)
        cli.note(f"{missing}: files are compared on {_COUNT} {RENDERED}, and accuracy is not measured")
        return None
    own = dataset in (None, spec.dataset)
    faces = data.load(dataset or spec.dataset, data_dir=home, **(spec.dataset_args if own else {}))
    if own and faces.sha256 != spec.dataset_sha256:
        cli.note(f"{faces.name} has changed since the network was trained")
    return faces


def _required(missing: str, spec: ModelSpec, home: pathlib.Path) -> errors.InputError:
    rows = formats.choose(spec)
    calibrated = dict.fromkeys(row.quantization for row in rows if row.needs_calibration(spec))
    others = dict.fromkeys(row.quantization for row in rows if not row.needs_calibration(spec))
    facts = {name: store.read_manifest(home, name) or {} for name in loading.prepared(home)}
    fitting = [name for name, each in facts.items() if each.get("image_shape") == list(spec.input_shape)]
    here = f" (here: {', '.join(fitting)})" if fitting else ""
    how = f" with {DATASETS[spec.dataset].PREPARE}" if spec.dataset in DATASETS else ""
    height, width, channels = spec.input_shape
    return errors.InputError(
        f"{missing}, and {', '.join(calibrated)} needs images: prepare it{how}, give --data NAME of another prepared "
        f"set of {width}x{height} {'gray' if channels == 1 else 'color'} images{here}, or give --quantization "
        f"{' '.join(others)}, which needs none (compared on {RENDERED}, accuracy not measured)"
    )


def rendered(spec: ModelSpec, *, count: int = _COUNT) -> Split:
    """Returns rendered faces in the shape of a network, with the label -1: their expressions may not be its classes."""
    side, channels = max(spec.input_size), spec.channels
    smallest, largest = rendering.SIZES
    size = min(max(side, smallest), largest)
    images = rendering.render_faces(np.arange(count) % len(data.EXPRESSIONS), seed=0, size=size, channels=channels)
    if size != side:
        images = np.stack([decode(image, side, channels).image for image in images])
    return Split(images, np.full(count, -1, np.int32), [], {})

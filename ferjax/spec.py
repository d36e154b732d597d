"""Defines ModelSpec, the preprocessing, classes and provenance of a model, stored in the exported file.

    ferjax spec FILE      prints the spec of a .tflite or .onnx file as JSON

Standard library only, so that the edge runtime can use it too.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, get_origin

from ferjax import __version__, cli, metadata
from ferjax.errors import InputError

UNCERTAIN = "uncertain"  # the label below the abstention threshold
COLOR_ORDERS = {"gray": 1, "rgb": 3, "bgr": 3}
INTERPOLATIONS = ("antialiased bilinear",)
_NUMBER = (int, float)
_LARGEST = 1e6  # bound of |mean|, std and temperature; 1 / _LARGEST is the lower bound of std and temperature
_TYPES: dict[Any, tuple[Any, str]] = {
    float: (_NUMBER, "a number"),
    int: (int, "an integer"),
    str: (str, "a string"),
    Mapping: (Mapping, "an object"),
}
_LISTS = {"class_names": (str,), "input_size": (int,), "mean": _NUMBER, "std": _NUMBER, "trained_corruptions": (str,)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How to feed a model, how to read its output, and how it was trained.

    A pixel value p in 0..255 enters the network as (p / 255 - mean) / std, per channel.

    Attributes:
      class_names: the label of each logit, in order.
      input_size: (height, width) in pixels.
      color_order: "gray", "rgb" or "bgr"; it sets the number of channels.
      mean: per channel, on the 0..1 scale.
      std: per channel, on the 0..1 scale, greater than 0.
      interpolation: filter that resizes a face, after a center crop to the aspect ratio of `input_size`: a triangle,
        as wide as two pixels of the result when it reduces (BILINEAR of Pillow, not of OpenCV).
      architecture: name in the model registry.
      architecture_args: keyword arguments of `ferjax.models.create`.
      quantization: "none" or the name of an export quantization.
      batch_size: images in one run of the file; 0 for any number.
      least_runtime: the oldest runtime that loads the file, such as "TensorFlow Lite 2.7.0"; empty if unknown.
      temperature: divides the logits before the softmax (Guo et al. 2017); 1 if not calibrated.
      abstention_threshold: the label is "uncertain" below this confidence; 0 never abstains.
      dataset: name of the training data set.
      dataset_args: options of `ferjax.data.load`, such as a size.
      dataset_sha256: hash of the prepared arrays.
      split_sha256: hash of the arrays by split name, if the manifest of the data set has them.
      source_run: configuration of the training run.
      trained_corruptions: kinds of `ferjax.evaluate.corruptions` that the training images had too.
      accuracy: measured accuracy by split name, in 0..1.
      parameters: number of trainable parameters.
      macs: multiply-accumulate operations for one image; 0 if not counted.
      params_sha256: hash of the variables, see `ferjax.weights.checkpoint.fingerprint`.
      license: license of data and weights.
      ferjax_version: version that wrote the spec.
    """

    class_names: tuple[str, ...]
    input_size: tuple[int, int]
    color_order: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    architecture: str
    architecture_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    interpolation: str = INTERPOLATIONS[0]
    quantization: str = "none"
    batch_size: int = 1
    least_runtime: str = ""
    temperature: float = 1.0
    abstention_threshold: float = 0.0
    dataset: str = ""
    dataset_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dataset_sha256: str = ""
    split_sha256: Mapping[str, str] = dataclasses.field(default_factory=dict)
    source_run: str = ""
    trained_corruptions: tuple[str, ...] = ()
    accuracy: Mapping[str, float] = dataclasses.field(default_factory=dict)
    parameters: int = 0
    macs: int = 0
    params_sha256: str = ""
    license: str = ""
    ferjax_version: str = __version__

    def __post_init__(self):
        for name, kind in _LISTS.items():
            values = getattr(self, name)
            if isinstance(values, str) or not all(isinstance(value, kind) for value in values):
                raise InputError(f"{name} must be a list of {kind[-1].__name__}, got {values!r}")
            object.__setattr__(self, name, tuple(values))
        for field in dataclasses.fields(self):
            kind, description = _TYPES.get(get_origin(field.type) or field.type, (object, ""))
            if not isinstance(value := getattr(self, field.name), kind):
                raise InputError(f"{field.name} must be {description}, got {value!r}")
        if not all(isinstance(value, _NUMBER) for value in self.accuracy.values()):
            raise InputError(f"accuracy must map split names to numbers, got {dict(self.accuracy)}")
        if len(self.class_names) < 2 or len(set(self.class_names)) != len(self.class_names):
            raise InputError(f"class_names must be two or more distinct names, got {self.class_names}")
        if UNCERTAIN in self.class_names:
            raise InputError(
                f"class_names must not contain {UNCERTAIN!r}, the label below the abstention threshold, "
                f"got {self.class_names}"
            )
        if len(self.input_size) != 2 or min(self.input_size) < 1:
            raise InputError(f"input_size must be (height, width), each at least 1, got {self.input_size}")
        if self.color_order not in COLOR_ORDERS:
            raise InputError(f"color_order must be one of {', '.join(COLOR_ORDERS)}, got {self.color_order!r}")
        if self.interpolation not in INTERPOLATIONS:
            raise InputError(f"interpolation must be {' or '.join(INTERPOLATIONS)}, got {self.interpolation!r}")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise InputError(
                f"mean and std must have {self.channels} values for color_order {self.color_order!r}, "
                f"got {len(self.mean)} and {len(self.std)}"
            )
        if not all(-_LARGEST <= value <= _LARGEST for value in self.mean):  # false for NaN
            raise InputError(f"mean must be within {-_LARGEST:g}..{_LARGEST:g}, got {self.mean}")
        if not all(1 / _LARGEST <= value <= _LARGEST for value in (*self.std, self.temperature)):
            raise InputError(
                f"std and temperature must be within {1 / _LARGEST:g}..{_LARGEST:g}, got {self.std} and "
                f"{self.temperature}"
            )
        if self.batch_size < 0:
            raise InputError(f"batch_size must be 0 (any number) or more, got {self.batch_size}")
        if not 0 <= self.abstention_threshold <= 1:
            raise InputError(f"abstention_threshold must be within 0..1, got {self.abstention_threshold}")

    @property
    def channels(self) -> int:
        """Number of input channels: 1 for gray, 3 for color."""
        return COLOR_ORDERS[self.color_order]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        return (*self.input_size, self.channels)

    def from_rgb(self, images: Any) -> Any:
        """Converts gray or RGB images (..., channels) to the color order of the model."""
        return images[..., ::-1] if self.color_order == "bgr" else images

    def replace(self, **changes: Any) -> "ModelSpec":
        """Returns a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """Returns the spec as one JSON object, keys in the order of the fields."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "ModelSpec":
        """Parses the output of `to_json`; unknown keys, from a newer ferjax, are ignored.

        Raises:
          InputError: if the text is not a JSON object, or a field is missing or invalid.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:  # also for long numbers and deeply nested lists
            raise InputError(f"the spec is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise InputError(f"the spec must be a JSON object, got {type(values).__name__}")
        fields = {f.name: f for f in dataclasses.fields(cls)}
        required = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
        if missing := sorted(required - values.keys()):
            raise InputError(f"the spec lacks {', '.join(missing)}")
        try:
            return cls(**{k: v for k, v in values.items() if k in fields})
        except TypeError as error:
            raise InputError(f"the spec has a value of the wrong type: {error}") from error


def read(path: str | os.PathLike[str]) -> ModelSpec:
    """Reads the spec of an exported file without loading the model.

    Args:
      path: a .tflite or .onnx file.

    Raises:
      InputError: if the file does not exist, is truncated, or has no valid spec.
    """
    text = metadata.read(path)
    if text is None:
        raise InputError(
            f"{os.fspath(path)} has no ferjax spec (class names, input size, mean, std): "
            "use a file written by `ferjax export`, not truncated or converted"
        )
    try:
        return ModelSpec.from_json(text)
    except InputError as error:
        raise InputError(f"{os.fspath(path)}: {error}") from error


def embed(path: str | os.PathLike[str], spec: ModelSpec) -> None:
    """Writes the spec into a .tflite or .onnx file, replacing an existing spec.

    The file is replaced atomically. The network is not changed.

    Raises:
      InputError: if the file does not exist or is truncated.
    """
    metadata.write(path, spec.to_json())


def main(argv: Sequence[str]) -> None:
    """Runs `ferjax spec`: prints the spec of a file."""
    parser = cli.parser("spec", "Prints the spec of a model file as JSON.")
    parser.add_argument("file", metavar="FILE", help=".tflite or .onnx file written by `ferjax export`")
    print(read(parser.parse_args(argv).file).to_json())

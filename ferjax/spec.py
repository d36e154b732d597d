"""ModelSpec: the contract that travels with a model from training to the camera, inside the exported file.

    ferjax spec FILE      prints the spec of a .tflite or .onnx file as JSON

Standard library only: the edge runtime, the exporter and the trainer all read it.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, get_origin

from ferjax import __version__, cli, metadata
from ferjax.errors import InputError

UNCERTAIN = "uncertain"  # the answer below the abstention threshold
COLOR_ORDERS = {"gray": 1, "rgb": 3, "bgr": 3}
_NUMBER = (int, float)
_LARGEST = 1e6  # of mean, and of std and temperature, whose least is its inverse: what float32 can divide by
_KINDS: dict[Any, tuple[Any, str]] = {
    float: (_NUMBER, "a number"),
    int: (int, "a whole number"),
    str: (str, "a text"),
    Mapping: (Mapping, "an object of names and values"),
}
_LISTS = {"class_names": (str,), "input_size": (int,), "mean": _NUMBER, "std": _NUMBER}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What has to be known to feed a model and to read its answer.

    A pixel value p in 0..255 enters the network as (p / 255 - mean) / std, per channel.

    Attributes:
      class_names: the label of each logit, in order.
      input_size: (height, width) in pixels.
      color_order: "gray", "rgb" or "bgr"; it decides the number of channels.
      mean: per channel, on the 0..1 scale.
      std: per channel, on the 0..1 scale, greater than 0.
      architecture: name in the model registry.
      architecture_args: keyword arguments of `ferjax.models.create` for that name.
      quantization: "none" or one of the export's names.
      temperature: divides the logits before the softmax (Guo et al. 2017); 1 if not calibrated.
      abstention_threshold: a confidence below it is answered with "uncertain"; 0 never abstains.
      dataset: name of the data set the model was trained on.
      dataset_args: options of `ferjax.data.load` for it, such as a size.
      dataset_sha256: hash of the prepared arrays.
      split_sha256: hash of the arrays by split name, where the data set's manifest has them.
      source_run: the configuration that made the model.
      accuracy: measured accuracy by split name, in 0..1.
      parameters: number of trainable parameters.
      macs: multiply-accumulate operations for one image; 0 if not counted.
      params_sha256: hash of the variables, see `ferjax.weights.checkpoint.fingerprint`.
      license: note on the licence of data and weights.
      ferjax_version: version that wrote the spec.
    """

    class_names: tuple[str, ...]
    input_size: tuple[int, int]
    color_order: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    architecture: str
    architecture_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    quantization: str = "none"
    temperature: float = 1.0
    abstention_threshold: float = 0.0
    dataset: str = ""
    dataset_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dataset_sha256: str = ""
    split_sha256: Mapping[str, str] = dataclasses.field(default_factory=dict)
    source_run: str = ""
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
            kind, said = _KINDS.get(get_origin(field.type) or field.type, (object, ""))
            if not isinstance(value := getattr(self, field.name), kind):
                raise InputError(f"{field.name} must be {said}, got {value!r}")
        if not all(isinstance(value, _NUMBER) for value in self.accuracy.values()):
            raise InputError(f"accuracy must hold numbers by split, got {dict(self.accuracy)}")
        if len(self.class_names) < 2 or len(set(self.class_names)) != len(self.class_names):
            raise InputError(f"class_names must be two or more distinct names, got {self.class_names}")
        if UNCERTAIN in self.class_names:
            raise InputError(f"no class may be called {UNCERTAIN!r}: that is the answer below the abstention threshold")
        if len(self.input_size) != 2 or min(self.input_size) < 1:
            raise InputError(f"input_size must be (height, width), got {self.input_size}")
        if self.color_order not in COLOR_ORDERS:
            raise InputError(f"color_order {self.color_order!r} is none of {', '.join(COLOR_ORDERS)}")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise InputError(
                f"mean and std need {self.channels} values for {self.color_order!r}, "
                f"got {len(self.mean)} and {len(self.std)}"
            )
        if not all(-_LARGEST <= value <= _LARGEST for value in self.mean):  # NaN is not, either
            raise InputError(f"mean must be finite, within ±{_LARGEST:g}, got {self.mean}")
        if not all(1 / _LARGEST <= value <= _LARGEST for value in (*self.std, self.temperature)):
            raise InputError(
                f"std and temperature must be positive, within {1 / _LARGEST:g}..{_LARGEST:g}, got {self.std} and "
                f"{self.temperature}"
            )
        if not 0 <= self.abstention_threshold <= 1:
            raise InputError(f"abstention_threshold must be within 0..1, got {self.abstention_threshold}")

    @property
    def channels(self) -> int:
        """Number of input channels: 1 for grey, 3 for colour."""
        return COLOR_ORDERS[self.color_order]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        return (*self.input_size, self.channels)

    def from_rgb(self, images: Any) -> Any:
        """Returns images (..., channels), grey or RGB as data sets hold them, in the order that the model is fed."""
        return images[..., ::-1] if self.color_order == "bgr" else images

    def replace(self, **changes: Any) -> "ModelSpec":
        """Returns a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """Returns the spec as one JSON object, keys in the order of the fields."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "ModelSpec":
        """Reads what `to_json` wrote; keys of a newer ferjax are ignored.

        Raises:
          InputError: if the text is no JSON object, or a field is missing or of the wrong type.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:  # a number too long, lists in lists
            raise InputError(f"the model's spec is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise InputError(f"the model's spec must be a JSON object, got {type(values).__name__}")
        fields = {f.name: f for f in dataclasses.fields(cls)}
        required = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
        if missing := sorted(required - values.keys()):
            raise InputError(f"the model's spec lacks {', '.join(missing)}")
        try:
            return cls(**{k: v for k, v in values.items() if k in fields})
        except TypeError as error:
            raise InputError(f"the model's spec has a value of the wrong type: {error}") from error


def read(path: str | os.PathLike[str]) -> ModelSpec:
    """Reads the contract inside an exported model, without loading the model.

    Args:
      path: a .tflite or .onnx file.

    Raises:
      InputError: if there is no such file, it is cut short, or it has no valid contract.
    """
    text = metadata.read(path)
    if text is None:
        raise InputError(
            f"{os.fspath(path)} carries no ferjax contract (class names, input size, mean and std): "
            "give a file written by export.py, complete and unconverted"
        )
    try:
        return ModelSpec.from_json(text)
    except InputError as error:
        raise InputError(f"{os.fspath(path)}: {error}") from error


def embed(path: str | os.PathLike[str], spec: ModelSpec) -> None:
    """Stores a contract in a .tflite or .onnx file, in place of the one it carries; the network is untouched.

    The file is replaced in one step: a reader meets the old or the new one, never a part.

    Raises:
      InputError: if there is no such file or it is cut short.
    """
    metadata.write(path, spec.to_json())


def main(argv: Sequence[str]) -> None:
    """Prints the contract of a file."""
    parser = cli.parser("spec", "Prints the spec inside a model file as JSON.")
    parser.add_argument("file", metavar="FILE", help="a .tflite or .onnx file written by `ferjax export`")
    print(read(parser.parse_args(argv).file).to_json())

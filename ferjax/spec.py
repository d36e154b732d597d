"""ModelSpec: the contract that travels with a model from training to the camera.

Standard library only: the edge runtime, the exporter and the trainer all read it.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from ferjax import __version__
from ferjax.cli import InputError

COLOR_ORDERS = {"gray": 1, "rgb": 3, "bgr": 3}


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
      dataset: name of the data set the model was trained on.
      dataset_args: options of `ferjax.data.load` for it, such as a size.
      dataset_sha256: hash of the prepared arrays.
      source_run: the configuration that made the model.
      accuracy: measured accuracy by split name, in 0..1.
      parameters: number of trainable parameters.
      params_sha256: hash of the variables, see `ferjax.checkpoint.fingerprint`.
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
    dataset: str = ""
    dataset_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dataset_sha256: str = ""
    source_run: str = ""
    accuracy: Mapping[str, float] = dataclasses.field(default_factory=dict)
    parameters: int = 0
    params_sha256: str = ""
    license: str = ""
    ferjax_version: str = __version__

    def __post_init__(self):
        for name in ("class_names", "input_size", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.class_names) < 2 or len(set(self.class_names)) != len(self.class_names):
            raise InputError(f"class_names must be two or more distinct names, got {self.class_names}")
        if len(self.input_size) != 2 or min(self.input_size) < 1:
            raise InputError(f"input_size must be (height, width), got {self.input_size}")
        if self.color_order not in COLOR_ORDERS:
            raise InputError(f"color_order {self.color_order!r} is none of {', '.join(COLOR_ORDERS)}")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise InputError(
                f"mean and std need {self.channels} values for {self.color_order!r}, "
                f"got {len(self.mean)} and {len(self.std)}"
            )
        if min(self.std) <= 0 or self.temperature <= 0:
            raise InputError(f"std and temperature must be positive, got {self.std} and {self.temperature}")

    @property
    def channels(self) -> int:
        """Number of input channels: 1 for grey, 3 for colour."""
        return COLOR_ORDERS[self.color_order]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        return (*self.input_size, self.channels)

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
        except json.JSONDecodeError as error:
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

"""Defines FORMATS, the table of file formats and quantizations, and selects its rows for a network."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ferjax import cli, errors, models
from ferjax.export import flatbuffer, onnx_file, tflite
from ferjax.export.conversion import Conversion
from ferjax.models import CONVOLUTIONAL, FAMILIES, SWISH, TRANSFORMER
from ferjax.spec import ModelSpec
from ferjax.weights import trained

RUNTIMES = {"tflite": "LiteRT", "onnx": "ONNX Runtime"}


class Tolerance(NamedTuple):
    """The largest deviation of a file from its network.

    Attributes:
      max_difference: maximum difference of any probability, in 0..1.
      agreement: minimum share of images with the same prediction, in 0..1.
      accuracy_loss: maximum loss of accuracy, in percentage points.
    """

    max_difference: float
    agreement: float
    accuracy_loss: float


# A float32 file must also give the same prediction for every image, except for ties (`parity.faults`).
EXACT = Tolerance(1e-4, 0.998, 1.0)
HALF = Tolerance(1e-2, 0.998, 1.0)
INTEGER = Tolerance(1.0, 0.97, 1.0)
TRAINED = Tolerance(1.0, 0.995, 0.5)  # against the network with fake quantization
# LiteRT runs 4-bit convolutions in kernels with fixed-point scales, XNNPACK runs 8-bit ones with float scales. The
# agreement of ResNet-20 and mini-Xception is 98.9 % and 97.9 % in 4 bits, 99.1 % and 98.3 % in 8 bits without XNNPACK,
# 99.7 % and 99.9 % in 8 bits with XNNPACK.
FIXED_POINT = Tolerance(1.0, 0.97, 0.5)


# Forms that only newer runtimes load, tried if the comparison with the network rejects the first.
NEWER: dict[Callable[[Conversion], bytes], Callable[[Conversion], bytes]] = {
    tflite.dynamic_range: tflite.dynamic_range_by_channel
}


class Format(NamedTuple):
    """One row of the table: a file format and a quantization.

    Attributes:
      format: "tflite" or "onnx".
      quantization: name on the command line and in `ModelSpec.quantization`.
      convert: the function that makes the file, for each supported family of `ferjax.models.FAMILIES`.
      tolerance: the tolerance of the comparison.
    """

    format: str
    quantization: str
    convert: Mapping[str, Callable[[Conversion], bytes]]
    tolerance: Tolerance

    def make(self, source: Conversion) -> bytes:
        """Returns the file of a network, without its spec."""
        return self.convert[family(source.network.spec)](source)

    def needs_calibration(self, spec: ModelSpec) -> bool:
        """Returns whether the file of a network needs calibration images."""
        return self.convert[family(spec)] in (tflite.static_int8, onnx_file.static_int8)

    def forms(self, spec: ModelSpec) -> list[Callable[[Conversion], bytes]]:
        """Returns the functions that may make the file of a network, the one for the oldest runtimes first."""
        first = self.convert[family(spec)]
        return [first, NEWER[first]] if first in NEWER else [first]

    def least_runtime(self, blob: bytes) -> str:
        """Returns the oldest runtime that loads a file of this row, such as "TensorFlow Lite 2.7.0"."""
        return (
            f"TensorFlow Lite {flatbuffer.least_runtime(blob)}" if self.format == "tflite" else onnx_file.LEAST_RUNTIME
        )

    @property
    def suffix(self) -> str:
        """The end of the file name, such as "_int8.tflite"."""
        return ("" if self.quantization == "none" else f"_{self.quantization}") + f".{self.format}"

    @property
    def runtime(self) -> str:
        """The name of the runtime."""
        return RUNTIMES[self.format]


def _all(convert: Callable[[Conversion], bytes]) -> dict[str, Callable[[Conversion], bytes]]:
    return dict.fromkeys(FAMILIES, convert)


FORMATS: tuple[Format, ...] = (
    Format("tflite", "none", _all(tflite.float32), EXACT),
    Format("tflite", "float16", _all(tflite.float16), HALF),
    Format("tflite", "dynamic", _all(tflite.dynamic_range), INTEGER),
    Format(
        "tflite",
        "int8",
        {
            CONVOLUTIONAL: tflite.static_int8,
            # For both, static ranges are slower and less accurate than dynamic ranges.
            SWISH: tflite.dynamic_range,
            TRANSFORMER: tflite.dynamic_range,
        },
        INTEGER,
    ),
    Format("tflite", "weight-only", _all(tflite.weight_only), INTEGER),
    Format("onnx", "none", _all(onnx_file.float32), EXACT),
    Format("onnx", "float16", _all(onnx_file.float16), HALF),
    Format("onnx", "dynamic", {TRANSFORMER: onnx_file.dynamic_matmul}, INTEGER),
    # In onnxruntime, int8 hard-swish networks are slower than float32 in every form; use weight-only.
    Format("onnx", "int8", {CONVOLUTIONAL: onnx_file.static_int8, TRANSFORMER: onnx_file.dynamic_matmul}, INTEGER),
    Format("onnx", "weight-only", _all(onnx_file.weight_only), INTEGER),
    # For quantization-aware trained networks only; onnxruntime has no 4-bit convolution.
    Format("tflite", "qat", _all(tflite.qat), TRAINED),
    Format("tflite", "int4", _all(tflite.int4), FIXED_POINT),
    Format("onnx", "qat", _all(onnx_file.qat), TRAINED),
)


def family(spec: ModelSpec) -> str:
    """Returns the family of a network, see `ferjax.models.family`."""
    return models.family(spec.architecture, spec.architecture_args)


def list_formats() -> list[str]:
    """Returns the names of the file formats."""
    return list(dict.fromkeys(row.format for row in FORMATS))


def list_quantizations() -> list[str]:
    """Returns the names of the quantizations."""
    return list(dict.fromkeys(row.quantization for row in FORMATS))


def choose(
    spec: ModelSpec, formats_wanted: Sequence[str] | None = None, quantizations_wanted: Sequence[str] | None = None
) -> list[Format]:
    """Returns the rows of the table for a network, in its order, without rows that would make the same file.

    Args:
      spec: the spec of the network.
      formats_wanted: names of formats (default: all).
      quantizations_wanted: names of quantizations (default: all that the network supports).

    Raises:
      InputError: for an unknown name, a quantization that does not match the training, or if no row remains.
    """
    for kind, wanted, known in (
        ("format", formats_wanted, list_formats()),
        ("quantization", quantizations_wanted, list_quantizations()),
    ):
        for name in wanted or ():
            if name not in known:
                raise errors.unknown(kind, name, known)
    suitable = _suitable(spec)
    for name in quantizations_wanted or ():
        if name not in suitable:
            raise _unsuitable(spec, name)
    own, table = family(spec), [row for row in FORMATS if row.quantization in suitable]
    rows: list[Format] = []
    for row in table:
        asked = row.format in (formats_wanted or list_formats())
        if not asked or row.quantization not in (quantizations_wanted or list_quantizations()):
            continue
        same = next((r for r in rows if own in row.convert and r.convert[own] is row.convert[own]), None)
        if own not in row.convert:
            if quantizations_wanted:
                cli.note(f"skipped {row.format} {row.quantization}: not supported for {own} networks")
        elif same is not None:
            if quantizations_wanted:
                cli.note(f"skipped {row.format} {row.quantization}: same as {same.quantization} for {own} networks")
        else:
            rows.append(row)
    if not rows:
        accepted = [f"{r.format} {r.quantization}" for r in table if own in r.convert]
        raise errors.InputError(f"{spec.architecture} supports only: {', '.join(accepted)}")
    return rows


def check_batch_size(spec: ModelSpec, rows: Sequence[Format], size: int) -> None:
    """Checks the number of images in one run of a network's ONNX files, 0 for any.

    Raises InputError for another number than 1 if the network is a transformer or no file is ONNX.
    """
    if size == 1:
        return
    if family(spec) == TRANSFORMER:
        raise errors.InputError(
            f"--batch: {spec.architecture} is a transformer, whose tokens are laid out for one image; leave --batch out"
        )
    if all(row.format != "onnx" for row in rows):
        raise errors.InputError("--batch applies to ONNX files, TFLite files take one image: add --format onnx")


def _suitable(spec: ModelSpec) -> list[str]:
    """Returns the quantizations that a network suits: the one it was trained for, or all that start from floats."""
    if trained.weight_bits(spec):
        return [spec.quantization]
    return [name for name in list_quantizations() if name not in trained.TRAINED]


def _unsuitable(spec: ModelSpec, quantization: str) -> errors.InputError:
    if bits := trained.weight_bits(spec):
        return errors.InputError(
            f"--quantization {quantization}: the network has {bits}-bit weights; accepted: {spec.quantization}"
        )
    bits = trained.TRAINED[quantization]
    return errors.InputError(
        f"--quantization {quantization} requires a network with {bits}-bit weights: train with "
        f"--config.quant.bits={bits} or run ferjax compress --bits {bits}"
    )

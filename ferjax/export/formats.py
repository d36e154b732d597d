"""The table of what a network can become; it drives the command's flags, the documentation and the benchmark."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ferjax import cli, errors, models
from ferjax.export import onnx_file, tflite
from ferjax.export.conversion import Conversion
from ferjax.models import CONVOLUTIONAL, FAMILIES, SWISH, TRANSFORMER
from ferjax.spec import ModelSpec
from ferjax.weights import trained

RUNTIMES = {"tflite": "LiteRT", "onnx": "ONNX Runtime"}


class Tolerance(NamedTuple):
    """How far a file may depart from the network it was made from.

    Attributes:
      max_difference: of any probability, in 0..1.
      agreement: least share of images that get the same answer, in 0..1.
      accuracy_loss: most accuracy that may be lost, in points of 100.
    """

    max_difference: float
    agreement: float
    accuracy_loss: float


# A float32 file must also give every image the same answer unless two answers are within the difference.
EXACT = Tolerance(1e-4, 0.998, 1.0)
HALF = Tolerance(1e-2, 0.998, 1.0)
INTEGER = Tolerance(1.0, 0.97, 1.0)
TRAINED = Tolerance(1.0, 0.995, 0.5)  # against the network that rounds as the file does
# LiteRT hands 4-bit convolutions to kernels that rescale in fixed point, not to XNNPACK, which does it in floats: of a
# ResNet-20's answers 98.9 % agree, of a mini-Xception's 97.9 %, as do their 8-bit files' without XNNPACK (99.1 % and
# 98.3 %; with it 99.7 % and 99.9 %). So it keeps to what integers found after training keep to.
FIXED_POINT = Tolerance(1.0, 0.97, 0.5)


class Format(NamedTuple):
    """One row of the table: a file format and how its numbers are stored and computed.

    Attributes:
      format: "tflite" or "onnx".
      quantization: as on the command line and in `ModelSpec.quantization`.
      convert: for each of `ferjax.models.FAMILIES` that it suits, the function that makes the file's bytes.
      tolerance: what the file must keep to.
    """

    format: str
    quantization: str
    convert: Mapping[str, Callable[[Conversion], bytes]]
    tolerance: Tolerance

    def make(self, source: Conversion) -> bytes:
        """Returns the file of a network that the row suits, without its spec."""
        return self.convert[family(source.network.spec)](source)

    @property
    def suffix(self) -> str:
        """What a file of this row adds to the name of its network, such as "_int8.tflite"."""
        return ("" if self.quantization == "none" else f"_{self.quantization}") + f".{self.format}"

    @property
    def runtime(self) -> str:
        """The runtime that serves it."""
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
            # Static ranges of either are slower and less faithful than ranges found for each image.
            SWISH: tflite.dynamic_range,
            TRANSFORMER: tflite.dynamic_range,
        },
        INTEGER,
    ),
    Format("tflite", "weight-only", _all(tflite.weight_only), INTEGER),
    Format("onnx", "none", _all(onnx_file.float32), EXACT),
    Format("onnx", "float16", _all(onnx_file.float16), HALF),
    Format("onnx", "dynamic", {TRANSFORMER: onnx_file.dynamic_matmul}, INTEGER),
    # In onnxruntime every int8 form of a hard-swish network was slower than float32: weight-only is theirs.
    Format("onnx", "int8", {CONVOLUTIONAL: onnx_file.static_int8, TRANSFORMER: onnx_file.dynamic_matmul}, INTEGER),
    Format("onnx", "weight-only", _all(onnx_file.weight_only), INTEGER),
    # Of networks that were trained with rounding, and no others; onnxruntime has no 4-bit convolution.
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
    """Returns the names of the quantisations."""
    return list(dict.fromkeys(row.quantization for row in FORMATS))


def choose(
    spec: ModelSpec, formats_wanted: Sequence[str] | None = None, quantizations_wanted: Sequence[str] | None = None
) -> list[Format]:
    """Returns the rows of the table for a network, in its order, no two of which make the same file.

    Args:
      spec: of the network.
      formats_wanted: names; all if not given.
      quantizations_wanted: names; all that suit the network if not given.

    Raises:
      InputError: for an unknown name, for integers that the network was not trained for or floats where it was, or
        where nothing of what was asked for suits the network.
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
        twin = next((r for r in rows if own in row.convert and r.convert[own] is row.convert[own]), None)
        if own not in row.convert:
            if quantizations_wanted:
                cli.note(f"{row.format} {row.quantization} is left out: it does not suit {own} networks")
        elif twin is not None:
            if quantizations_wanted:
                cli.note(f"{row.format} {row.quantization} is left out: for {own} networks it is {twin.quantization}")
        else:
            rows.append(row)
    if not rows:
        these = ", ".join(f"{r.format} {r.quantization}" for r in table if own in r.convert)
        raise errors.InputError(f"nothing of what was asked for suits {spec.architecture}; these do: {these}")
    return rows


def _suitable(spec: ModelSpec) -> list[str]:
    """Returns the quantizations that a network suits: the one it was trained for, or all that start from floats."""
    if trained.weight_bits(spec):
        return [spec.quantization]
    return [name for name in list_quantizations() if name not in trained.TRAINED]


def _unsuitable(spec: ModelSpec, quantization: str) -> errors.InputError:
    if bits := trained.weight_bits(spec):
        return errors.InputError(
            f"this network was quantised to {bits}-bit weights: export it as {spec.quantization}, not as {quantization}"
        )
    bits = trained.TRAINED[quantization]
    return errors.InputError(
        f"{quantization} needs a network that was quantised to {bits}-bit weights, and this one is in floats: train it "
        f"with --config.quant.bits={bits}, or run ferjax compress --bits {bits}"
    )

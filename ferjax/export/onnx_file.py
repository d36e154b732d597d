"""Makes ONNX files from the float32 TFLite file; each public function takes a Conversion and returns a file."""

import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from ferjax.export import onnx_graph, tflite
from ferjax.export.conversion import Conversion, quiet
from ferjax.export.flatbuffer import quantize_channels

# Of opset 18; older versions have no wheels for Python 3.11 and were not tested.
LEAST_RUNTIME = "ONNX Runtime 1.15.0"


def float32(source: Conversion) -> bytes:
    """Returns the network in float32."""
    return onnx_graph.from_tflite(source.float32).SerializeToString()


def float16(source: Conversion) -> bytes:
    """Stores weights in half precision; onnxruntime converts them to float32 once, when it loads the file.

    On CPUs, half-precision arithmetic is several times slower than float32.
    """
    from onnx import TensorProto, helper, numpy_helper

    def rewrite(name: str, weights: np.ndarray, axis: int) -> list[Any]:
        half = numpy_helper.from_array(weights.astype(np.float16), f"{name}/float16")
        return [half, helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT)]

    return _stored(source, rewrite)


def weight_only(source: Conversion) -> bytes:
    """Stores int8 weights with per-channel scales; onnxruntime dequantizes them once, when it loads the file.

    It uses Mul, because onnxruntime would evaluate DequantizeLinear for every image.
    """
    from onnx import TensorProto, helper, numpy_helper

    def rewrite(name: str, weights: np.ndarray, axis: int) -> list[Any]:
        integers, scales = quantize_channels(weights, axis)
        scales = scales.reshape([-1 if a == axis else 1 for a in range(weights.ndim)])
        stored = numpy_helper.from_array(integers, f"{name}/int8")
        scale = numpy_helper.from_array(scales, f"{name}/scale")
        cast = helper.make_node("Cast", [stored.name], [f"{name}/cast"], to=TensorProto.FLOAT)
        return [stored, scale, cast, helper.make_node("Mul", [cast.output[0], scale.name], [name])]

    return _stored(source, rewrite)


def dynamic_matmul(source: Conversion) -> bytes:
    """Quantizes matrix products to int8 with dynamic ranges; the rest stays in float32.

    Dynamic int8 convolutions are three to ten times slower than float32.
    """

    def quantize(plain: str, target: str) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            plain,
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,  # see `static_int8`
            op_types_to_quantize=["MatMul", "Gemm"],
        )

    return _quantized(source, quantize)


def static_int8(source: Conversion) -> bytes:
    """Computes in int8 with static ranges of the calibration images: unsigned activations, per-channel weights.

    Unsigned activations (u8s8) are three times as fast as signed ones on x86. Weights use 7 of their 8 bits: without
    VNNI (AMD before 2022, Intel before 2019), x86 adds two products in 16 bits, which saturates. A mini-Xception agrees
    with 91 % of the network's predictions with 8 bits and 98 % with 7, at the same speed.
    """

    def quantize(plain: str, target: str) -> None:
        from onnxruntime import quantization as ort

        class Images(ort.CalibrationDataReader):
            """Yields one calibration image at a time."""

            def __init__(self) -> None:
                planes = source.calibration.transpose(0, 3, 1, 2)
                self.rest = ({"image": np.ascontiguousarray(planes[i : i + 1])} for i in range(len(planes)))

            def get_next(self) -> dict[str, np.ndarray] | None:
                return next(self.rest, None)

        ort.quantize_static(
            plain,
            target,
            Images(),
            quant_format=ort.QuantFormat.QDQ,
            per_channel=True,
            activation_type=ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
            reduce_range=True,
        )

    return _quantized(source, quantize)


def qat(source: Conversion) -> bytes:
    """Computes as `tflite.qat`, with QuantizeLinear and DequantizeLinear and unsigned activations (u8s8)."""
    model = onnx_graph.from_tflite(tflite.qat(source))
    _make_unsigned(model)
    return model.SerializeToString()


def with_batch_size(blob: bytes, size: int) -> bytes:
    """Returns the file of a convolutional network for `size` images in one run, or for any number if 0."""
    import onnx

    model = onnx.load_from_string(blob)
    onnx_graph.set_batch_size(model, size)
    return model.SerializeToString()


def _make_unsigned(model: Any) -> None:
    """Shifts the activations of a QDQ model from int8 to uint8, in place; the weights stay int8.

    Activations have zero points, and some are constants, such as a class token.
    """
    from onnx import numpy_helper

    graph, stored = model.graph, onnx_graph.constants(model)
    moved: dict[str, str] = {}
    for node in graph.node:
        rounds = node.op_type in ("QuantizeLinear", "DequantizeLinear")
        if rounds and node.input[0] in stored:
            continue
        for place in [2] if rounds else range(len(node.input)):
            name = node.input[place]
            values = numpy_helper.to_array(stored[name]) if name in stored else np.zeros(0)
            if values.dtype != np.int8:
                continue
            if name not in moved:
                moved[name] = f"{name}/unsigned"
                unsigned = (values.astype(np.int16) + 128).astype(np.uint8)
                graph.initializer.append(numpy_helper.from_array(unsigned, moved[name]))
            node.input[place] = moved[name]
    used = {name for node in graph.node for name in node.input}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)
    del graph.value_info[:]


def _stored(source: Conversion, rewrite: Callable[[str, np.ndarray, int], list[Any]]) -> bytes:
    model = onnx_graph.from_tflite(source.float32)
    onnx_graph.store_weights(model, rewrite)
    return model.SerializeToString()


def _quantized(source: Conversion, quantize: Callable[[str, str], None]) -> bytes:
    with quiet(), tempfile.TemporaryDirectory() as folder:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        plain, prepared, target = (str(pathlib.Path(folder) / f"{name}.onnx") for name in ("a", "b", "c"))
        pathlib.Path(plain).write_bytes(float32(source))
        # Fuses nodes that an integer operator replaces together, such as a padding and a convolution.
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize(prepared, target)
        return pathlib.Path(target).read_bytes()

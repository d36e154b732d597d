"""ONNX files, made from the float32 TFLite file; each function takes a Conversion and returns a file."""

import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from ferjax.export import onnx_graph, tflite
from ferjax.export.conversion import Conversion, quiet
from ferjax.export.flatbuffer import quantize_channels


def float32(source: Conversion) -> bytes:
    """Returns the network as it is."""
    return onnx_graph.from_tflite(source.float32).SerializeToString()


def float16(source: Conversion) -> bytes:
    """Stores weights in half precision; onnxruntime turns them into floats once, when it loads the file.

    On CPUs, computing in half precision is several times slower than in float32.
    """
    from onnx import TensorProto, helper, numpy_helper

    def rewrite(name: str, weights: np.ndarray, axis: int) -> list[Any]:
        half = numpy_helper.from_array(weights.astype(np.float16), f"{name}/float16")
        return [half, helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT)]

    return _stored(source, rewrite)


def weight_only(source: Conversion) -> bytes:
    """Stores int8 weights, one scale per output channel; onnxruntime multiplies them out once, when it loads the file.

    A product and not DequantizeLinear, which onnxruntime would compute again for every image.
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
    """Multiplies matrices in int8, each activation in the range found for the image; the rest stays float32.

    Convolutions too would be three to ten times slower than in float32.
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
    """Computes in int8, in ranges that the calibration images showed: activations unsigned, weights per channel.

    Unsigned activations (u8s8) run three times as fast on x86 processors as signed ones. Weights take 7 bits of their
    8: without VNNI (AMD before 2022, Intel before 2019) those processors add two products in 16 bits, and saturate. Of
    a mini-Xception's answers 91 % were the network's with 8 bits, 98 % with 7, in the same time.
    """

    def quantize(plain: str, target: str) -> None:
        from onnxruntime import quantization as ort

        class Images(ort.CalibrationDataReader):
            """Feeds one image after the other."""

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
    """Computes in the integers of `tflite.qat`, as QuantizeLinear and DequantizeLinear, activations unsigned (u8s8).

    Raises:
      InputError: if a range was never observed.
    """
    model = onnx_graph.from_tflite(tflite.qat(source))
    make_unsigned(model)
    return model.SerializeToString()


def make_unsigned(model: Any) -> None:
    """Moves the activations of a QDQ model from int8 to uint8, in place: each zero point by 128.

    Args:
      model: an ONNX model; weights, which are dequantised from constants, stay int8.
    """
    from onnx import numpy_helper

    graph, stored = model.graph, onnx_graph.constants(model)
    moved: dict[str, str] = {}
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[0] in stored:
            continue
        name = node.input[2]
        zero_point = numpy_helper.to_array(stored[name])
        if zero_point.dtype != np.int8:
            continue
        if name not in moved:
            moved[name] = f"{name}/unsigned"
            unsigned = (zero_point.astype(np.int16) + 128).astype(np.uint8)
            graph.initializer.append(numpy_helper.from_array(unsigned, moved[name]))
        node.input[2] = moved[name]
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
        # Fuses what an integer operator replaces as a whole, such as a convolution and its padding.
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize(prepared, target)
        return pathlib.Path(target).read_bytes()

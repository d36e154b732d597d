"""ONNX files, made from the float32 TFLite file; each function takes a Network and returns a file."""

import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from ferjax.export import onnx_graph
from ferjax.export.conversion import Network, quiet
from ferjax.export.flatbuffer import quantize_channels


def float32(network: Network) -> bytes:
    """Returns the network as it is."""
    return onnx_graph.from_tflite(network.float32).SerializeToString()


def float16(network: Network) -> bytes:
    """Stores weights in half precision; onnxruntime turns them into floats once, when it loads the file.

    On CPUs, computing in half precision is several times slower than in float32.
    """
    from onnx import TensorProto, helper, numpy_helper

    def rewrite(name: str, weights: np.ndarray, axis: int) -> list[Any]:
        half = numpy_helper.from_array(weights.astype(np.float16), f"{name}/float16")
        return [half, helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT)]

    return _stored(network, rewrite)


def weight_only(network: Network) -> bytes:
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

    return _stored(network, rewrite)


def dynamic_matmul(network: Network) -> bytes:
    """Multiplies matrices in int8, each activation in the range found for the image; the rest stays float32.

    Convolutions too would be three to ten times slower than in float32.
    """

    def quantize(source: str, target: str) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            source,
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,  # see `static_int8`
            op_types_to_quantize=["MatMul", "Gemm"],
        )

    return _quantized(network, quantize)


def static_int8(network: Network) -> bytes:
    """Computes in int8, in ranges that the calibration images showed: activations unsigned, weights per channel.

    Unsigned activations (u8s8) run three times as fast on x86 processors as signed ones. Weights take 7 bits of their
    8: without VNNI (AMD before 2022, Intel before 2019) those processors add two products in 16 bits, and saturate. Of
    a mini-Xception's answers 91 % were the network's with 8 bits, 98 % with 7, in the same time.
    """

    def quantize(source: str, target: str) -> None:
        from onnxruntime import quantization as ort

        class Images(ort.CalibrationDataReader):
            """Feeds one image after the other."""

            def __init__(self) -> None:
                planes = network.calibration.transpose(0, 3, 1, 2)
                self.rest = ({"image": np.ascontiguousarray(planes[i : i + 1])} for i in range(len(planes)))

            def get_next(self) -> dict[str, np.ndarray] | None:
                return next(self.rest, None)

        ort.quantize_static(
            source,
            target,
            Images(),
            quant_format=ort.QuantFormat.QDQ,
            per_channel=True,
            activation_type=ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
            reduce_range=True,
        )

    return _quantized(network, quantize)


def _stored(network: Network, rewrite: Callable[[str, np.ndarray, int], list[Any]]) -> bytes:
    model = onnx_graph.from_tflite(network.float32)
    onnx_graph.store_weights(model, rewrite)
    return model.SerializeToString()


def _quantized(network: Network, quantize: Callable[[str, str], None]) -> bytes:
    with quiet(), tempfile.TemporaryDirectory() as folder:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        source, prepared, target = (str(pathlib.Path(folder) / f"{name}.onnx") for name in ("a", "b", "c"))
        pathlib.Path(source).write_bytes(float32(network))
        # Fuses what an integer operator replaces as a whole, such as a convolution and its padding.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize(prepared, target)
        return pathlib.Path(target).read_bytes()

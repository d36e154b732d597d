"""What a file computes in floating point: an integer network is one only if nothing is left here."""

import collections
import pathlib
from typing import Any

from ferjax.export import flatbuffer, onnx_graph

# What turns floats into integers and back, at the edge of an integer network.
_EDGES = ("QUANTIZE", "DEQUANTIZE", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
# What passes numbers on, or clips them: fused into the integer operation beside it.
_TRANSPARENT = ("Relu", "Clip", "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Pad", "Identity")


def float_operations(path: pathlib.Path) -> dict[str, int]:
    """Returns how often each operation of a .tflite or .onnx file computes in floating point; {} for integers only.

    An ONNX operation between DequantizeLinear and QuantizeLinear, its weights dequantised too, is one of integers.
    """
    blob = path.read_bytes()
    return flatbuffer.float_operations(blob, but=_EDGES) if path.suffix == ".tflite" else _onnx(blob)


def _onnx(blob: bytes) -> dict[str, int]:
    import onnx
    from onnx import TensorProto

    model = onnx.load_from_string(blob)
    constants = onnx_graph.constants(model)
    maker: dict[str, Any] = {out: node for node in model.graph.node for out in node.output}
    readers: dict[str, list[Any]] = collections.defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    outputs = {value.name for value in model.graph.output}

    def comes_from_integers(name: str) -> bool:
        if name in constants:
            return constants[name].data_type != TensorProto.FLOAT or not constants[name].dims
        made_by = maker.get(name)
        if made_by is None:
            return False
        if made_by.op_type in _TRANSPARENT:
            return comes_from_integers(made_by.input[0])
        return made_by.op_type == "DequantizeLinear"

    def goes_to_integers(name: str) -> bool:
        return name not in outputs and all(
            all(map(goes_to_integers, node.output)) if node.op_type in _TRANSPARENT else node.op_type in _EDGES
            for node in readers[name]
        )

    found: collections.Counter[str] = collections.Counter()
    for node in model.graph.node:
        if node.op_type in (*_EDGES, *_TRANSPARENT, "Cast", "Constant") or node.op_type.endswith("Integer"):
            continue
        data = [name for name in node.input if name]
        if not (all(map(comes_from_integers, data)) and all(map(goes_to_integers, node.output))):
            found[node.op_type] += 1
    return dict(found)

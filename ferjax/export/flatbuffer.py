"""TFLite files taken apart: their operations, and float weights replaced by integers that are unpacked when loaded."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

# Axis of the output channels in the weights of each operation, which are its second input.
_CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
_SMALL = 1024  # weights; below, a scale per channel outweighs what integers save


def operations(blob: bytes) -> dict[str, int]:
    """Returns how often each operation stands in a TFLite file; one that is not built in is called CUSTOM."""
    model = _unpack(blob)
    names = [_name(code) for code in model.operatorCodes]
    return dict(collections.Counter(names[op.opcodeIndex] for graph in model.subgraphs for op in graph.operators))


def float_operations(blob: bytes, *, but: Sequence[str] = ()) -> dict[str, int]:
    """Returns how often each operation of a TFLite file takes or gives float32 numbers.

    Args:
      blob: the file.
      but: operations that are not counted.
    """
    model = _unpack(blob)
    names, types = [_name(code) for code in model.operatorCodes], _names_of("TensorType")
    counts = collections.Counter(
        names[op.opcodeIndex]
        for graph in model.subgraphs
        for op in graph.operators
        if any(types[graph.tensors[i].type] == "FLOAT32" for i in (*op.inputs, *op.outputs) if i >= 0)
    )
    return {name: count for name, count in counts.items() if name not in but}


def tensor_types(blob: bytes, operation: str, position: int) -> set[str]:
    """Returns the types, such as INT8, of one input of every operation of a kind."""
    model = _unpack(blob)
    names, types = [_name(code) for code in model.operatorCodes], _names_of("TensorType")
    return {
        types[graph.tensors[op.inputs[position]].type]
        for graph in model.subgraphs
        for op in graph.operators
        if names[op.opcodeIndex] == operation
    }


def integer_weights(blob: bytes) -> bytes:
    """Returns the file with int8 weights, one scale per output channel, and the float operations as they were.

    The runtime turns the weights into floats once, when it loads the file: a quarter of the size, the speed and very
    nearly the answers of the float file.

    Args:
      blob: a float32 TFLite file.
    """
    model = _unpack(blob)
    graph = model.subgraphs[0]
    names = [_name(code) for code in model.operatorCodes]
    unpacking: dict[int, Any] = {}
    for op in graph.operators:
        axis = _CHANNEL_AXIS.get(names[op.opcodeIndex])
        if axis is None or op.inputs[1] in unpacking:
            continue
        weights = _floats(model, graph.tensors[op.inputs[1]])
        if weights is not None and weights.size >= _SMALL:
            unpacking[op.inputs[1]] = _unpack_when_loaded(model, op.inputs[1], *quantize_channels(weights, axis), axis)
    graph.operators = [*unpacking.values(), *graph.operators]
    used = {tensor.buffer for tensor in graph.tensors} | {entry.buffer for entry in model.metadata or []}
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None
    return _pack(model)


def in_floats(blob: bytes, operation: str) -> bytes:
    """Returns the file with one kind of integer operation computed in floats, integers before and after it.

    Args:
      blob: a TFLite file.
      operation: one with a single input, such as HARD_SWISH; the file is returned as it is where there is none.
    """
    model = _unpack(blob)
    graph, changed = model.subgraphs[0], []
    names, types = [_name(code) for code in model.operatorCodes], _names_of("TensorType")
    for op in graph.operators:
        if names[op.opcodeIndex] != operation or types[graph.tensors[op.inputs[0]].type] != "INT8":
            changed.append(op)
            continue
        (given,), (result,) = op.inputs, op.outputs
        inner, outer = (_float_twin(graph, index) for index in (given, result))
        op.inputs, op.outputs = np.array([inner], np.int32), np.array([outer], np.int32)
        changed += [_operator(model, "DEQUANTIZE", given, inner), op, _operator(model, "QUANTIZE", outer, result)]
    if len(changed) == len(graph.operators):
        return blob
    graph.operators = changed
    return _pack(model)


def unpacked_weights(blob: bytes, operation: str) -> bytes:
    """Returns the file with one kind of operation computed in floats where floats met int8 weights; these stay int8.

    The runtime turns the weights into floats once, when it loads the file.

    Args:
      blob: a TFLite file.
      operation: one whose weights are its second input, such as DEPTHWISE_CONV_2D; the file is returned as it is where
        there is none.
    """
    model = _unpack(blob)
    graph = model.subgraphs[0]
    names, types = [_name(code) for code in model.operatorCodes], _names_of("TensorType")
    unpacking: dict[int, tuple[int, Any]] = {}  # the integers' tensor -> that of the floats, and what fills it
    for op in graph.operators:
        if names[op.opcodeIndex] != operation:
            continue
        given, weights = op.inputs[:2]
        if [types[graph.tensors[index].type] for index in (given, weights)] == ["FLOAT32", "INT8"]:
            if weights not in unpacking:
                twin = _float_twin(graph, weights)
                unpacking[weights] = twin, _operator(model, "DEQUANTIZE", weights, twin)
            op.inputs = np.array([given, unpacking[weights][0], *op.inputs[2:]], np.int32)
    if not unpacking:
        return blob
    graph.operators = [*(op for _, op in unpacking.values()), *graph.operators]
    return _pack(model)


def quantize_channels(weights: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns int8 weights in -127 … 127 and their float32 scales, one for each index along `axis`."""
    others = tuple(a for a in range(weights.ndim) if a != axis)
    scales = np.maximum(np.abs(weights).max(axis=others, keepdims=True), 1e-8) / 127
    return np.rint(weights / scales).astype(np.int8), scales.astype(np.float32).ravel()


def _unpack_when_loaded(model: Any, index: int, integers: np.ndarray, scales: np.ndarray, axis: int) -> Any:
    """Returns an operation that fills a tensor with what the integers stand for; its own numbers are dropped."""
    from ai_edge_litert import schema_py_generated as schema

    tensor = model.subgraphs[0].tensors[index]
    stored, buffer, grid = schema.TensorT(), schema.BufferT(), schema.QuantizationParametersT()
    buffer.data = np.frombuffer(integers.tobytes(), np.uint8)
    model.buffers.append(buffer)
    grid.scale, grid.zeroPoint, grid.quantizedDimension = scales, np.zeros(len(scales), np.int64), axis
    stored.name = tensor.name + b"/int8"
    stored.shape, stored.type, stored.quantization = tensor.shape, schema.TensorType.INT8, grid
    stored.buffer = len(model.buffers) - 1
    model.subgraphs[0].tensors.append(stored)
    tensor.buffer = 0  # the empty one
    return _operator(model, "DEQUANTIZE", len(model.subgraphs[0].tensors) - 1, index)


def _float_twin(graph: Any, index: int) -> int:
    """Adds a float32 tensor of the shape of another, and returns its index."""
    from ai_edge_litert import schema_py_generated as schema

    like, twin = graph.tensors[index], schema.TensorT()
    name = f"float{index}".encode()  # the converter's names are a hundred bytes long
    twin.name, twin.shape, twin.type, twin.buffer = name, like.shape, schema.TensorType.FLOAT32, 0
    twin.shapeSignature = like.shapeSignature
    graph.tensors.append(twin)
    return len(graph.tensors) - 1


def _operator(model: Any, name: str, given: int, result: int) -> Any:
    """Returns a new operation from one tensor to another."""
    from ai_edge_litert import schema_py_generated as schema

    operator = schema.OperatorT()
    operator.opcodeIndex = _code(model, name)
    operator.inputs, operator.outputs = np.array([given], np.int32), np.array([result], np.int32)
    return operator


def _code(model: Any, name: str) -> int:
    """Returns the index of a built-in operation in the file's list, adding it where it is missing."""
    from ai_edge_litert import schema_py_generated as schema

    names = [_name(code) for code in model.operatorCodes]
    if name not in names:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        code.version = 2
        model.operatorCodes.append(code)
        return len(names)
    return names.index(name)


def _floats(model: Any, tensor: Any) -> np.ndarray | None:
    """Returns the constant float values of a tensor, or None if it has none."""
    from ai_edge_litert import schema_py_generated as schema

    data = model.buffers[tensor.buffer].data
    if data is None or tensor.type != schema.TensorType.FLOAT32:
        return None
    return np.frombuffer(np.asarray(data, np.uint8).tobytes(), np.float32).reshape(tensor.shape)


def _unpack(blob: bytes) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(bytearray(blob), 0)


def _pack(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _name(code: Any) -> str:
    return _names_of("BuiltinOperator")[max(code.builtinCode, code.deprecatedBuiltinCode)]


def _names_of(enumeration: str) -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {value: name for name, value in vars(getattr(schema, enumeration)).items() if isinstance(value, int)}

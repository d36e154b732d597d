"""Inspects and edits TFLite files: counts operations, stores weights as integers, changes numeric types."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

# Axis of the output channels in the weights of each operation, which are its second input.
_CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
# The version of DEQUANTIZE for int8 with one scale, and with a scale per channel.
_ONE_SCALE, _CHANNEL_SCALES = 2, 5
_SMALL = 1024  # number of weights; smaller tensors would grow by their per-channel scales


def operations(blob: bytes) -> dict[str, int]:
    """Counts the operations of a TFLite file by name; CUSTOM for those that are not built in."""
    model = _unpack(blob)
    names = [_name(code) for code in model.operatorCodes]
    return dict(collections.Counter(names[op.opcodeIndex] for graph in model.subgraphs for op in graph.operators))


def float_operations(blob: bytes, *, but: Sequence[str] = ()) -> dict[str, int]:
    """Counts the operations of a TFLite file with float32 inputs or outputs by name, except those in `but`."""
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
    """Returns the types, such as INT8, of the input at a position of all operations of a name."""
    model = _unpack(blob)
    names, types = [_name(code) for code in model.operatorCodes], _names_of("TensorType")
    return {
        types[graph.tensors[op.inputs[position]].type]
        for graph in model.subgraphs
        for op in graph.operators
        if names[op.opcodeIndex] == operation
    }


def least_runtime(blob: bytes) -> str:
    """Returns the oldest version of TensorFlow Lite that loads a TFLite file, such as "2.7.0".

    The converter derives it from the versions of the operations and stores it in the file. It does not know of the
    operations that are added here, and gives too low a version for 4-bit fully connected weights.
    """
    model = _unpack(blob)
    graph, names, types = model.subgraphs[0], [_name(code) for code in model.operatorCodes], _names_of("TensorType")
    stored = next(entry for entry in model.metadata if entry.name == b"min_runtime_version")
    needed = [bytes(model.buffers[stored.buffer].data).rstrip(b"\0").decode()]
    if any(_name(code) == "DEQUANTIZE" and code.version == _CHANNEL_SCALES for code in model.operatorCodes):
        needed.append("2.7.0")
    connected = [op for op in graph.operators if names[op.opcodeIndex] == "FULLY_CONNECTED"]
    if any(types[graph.tensors[op.inputs[1]].type] == "INT4" for op in connected):
        needed.append("2.19.0")
    return max(needed, key=lambda version: [int(part) for part in version.split(".")])


def integer_weights(blob: bytes) -> bytes:
    """Returns a float32 TFLite file with its weights stored as int8, one scale per output channel.

    The runtime dequantizes the weights once, when it loads the file. The operations stay in float32.
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
    """Returns a TFLite file with the int8 operations of one name, such as HARD_SWISH, computed in float32.

    The operation must have one input.
    """
    model = _unpack(blob)
    graph, changed = model.subgraphs[0], []
    names, types = [_name(code) for code in model.operatorCodes], _names_of("TensorType")
    for op in graph.operators:
        if names[op.opcodeIndex] != operation or types[graph.tensors[op.inputs[0]].type] != "INT8":
            changed.append(op)
            continue
        (given,), (result,) = op.inputs, op.outputs
        inner, outer = (_float_copy(graph, index) for index in (given, result))
        op.inputs, op.outputs = np.array([inner], np.int32), np.array([outer], np.int32)
        changed += [_operator(model, "DEQUANTIZE", _ONE_SCALE, given, inner), op]
        changed.append(_operator(model, "QUANTIZE", 1, outer, result))
    if len(changed) == len(graph.operators):
        return blob
    graph.operators = changed
    return _pack(model)


def unpacked_weights(blob: bytes, operation: str) -> bytes:
    """Returns a TFLite file with the operations of one name computed in float32 where the input is float32.

    Their second input, the int8 weights, stays stored as int8; the runtime dequantizes it once, when it loads the file.
    """
    model = _unpack(blob)
    graph = model.subgraphs[0]
    names, types = [_name(code) for code in model.operatorCodes], _names_of("TensorType")
    unpacking: dict[int, tuple[int, Any]] = {}  # int8 tensor -> float tensor, operation that dequantizes
    for op in graph.operators:
        if names[op.opcodeIndex] != operation:
            continue
        given, weights = op.inputs[:2]
        if [types[graph.tensors[index].type] for index in (given, weights)] == ["FLOAT32", "INT8"]:
            if weights not in unpacking:
                floats = _float_copy(graph, weights)
                unpacking[weights] = floats, _operator(model, "DEQUANTIZE", _CHANNEL_SCALES, weights, floats)
            op.inputs = np.array([given, unpacking[weights][0], *op.inputs[2:]], np.int32)
    if not unpacking:
        return blob
    graph.operators = [*(op for _, op in unpacking.values()), *graph.operators]
    return _pack(model)


def quantize_channels(weights: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns int8 weights in -127..127 and their float32 scales, one for each index along `axis`."""
    others = tuple(a for a in range(weights.ndim) if a != axis)
    scales = np.maximum(np.abs(weights).max(axis=others, keepdims=True), 1e-8) / 127
    return np.rint(weights / scales).astype(np.int8), scales.astype(np.float32).ravel()


def _unpack_when_loaded(model: Any, index: int, integers: np.ndarray, scales: np.ndarray, axis: int) -> Any:
    """Stores a tensor as integers and returns the operation that dequantizes them into it."""
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
    tensor.buffer = 0  # buffer 0 is empty
    return _operator(model, "DEQUANTIZE", _CHANNEL_SCALES, len(model.subgraphs[0].tensors) - 1, index)


def _float_copy(graph: Any, index: int) -> int:
    """Adds a float32 tensor with the shape of tensor `index` and returns its index."""
    from ai_edge_litert import schema_py_generated as schema

    like, added = graph.tensors[index], schema.TensorT()
    name = f"float{index}".encode()  # short, unlike the converter's names of a hundred bytes
    added.name, added.shape, added.type, added.buffer = name, like.shape, schema.TensorType.FLOAT32, 0
    added.shapeSignature = like.shapeSignature
    graph.tensors.append(added)
    return len(graph.tensors) - 1


def _operator(model: Any, name: str, version: int, given: int, result: int) -> Any:
    """Returns a new operation from one tensor to another."""
    from ai_edge_litert import schema_py_generated as schema

    operator = schema.OperatorT()
    operator.opcodeIndex = _code(model, name, version)
    operator.inputs, operator.outputs = np.array([given], np.int32), np.array([result], np.int32)
    return operator


def _code(model: Any, name: str, version: int) -> int:
    """Returns the index of a built-in operation in the operator codes, adding it if it is missing."""
    from ai_edge_litert import schema_py_generated as schema

    known = [(_name(code), code.version) for code in model.operatorCodes]
    if (name, version) not in known:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        code.version = version
        model.operatorCodes.append(code)
        return len(known)
    return known.index((name, version))


def _floats(model: Any, tensor: Any) -> np.ndarray | None:
    """Returns the constant float32 values of a tensor, None if it is not such a constant."""
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

"""Converts YuNet from ONNX to TFLite, so that one runtime of the browser runs the detector and the classifier.

The file of OpenCV's zoo has 53 convolutions and six other kinds of operations. They become the same operations of
TFLite, channels last, in float32. TFLite files have fixed shapes: the result has one signature for each size, and all
of them share the weights.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ferjax import metadata
from ferjax.errors import InputError

# Sizes (width, height) of the images that the page searches, by area: a tracked face, then whole frames reduced to 320
# pixels, wide and upright. The smallest that fits is used.
SIZES = ((64, 64), (96, 96), (320, 192), (192, 320), (320, 256), (256, 320), (320, 320))
LEVELS = (8, 16, 32)  # pixels of a cell; one group of outputs each
OUTPUTS = ("cls", "obj", "bbox", "kps")
# onnx.proto: the fields of GraphProto, NodeProto, AttributeProto and TensorProto.
_INITIALIZER = 5
_INPUT, _OUTPUT, _OP_TYPE, _ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _INTS = 1, 8
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _FLOAT = 1, 2, 8, 9, b"\x01"


class _Node(NamedTuple):
    """One operation of the ONNX graph."""

    kind: str
    inputs: list[str]
    outputs: list[str]
    stride: int


def to_tflite(path: pathlib.Path) -> bytes:
    """Returns YuNet as a TFLite file with a signature for each size.

    The signature "WIDTHxHEIGHT" takes float32 (1, height, width, 3), BGR in 0..255. Its outputs are named as in the
    ONNX file, "cls_8" … "kps_32", and have shape (1, height / level, width / level, channels); "cls" and "obj" are
    logits.

    Args:
      path: the .onnx file.

    Raises:
      InputError: if the file is not a YuNet model.
    """
    try:
        nodes, weights = _read(path)
        graph = _Writer(weights)
        for size in SIZES:
            graph.add(nodes, *size)
    except (KeyError, IndexError, ValueError, StopIteration) as error:
        raise InputError(f"{path} is not a YuNet model: run `ferjax fetch yunet`") from error
    return graph.file()


def _read(path: pathlib.Path) -> tuple[list[_Node], dict[str, np.ndarray]]:
    """Returns the nodes of an ONNX file in order, and its float32 weights by name."""
    data = path.read_bytes()
    graph = next(f for f in metadata.fields(data, 0, len(data)) if f.number == metadata.GRAPH)
    nodes, weights = [], {}
    for field in metadata.fields(data, graph.value, graph.end):
        if field.number == metadata.NODE:
            nodes.append(_node(data, field))
        elif field.number == _INITIALIZER:
            tensor = list(metadata.fields(data, field.value, field.end))
            name, kind = (next(data[f.value : f.end] for f in tensor if f.number == n) for n in (_NAME, _DATA_TYPE))
            if kind == _FLOAT:
                dims = [metadata.varint(data, f.value)[0] for f in tensor if f.number == _DIMS]
                values = next(data[f.value : f.end] for f in tensor if f.number == _RAW_DATA)
                weights[name.decode()] = np.frombuffer(values, "<f4").reshape(dims)
    return nodes, weights


def _node(data: bytes, field: metadata.Field) -> _Node:
    parts = list(metadata.fields(data, field.value, field.end))
    names = {n: [data[f.value : f.end].decode() for f in parts if f.number == n] for n in (_INPUT, _OUTPUT, _OP_TYPE)}
    stride = 1
    for attribute in (f for f in parts if f.number == _ATTRIBUTE):
        inner = list(metadata.fields(data, attribute.value, attribute.end))
        if any(f.number == _ATTRIBUTE_NAME and data[f.value : f.end] == b"strides" for f in inner):
            stride = next(metadata.varint(data, f.value)[0] for f in inner if f.number == _INTS)
    return _Node(names[_OP_TYPE][0], names[_INPUT], names[_OUTPUT], stride)


class _Writer:
    """Builds a TFLite file with one subgraph and signature for each size."""

    def __init__(self, weights: Mapping[str, np.ndarray]):
        from ai_edge_litert import schema_py_generated as schema

        self._schema, self._weights = schema, weights
        self._model = schema.ModelT()
        self._model.version, self._model.description = 3, b"YuNet, converted from ONNX"
        self._model.buffers, self._model.subgraphs, self._model.signatureDefs = [schema.BufferT()], [], []
        self._model.operatorCodes = []
        self._stored: dict[str, int] = {}  # name of a constant -> its buffer
        self._graph: Any = None
        self._tensors: dict[str, int] = {}  # name of a tensor of the subgraph -> its index

    def file(self) -> bytes:
        """Returns the file."""
        import flatbuffers

        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def add(self, nodes: Sequence[_Node], width: int, height: int) -> None:
        """Adds the subgraph for images of one size."""
        self._graph, self._tensors = self._schema.SubGraphT(), {}
        self._graph.tensors, self._graph.operators, self._graph.name = [], [], f"{width}x{height}".encode()
        self._model.subgraphs.append(self._graph)
        self._tensor(nodes[0].inputs[0], (1, height, width, 3))
        for node in nodes:
            _WRITE[node.kind](self, node)
        self._graph.inputs = [self._tensors[nodes[0].inputs[0]]]
        names = [f"{kind}_{level}" for kind in OUTPUTS for level in LEVELS]
        self._graph.outputs = [self._tensors[name] for name in names]
        signature = self._schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = self._graph.name, len(self._model.subgraphs) - 1
        signature.inputs = [self._named("image", self._graph.inputs[0])]
        signature.outputs = [self._named(name, self._tensors[name]) for name in names]
        self._model.signatureDefs.append(signature)

    def convolution(self, node: _Node) -> None:
        """Adds a convolution with a border of zeros of half its kernel, depthwise if it has one input channel."""
        kernel, bias = (self._weights[name] for name in node.inputs[1:])
        source, (_, height, width, _) = self._tensors[node.inputs[0]], self._shape(node.inputs[0])
        if node.stride > 1:  # SAME of TFLite has no border at the left and at the top then
            border = self._constant("border", np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
            padded = self._tensor(
                f"{node.inputs[0]}/padded", (1, height + 2, width + 2, self._shape(node.inputs[0])[3])
            )
            self._operator("PAD", [source, border], padded, self._schema.PadOptionsT())
            source = padded
        depthwise = kernel.shape[1] == 1
        options = (self._schema.DepthwiseConv2DOptionsT if depthwise else self._schema.Conv2DOptionsT)()
        options.padding = self._schema.Padding.VALID if node.stride > 1 else self._schema.Padding.SAME
        options.strideW = options.strideH = node.stride
        if depthwise:
            options.depthMultiplier = 1
        weights = self._constant(node.inputs[1], kernel.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1)))
        result = self._tensor(node.outputs[0], (1, height // node.stride, width // node.stride, len(kernel)))
        inputs = [source, weights, self._constant(node.inputs[2], bias)]
        self._operator("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", inputs, result, options)

    def relu(self, node: _Node) -> None:
        """Fuses a rectification with the operation before it."""
        self._graph.operators[-1].builtinOptions.fusedActivationFunction = self._schema.ActivationFunctionType.RELU
        self.same(node)

    def same(self, node: _Node) -> None:
        """Passes a tensor on: its layout and its sigmoid are left to the reader."""
        self._tensors[node.outputs[0]] = self._tensors[node.inputs[0]]

    def pooling(self, node: _Node) -> None:
        """Adds the maximum of cells of 2 x 2."""
        options = self._schema.Pool2DOptionsT()
        options.padding = self._schema.Padding.VALID
        options.strideW = options.strideH = options.filterWidth = options.filterHeight = 2
        _, height, width, channels = self._shape(node.inputs[0])
        result = self._tensor(node.outputs[0], (1, height // 2, width // 2, channels))
        self._operator("MAX_POOL_2D", [self._tensors[node.inputs[0]]], result, options)

    def enlarging(self, node: _Node) -> None:
        """Adds the repetition of each cell, 2 x 2."""
        _, height, width, channels = self._shape(node.inputs[0])
        size = self._constant(
            f"size of {node.outputs[0]}/{height}x{width}", np.array([2 * height, 2 * width], np.int32)
        )
        result = self._tensor(node.outputs[0], (1, 2 * height, 2 * width, channels))
        options = self._schema.ResizeNearestNeighborOptionsT()
        self._operator("RESIZE_NEAREST_NEIGHBOR", [self._tensors[node.inputs[0]], size], result, options)

    def addition(self, node: _Node) -> None:
        """Adds the sum of two tensors."""
        result = self._tensor(node.outputs[0], self._shape(node.inputs[0]))
        self._operator("ADD", [self._tensors[name] for name in node.inputs], result, self._schema.AddOptionsT())

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._graph.tensors[self._tensors[name]].shape)

    def _tensor(self, name: str, shape: Sequence[int], *, buffer: int = 0, integer: bool = False) -> int:
        tensor, types = self._schema.TensorT(), self._schema.TensorType
        tensor.name, tensor.shape, tensor.buffer = name.encode(), list(shape), buffer
        tensor.type = types.INT32 if integer else types.FLOAT32
        self._graph.tensors.append(tensor)
        self._tensors[name] = len(self._graph.tensors) - 1
        return self._tensors[name]

    def _constant(self, name: str, values: np.ndarray) -> int:
        """Returns the index of a constant in the subgraph; subgraphs share its buffer."""
        if name not in self._stored:
            buffer = self._schema.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            self._model.buffers.append(buffer)
            self._stored[name] = len(self._model.buffers) - 1
        return self._tensor(name, values.shape, buffer=self._stored[name], integer=values.dtype == np.int32)

    def _operator(self, name: str, inputs: list[int], result: int, options: Any) -> None:
        codes, code = self._model.operatorCodes, getattr(self._schema.BuiltinOperator, name)
        if code not in [known.builtinCode for known in codes]:
            added = self._schema.OperatorCodeT()
            added.builtinCode = added.deprecatedBuiltinCode = code
            added.version = 1
            codes.append(added)
        operator = self._schema.OperatorT()
        operator.opcodeIndex = [known.builtinCode for known in codes].index(code)
        operator.inputs, operator.outputs, operator.builtinOptions = inputs, [result], options
        operator.builtinOptionsType = getattr(self._schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self._graph.operators.append(operator)

    def _named(self, name: str, index: int) -> Any:
        entry = self._schema.TensorMapT()
        entry.name, entry.tensorIndex = name.encode(), index
        return entry


_WRITE = {
    "Conv": _Writer.convolution,
    "Relu": _Writer.relu,
    "MaxPool": _Writer.pooling,
    "Resize": _Writer.enlarging,
    "Add": _Writer.addition,
    "Transpose": _Writer.same,
    "Reshape": _Writer.same,
    "Sigmoid": _Writer.same,
}

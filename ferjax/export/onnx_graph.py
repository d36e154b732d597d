"""Converts a TFLite file to an ONNX graph, channels first, of operators that onnxruntime fuses."""

import logging
import pathlib
import re
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from ferjax.export import onnx_handlers
from ferjax.export.conversion import import_tensorflow, quiet

OPSET = 18


def from_tflite(blob: bytes) -> Any:
    """Returns the ONNX model of a float32 TFLite file.

    Its input "image" has shape (1, channels, height, width); its outputs are "logits", "output1", ….
    """
    tensorflow = import_tensorflow()
    with quiet(), tempfile.TemporaryDirectory() as folder:
        from tf2onnx import optimizer, tfonnx
        from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

        class Transposes(TransposeOptimizer):
            """The optimizer of tf2onnx, extended to move transpositions through a hard-swish."""

            def _initialize_handlers(self) -> None:
                super()._initialize_handlers()
                self._handler_map["HardSwish"] = self._simple_through_handler

        onnx_handlers.add_gelu()
        onnx_handlers.replace_fully_connected()
        logging.getLogger("tf2onnx").setLevel(logging.ERROR)
        path = pathlib.Path(folder) / "model.tflite"
        path.write_bytes(blob)
        passes = {**optimizer._get_optimizers(), "optimize_transpose": Transposes}
        with tensorflow.Graph().as_default() as graph:
            converted = tfonnx.process_tf_graph(
                graph, tflite_path=str(path), opset=OPSET, inputs_as_nchw=[_input_name(blob)]
            )
            model = optimizer.optimize_graph(converted, catch_errors=False, optimizers=passes).make_model("ferjax")
    _channels_first(model)
    _hard_sigmoids(model)
    _plain_names(model)
    return model


def number(name: str) -> int:
    """Returns the number at the end of a name, which orders the outputs of TensorFlow's converter; 0 if none."""
    return int((re.findall(r"\d+$", name) or ["0"])[0])


def constants(model: Any) -> dict[str, Any]:
    """Returns the initializers of a model by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def store_weights(model: Any, rewrite: Callable[[str, np.ndarray, int], list[Any]], smallest: int = 1024) -> None:
    """Replaces the large weights of convolutions and matrix products, in place.

    Args:
      model: an ONNX model.
      rewrite: (name, weights, axis of the output channels) -> initializers and nodes; the last node outputs `name`.
      smallest: minimum number of weights of a tensor to replace.
    """
    import onnx
    from onnx import numpy_helper

    stored, made = constants(model), []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm") or node.input[1] not in stored:
            continue
        name = node.input[1]
        weights = numpy_helper.to_array(stored.pop(name))
        if weights.size < smallest:
            continue
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        axis = 0 if node.op_type == "Conv" or transposed else weights.ndim - 1
        made.append((name, rewrite(name, weights, axis)))
    graph = model.graph
    for name, parts in made:
        graph.initializer.remove(next(tensor for tensor in graph.initializer if tensor.name == name))
        graph.initializer.extend(part for part in parts if isinstance(part, onnx.TensorProto))
    nodes = [part for _, parts in made for part in parts if isinstance(part, onnx.NodeProto)]
    _replace(graph.node, [*nodes, *graph.node])


def set_batch_size(model: Any, size: int) -> None:
    """Changes the number of images of a convolutional model from 1 to `size`, or to any number if 0, in place.

    Its only constants with the number are the shapes of maps of one pixel, between their two layouts.
    """
    from onnx import numpy_helper

    graph, stored = model.graph, constants(model)
    for value in (*graph.input, *graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if size:
            first.dim_value = size
        else:
            first.dim_param = "batch"
    for node in graph.node:
        if node.op_type == "Reshape":
            shape = numpy_helper.to_array(stored[node.input[1]]).copy()
            shape[0] = 0  # as the input
            node.input[1] = f"{node.input[1]}/batch"
            if node.input[1] not in stored:
                stored[node.input[1]] = numpy_helper.from_array(shape, node.input[1])
                graph.initializer.append(stored[node.input[1]])
    _drop_unused(graph)
    del graph.value_info[:]


def _channels_first(model: Any) -> None:
    """Rewrites the operations that need channels last: means over positions, and per-channel factors.

    Sums over positions become average pools, which onnxruntime runs in its blocked layout. The division by the number
    of positions, which the converter has moved into the following weights, is undone.
    """
    from onnx import helper, numpy_helper, shape_inference

    graph, stored = model.graph, constants(model)
    values = shape_inference.infer_shapes(model).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*values.value_info, *values.output)}
    first: dict[str, str] = {}  # channels-last value -> its channels-first value
    renamed: dict[str, str] = {}
    nodes: list[Any] = []
    for node in graph.node:
        _replace(node.input, [renamed.get(name, name) for name in node.input])
        out, maps = node.output[0], [name for name in node.input if name in first]
        order = _new_order(node, shapes, stored)
        if order == [0, 2, 3, 1]:
            first[out] = node.input[0]
        elif order == [0, 3, 1, 2] and maps:
            renamed[out] = first[maps[0]]
            continue
        elif node.op_type == "Mul" and len(maps) == 1 and any(len(shapes.get(n, ())) == 2 for n in node.input):
            factor = next(name for name in node.input if name not in first)
            # Not Unsqueeze, which OpenCV takes for one axis only.
            map_shape = numpy_helper.from_array(np.array([0, -1, 1, 1]), f"{out}/shape")
            graph.initializer.append(map_shape)
            nodes.append(helper.make_node("Reshape", [factor, map_shape.name], [f"{out}/factor"]))
            nodes.append(helper.make_node("Mul", [first[maps[0]], f"{out}/factor"], [f"{out}/first"]))
            node = helper.make_node("Transpose", [f"{out}/first"], [out], perm=[0, 2, 3, 1])
            first[out] = f"{out}/first"
        elif node.op_type == "ReduceSum" and maps and numpy_helper.to_array(stored[node.input[1]]).tolist() == [1, 2]:
            _, height, width, _ = shapes[maps[0]]
            if _multiply_weights(graph, stored, out, height * width):
                nodes.append(helper.make_node("GlobalAveragePool", [first[maps[0]]], [f"{out}/pooled"]))
                node = helper.make_node("Flatten", [f"{out}/pooled"], [out])
        nodes.append(node)
    _replace(graph.node, nodes)
    _drop_unused(graph)


def _new_order(node: Any, shapes: dict[str, list[int]], stored: dict[str, Any]) -> list[int]:
    """Returns the new order of the axes by a Transpose, or by a Reshape of a map of one pixel; [] for other nodes."""
    from onnx import numpy_helper

    if node.op_type == "Transpose":
        return list(node.attribute[0].ints)
    if node.op_type == "Reshape" and node.input[1] in stored:
        old, new = shapes.get(node.input[0], []), numpy_helper.to_array(stored[node.input[1]]).tolist()
        if len(old) == 4 and old[2:] == [1, 1] and new == [1, 1, 1, old[1]]:
            return [0, 2, 3, 1]
        if len(old) == 4 and old[1:3] == [1, 1] and new == [1, old[3], 1, 1]:
            return [0, 3, 1, 2]
    return []


def _hard_sigmoids(model: Any) -> None:
    """Replaces min(max(x, 0), 6) / 6 by HardSigmoid, which onnxruntime fuses with the preceding product."""
    from onnx import helper, numpy_helper

    graph, stored = model.graph, constants(model)

    def value(name: str) -> float:
        return float(numpy_helper.to_array(stored[name])) if name in stored and not stored[name].dims else float("nan")

    clips = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Clip" and [value(name) for name in node.input[1:]] == [0, 6]
    }
    nodes = []
    for node in graph.node:
        if node.op_type == "Mul" and node.input[0] in clips and abs(6 * value(node.input[1]) - 1) < 1e-6:
            node = helper.make_node("HardSigmoid", [clips[node.input[0]]], node.output, alpha=1 / 6, beta=0.0)
        nodes.append(node)
    _replace(graph.node, nodes)
    _drop_unused(graph)


def _multiply_weights(graph: Any, stored: dict[str, Any], value: str, by: float) -> bool:
    """Scales the constants that multiply a value next; returns False if another operation reads the value."""
    from onnx import numpy_helper

    readers = [node for node in graph.node if value in node.input]
    if any(n.op_type not in ("MatMul", "Gemm", "Mul") or n.input[1] not in stored for n in readers):
        return False
    for reader in readers:
        name = f"{value}/{reader.input[1]}"
        weights = numpy_helper.to_array(stored[reader.input[1]])
        graph.initializer.append(numpy_helper.from_array(weights * weights.dtype.type(by), name))
        reader.input[1] = name
    return True


def _drop_unused(graph: Any) -> None:
    """Removes the nodes and constants that no output depends on."""
    needed, kept = {value.name for value in graph.output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    _replace(graph.node, kept[::-1])
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])


def _plain_names(model: Any) -> None:
    """Renames the input and the outputs as in `from_tflite`, and all other values by operator and number.

    The names of the converter are paths of several hundred characters.
    """
    graph = model.graph
    outputs = ["logits", *(f"output{i}" for i in range(1, len(graph.output)))]
    ordered = sorted((value.name for value in graph.output), key=number)
    names = {graph.input[0].name: "image"} | dict(zip(ordered, outputs, strict=True))
    for index, tensor in enumerate(graph.initializer):
        tensor.name = names.setdefault(tensor.name, f"constant{index}")
    for index, node in enumerate(graph.node):
        node.name = f"{node.op_type}{index}"
        for part, value in enumerate(node.output):
            names.setdefault(value, f"{node.name}:{part}" if part else node.name)
    for node in graph.node:
        node.doc_string = ""
        _replace(node.input, [names.get(value, value) for value in node.input])
        _replace(node.output, [names[value] for value in node.output])
    for value in (*graph.input, *graph.output):
        value.name = names[value.name]
    del graph.value_info[:]
    graph.doc_string = ""


def _replace(field: Any, items: list[Any]) -> None:
    """Replaces the contents of a repeated protobuf field."""
    copies = [item if isinstance(item, str) else type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)


def _input_name(blob: bytes) -> str:
    from ai_edge_litert.interpreter import Interpreter

    name = Interpreter(model_content=blob).get_input_details()[0]["name"]
    return name if ":" in name else f"{name}:0"

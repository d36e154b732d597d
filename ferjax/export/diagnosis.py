"""Finds the floating-point operations of a file, and the first layer where it deviates from its network."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from ferjax import spec as specs
from ferjax.export import flatbuffer, onnx_graph
from ferjax.export.conversion import Apply, Conversion, normalize
from ferjax.export.onnx_graph import number
from ferjax.export.parity import Reference
from ferjax.models.layers import tapped

_FIELDS = ("input_size", "color_order", "mean", "std", "class_names", "temperature")
_IMAGES = 4
# Conversions between floats and integers.
_EDGES = ("QUANTIZE", "DEQUANTIZE", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
# Operations that the runtime fuses into the adjacent integer operation.
_TRANSPARENT = ("Relu", "Clip", "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Pad", "Identity")


def float_operations(path: pathlib.Path) -> dict[str, int]:
    """Counts the floating-point operations of a .tflite or .onnx file by name.

    An ONNX operation with dequantized inputs and weights and quantized outputs counts as an integer operation.
    """
    blob = path.read_bytes()
    return flatbuffer.float_operations(blob, but=_EDGES) if path.suffix == ".tflite" else _onnx_floats(blob)


class Layer(NamedTuple):
    """The relative error of one intermediate value of a file.

    Attributes:
      name: name in the network, see `ferjax.models.layers.tap`; "logits" for the last.
      error: norm of the difference over norm of the value.
    """

    name: str
    error: float


def explain(path: pathlib.Path, convert: Callable[[Conversion], bytes], source: Conversion, truth: Reference) -> str:
    """Returns a phrase on where the file that `convert` made of `source` first deviates from its network."""
    file_spec = specs.read(path)
    for field in _FIELDS:
        written, wanted = getattr(file_spec, field), getattr(truth.spec, field)
        if written != wanted:
            return f"{field} is {written} in the file, {wanted} in the checkpoint"
    errors = layers(convert, source, truth.images[:_IMAGES])
    listed = ", ".join(f"{layer.name} {layer.error:.2g}" for layer in errors)
    return f"first deviating layer: {first(errors).name} (relative errors: {listed})"


def first(errors: list[Layer]) -> Layer:
    """Returns the first layer with at least a tenth of the largest error."""
    largest = max(layer.error for layer in errors)
    return next(layer for layer in errors if not layer.error < largest / 10)


def layers(convert: Callable[[Conversion], bytes], source: Conversion, images: np.ndarray) -> list[Layer]:
    """Converts the network again with its intermediates as outputs and compares them on uint8 images (N, H, W, C).

    Returns the layers in the order of computation, the logits last.
    """
    names = _intermediates(source)
    tapped_source = dataclasses.replace(source, function=partial(_with_intermediates, names=names))
    inputs = normalize(source.network.spec, images)
    reference = jax.jit(partial(tapped_source.function, source.apply))
    wanted = [[np.asarray(part) for part in reference(image[None])] for image in inputs]
    # TensorFlow sorts outputs by name, "output_10" before "output_2".
    places = np.argsort(sorted(range(len(names) + 1), key=str))
    found = [[parts[place] for place in places] for parts in _run(convert(tapped_source), inputs)]
    errors = [_error(np.stack(w), np.stack(f)) for w, f in zip(_columns(wanted), _columns(found), strict=True)]
    return [*(Layer(*pair) for pair in zip(names, errors[1:], strict=True)), Layer("logits", errors[0])]


def _onnx_floats(blob: bytes) -> dict[str, int]:
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


def _error(wanted: np.ndarray, found: np.ndarray) -> float:
    return float(np.linalg.norm(wanted - found)) / max(float(np.linalg.norm(wanted)), 1e-30)


def _columns(rows: list[list[np.ndarray]]) -> list[tuple[np.ndarray, ...]]:
    return list(zip(*rows, strict=True))


def _intermediates(source: Conversion) -> list[str]:
    """Returns the names of the intermediates in the order of computation, one for each value."""
    names: list[str] = []

    def run(image: jax.Array) -> jax.Array:
        logits, state = source.apply(image, mutable=["intermediates"])
        found = tapped(state)
        ends = {"features": 1000, "embedding": 1001}
        ordered = sorted(found, key=lambda name: ends.get(name, number(name)))
        names.extend(name for i, name in enumerate(ordered) if all(found[name] is not found[n] for n in ordered[:i]))
        return logits

    jax.eval_shape(run, jax.ShapeDtypeStruct((1, *source.network.spec.input_shape), np.float32))
    return names


def _with_intermediates(apply: Apply, image: jax.Array, *, names: list[str]) -> tuple[jax.Array, ...]:
    logits, state = apply(image, mutable=["intermediates"])
    return (logits, *(state["intermediates"][name][0] for name in names))


def _run(blob: bytes, inputs: np.ndarray) -> list[list[np.ndarray]]:
    """Returns all outputs of a file, in order, for each image."""
    if blob[4:8] == b"TFL3":
        return [_litert(blob)(image[None]) for image in inputs]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
    planes = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
    names = ["logits", *(f"output{i}" for i in range(1, len(session.get_outputs())))]
    return [session.run(names, {"image": image[None]}) for image in planes]


def _litert(blob: bytes) -> Callable[[np.ndarray], list[np.ndarray]]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=blob)
    interpreter.allocate_tensors()
    feed = interpreter.get_input_details()[0]["index"]
    outputs = [d["index"] for d in sorted(interpreter.get_output_details(), key=lambda d: number(d["name"]))]

    def run(image: np.ndarray) -> list[np.ndarray]:
        interpreter.set_tensor(feed, image)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return run

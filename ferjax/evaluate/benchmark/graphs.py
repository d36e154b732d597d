"""Counts the operations of a model file, before and after its runtime fuses them (Valverde, figure 14)."""

import os
import pathlib
import tempfile
from typing import Any

from ferjax import metadata
from ferjax.runtime import engine


def node_counts(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Returns the number of nodes in a .tflite or .onnx file, and the number that its runtime executes on the CPU.

    A subgraph that LiteRT delegates to XNNPACK counts as one node.
    """
    return _litert_counts(path) if pathlib.Path(path).suffix.lower() == ".tflite" else _onnx_counts(path)


def _litert_counts(path: str | os.PathLike[str]) -> tuple[int, int]:
    from ai_edge_litert.interpreter import Interpreter

    with engine.silence_stderr():
        interpreter = Interpreter(str(path))
        interpreter.allocate_tensors()
    nodes = interpreter._get_ops_details()
    own = [node for node in nodes if node["op_name"] != "DELEGATE"]
    # A delegate comes after the nodes that it replaces and has their outputs, so it overwrites them here.
    maker: dict[int, dict[str, Any]] = {tensor: node for node in nodes for tensor in node["outputs"]}
    wanted = [output["index"] for output in interpreter.get_output_details()]
    executed: set[int] = set()
    while wanted:
        node = maker.get(wanted.pop())
        if node is not None and node["index"] not in executed:
            executed.add(node["index"])
            wanted.extend(node["inputs"])
    return len(own), len(executed)


def _onnx_counts(path: str | os.PathLike[str]) -> tuple[int, int]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        optimized = pathlib.Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(optimized)
        options.log_severity_level = 4  # suppresses the warning that the optimized file is specific to this machine
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return metadata.onnx_nodes(path), metadata.onnx_nodes(optimized)

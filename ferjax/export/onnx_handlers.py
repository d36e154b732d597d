"""Handlers of tf2onnx for operators of TFLite that it lacks or converts wrongly."""

from typing import Any

import numpy as np


def add_gelu() -> None:
    """Adds TFLite's GELU to tf2onnx, in the form that onnxruntime fuses."""
    from tf2onnx import utils
    from tf2onnx.handler import tfl_op

    @tfl_op("TFL_GELU")
    class Gelu:
        """x / 2 · (1 + erf(x / √2)), or its tanh approximation (Hendrycks and Gimpel 2016, section 2)."""

        @classmethod
        def to_tf(cls, ctx: Any, node: Any, **_: Any) -> None:
            """Replaces a node."""
            x, out = node.input[0], node.output[0]
            kind = {"shapes": [ctx.get_shape(out)], "dtypes": [ctx.get_dtype(x)]}

            def constant(value: float) -> str:
                return ctx.make_const(utils.make_name("gelu"), np.array(value, np.float32)).output[0]

            def make(operator: str, *inputs: str) -> str:
                return ctx.make_node(operator, list(inputs), **kind).output[0]

            if "approximate" in node.attr and node.attr["approximate"].i:
                cubic = make("Mul", make("Mul", make("Mul", x, x), x), constant(0.044715))
                inner = make("Tanh", make("Mul", make("Add", x, cubic), constant(np.sqrt(2 / np.pi))))
            else:
                inner = make("Erf", make("Div", x, constant(np.sqrt(2))))
            twice = make("Mul", x, make("Add", inner, constant(1)))
            ctx.remove_node(node.name)
            ctx.make_node("Mul", [twice, constant(0.5)], outputs=[out], **kind)


def replace_fully_connected() -> None:
    """Works around tf2onnx 1.17.0, which drops the bias of a fully connected layer that flattens its input."""
    from tf2onnx import utils
    from tf2onnx.handler import tfl_op
    from tf2onnx.tflite_handlers.tfl_math import TflFullyConnectedOp

    @tfl_op("TFL_FULLY_CONNECTED")
    class FullyConnected:
        """The handler of tf2onnx, with an explicit Reshape before it."""

        @classmethod
        def to_tf(cls, ctx: Any, node: Any, **more: Any) -> None:
            """Replaces a node."""
            if not node.attr["keep_num_dims"].i and ctx.get_rank(node.input[0]) != 2:
                width = ctx.get_shape(node.input[1])[1]
                shape = ctx.make_const(utils.make_name("flat"), np.array([-1, width], np.int64)).output[0]
                flat = ctx.make_node("Reshape", [node.input[0], shape])
                flat.skip_conversion = True
                ctx.replace_inputs(node, [flat.output[0], *node.input[1:]])
            TflFullyConnectedOp.to_tf(ctx, node, **more)

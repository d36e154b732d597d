"""What tf2onnx has to be told of TFLite's operations: GELU, and a bias that it loses."""

from typing import Any

import numpy as np


def register() -> None:
    """Adds the handlers to tf2onnx, in place of its own; to be called before a conversion."""
    _gelu()
    _fully_connected()


def _gelu() -> None:
    """Teaches tf2onnx TFLite's GELU, written out as onnxruntime recognises it."""
    from tf2onnx import utils
    from tf2onnx.handler import tfl_op

    @tfl_op("TFL_GELU")
    class Gelu:
        """x / 2 · (1 + erf(x / √2)), or its tanh approximation (Hendrycks and Gimpel 2016, section 2)."""

        @classmethod
        def to_tf(cls, ctx: Any, node: Any, **_: Any) -> None:
            """Replaces one node."""
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


def _fully_connected() -> None:
    """Keeps tf2onnx from dropping the bias of a fully connected layer that flattens its input (1.17.0)."""
    from tf2onnx import utils
    from tf2onnx.handler import tfl_op
    from tf2onnx.tflite_handlers.tfl_math import TflFullyConnectedOp

    @tfl_op("TFL_FULLY_CONNECTED")
    class FullyConnected:
        """tf2onnx's own, its input flattened before it sees it."""

        @classmethod
        def to_tf(cls, ctx: Any, node: Any, **more: Any) -> None:
            """Replaces one node."""
            if not node.attr["keep_num_dims"].i and ctx.get_rank(node.input[0]) != 2:
                width = ctx.get_shape(node.input[1])[1]
                shape = ctx.make_const(utils.make_name("flat"), np.array([-1, width], np.int64)).output[0]
                flat = ctx.make_node("Reshape", [node.input[0], shape])
                flat.skip_conversion = True
                ctx.replace_inputs(node, [flat.output[0], *node.input[1:]])
            TflFullyConnectedOp.to_tf(ctx, node, **more)

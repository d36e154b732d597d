"""Counts the parameters of a network and its multiply-accumulate operations (MACs)."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend.core import ClosedJaxpr, Jaxpr


class Cost(NamedTuple):
    """Cost of a network.

    Attributes:
      parameters: number of trainable values.
      statistics: number of running statistics, which files store too.
      macs: multiply-accumulate operations in convolutions and matrix products for one image.
    """

    parameters: int
    statistics: int
    macs: int

    @property
    def bytes(self) -> int:
        """Size of parameters and statistics in float32."""
        return 4 * (self.parameters + self.statistics)


def cost(module: nn.Module, input_shape: tuple[int, ...]) -> Cost:
    """Returns the cost of a network, from `for_export`, for images (height, width, channels), without running it."""
    image = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)
    program = jax.make_jaxpr(lambda v, x: module.apply(v, x, train=False))(variables, image)
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in variables.items()}
    return Cost(sizes["params"], sizes.get("batch_stats", 0), _macs(program.jaxpr))


def _macs(program: Jaxpr) -> int:
    total = 0
    for equation in program.eqns:
        result: Any = equation.outvars[0].aval
        operands: list[Any] = [operand.aval for operand in equation.invars]
        if equation.primitive.name == "conv_general_dilated":
            kernel = operands[1]
            outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            total += result.size * (kernel.size // outputs)
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += result.size * math.prod(operands[0].shape[axis] for axis in contracted)
        else:
            repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
            total += repeats * sum(_macs(inner) for inner in _programs(equation.params))
    return total


def _programs(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """Yields the programs that an operation calls."""
    for value in params.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item

"""Fake quantization on the integer grid of TFLite and ONNX, with straight-through gradients.

A real number r stands for the integer q as r = (q - zero_point) * scale (Jacob et al. 2018, eq. 1). Weights are
symmetric, per output channel and of narrow range (int8: -127 … 127); activations are asymmetric and per tensor
(-128 … 127). `fake_quant` rounds to the grid and stays in floating point, so that training feels what the integers
will do; `mark` is the same operation under the name by which a converter recognises it and writes integers.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ferjax import errors
from ferjax.trees import path_mask

BITS = (4, 8)
_SMALLEST_RANGE = 1e-8  # of a channel of zeros: any positive scale holds a zero


class Grid(NamedTuple):
    """The values (q - zero_point) * scale for whole q in low … high.

    Attributes:
      scale: step, positive; a scalar, or (C,) for one per channel of the last axis.
      zero_point: whole numbers in the dtype and shape of the scale.
      low: the smallest integer.
      high: the largest integer.
    """

    scale: Any
    zero_point: Any
    low: int
    high: int


def weight_grid(weight: jax.Array, *, bits: int = 8) -> Grid:
    """Returns the symmetric grid of a kernel, one scale per output channel (the last axis), ±(2^(bits-1) - 1).

    Raises:
      InputError: if there is no such width.
    """
    high = _top(bits)
    largest = jnp.max(jnp.abs(weight), axis=tuple(range(weight.ndim - 1)))
    scale = jnp.maximum(largest, _SMALLEST_RANGE) * (1 / high)  # not a division: see below
    return Grid(scale, jnp.zeros_like(scale), -high, high)


def activation_grid(low: jax.Array, high: jax.Array, *, bits: int = 8) -> Grid:
    """Returns the asymmetric per-tensor grid for values in low … high, with zero exactly on it.

    Args:
      low: scalar, smallest value; the range is widened to hold zero.
      high: scalar, largest value.
      bits: width of the integers.

    Raises:
      InputError: if there is no such width.
    """
    top = _top(bits)
    low, high = jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)
    # XLA divides by constants inexactly, depending on what is compiled together: training and export must agree
    scale = jnp.maximum(high - low, _SMALLEST_RANGE) * (1 / (2 * top + 1))
    return Grid(scale, jnp.round(-top - 1 - low / scale), -top - 1, top)


def quantize(x: jax.Array, grid: Grid) -> jax.Array:
    """Returns the integers nearest to x (halves to even), clipped to the grid, in x's own dtype."""
    scale, zero_point = (_aligned(v, x) for v in grid[:2])
    return jnp.clip(jnp.round(x / scale) + zero_point, grid.low, grid.high)


def fake_quant(x: jax.Array, grid: Grid) -> jax.Array:
    """Returns the point of the grid nearest to x.

    The gradient with respect to x is 1 where the rounded x lies on the grid and 0 where it had to be clipped (the
    straight-through estimator, Bengio et al. 2013; Jacob et al. 2018, section 3); the grid gets none.

    Args:
      x: any shape; with a per-channel grid its last axis is the channels.
      grid: from `weight_grid` or `activation_grid`.
    """
    scale, zero_point = (lax.stop_gradient(_aligned(v, x)) for v in grid[:2])
    return _fake_quant(x, scale, zero_point, grid.low, grid.high)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _fake_quant(x: jax.Array, scale: jax.Array, zero_point: jax.Array, low: int, high: int) -> jax.Array:
    return (jnp.clip(jnp.round(x / scale) + zero_point, low, high) - zero_point) * scale


def _fake_quant_forward(x: jax.Array, scale: jax.Array, zero_point: jax.Array, low: int, high: int) -> Any:
    q = jnp.round(x / scale) + zero_point
    clipped = jnp.clip(q, low, high)
    return (clipped - zero_point) * scale, (q == clipped, scale)


def _fake_quant_backward(low: int, high: int, saved: Any, dy: jax.Array) -> Any:
    inside, scale = saved
    return jnp.where(inside, dy, 0), jnp.zeros_like(scale), jnp.zeros_like(scale)


_fake_quant.defvjp(_fake_quant_forward, _fake_quant_backward)


def mark(x: jax.Array, grid: Grid) -> jax.Array:
    """Returns `fake_quant(x, grid)` as the operation that a converter replaces by integers.

    To be called inside the function that is exported; `x` in float32.

    Args:
      x: as for `fake_quant`.
      grid: of concrete arrays, float32.
    """
    scale = np.atleast_1d(np.asarray(grid.scale, np.float32))
    attributes: dict[str, Any] = {
        "scale": scale,
        "zero_point": np.atleast_1d(np.asarray(grid.zero_point)).astype(np.int64),
        "dtype": {8: "i8", 4: "i4"}[_bits(grid)],
        "narrow_range": grid.low == -grid.high,
    }
    if np.ndim(grid.scale):
        attributes["quantization_dimension"] = np.int32(x.ndim - 1)
    marked = lax.composite(lambda x, **_: _fake_quant(x, *_constants(grid, x)), name="quant.fake_quant")
    return marked(x, **attributes)


def fake_quant_weights(
    params: Any,
    *,
    bits: int = 8,
    rules: Sequence[str] = ("kernel$",),
    quantizer: Callable[[jax.Array, Grid], jax.Array] = fake_quant,
) -> Any:
    """Rounds the kernels that rules find to their grids; a transform of parameters for the train step.

    Args:
      params: a nested dict of arrays.
      bits: width of the integers.
      rules: regular expressions over parameter paths; each must find one.
      quantizer: `fake_quant`, or `mark` in a function that is exported.

    Returns:
      The same structure.

    Raises:
      InputError: for an unknown width or a rule that finds nothing.
    """
    chosen = path_mask(rules, params)
    return jax.tree.map(lambda w, hit: quantizer(w, weight_grid(w, bits=bits)) if hit else w, params, chosen)


def fold_batch_norm(variables: Mapping[str, Any], epsilons: Mapping[str, float]) -> dict[str, Any]:
    """Moves every batch normalization into the convolution or linear layer before it.

    With g = scale / sqrt(var + ε): kernel · g and (bias - mean) · g + shift (Jacob et al. 2018, eq. 14).

    Args:
      variables: {"params": …, "batch_stats": …}; a normalization is called `bn` and stands beside its layer, `conv` or
        `dense`.
      epsilons: ε of each, by the path of what holds both, such as {"layer1_0/conv1": 1e-5}.

    Returns:
      {"params": …} of the same network made with `folded=True`, in the dtypes of the input.
    """

    def visit(params: Mapping[str, Any], stats: Mapping[str, Any], path: str) -> dict[str, Any]:
        inner = {
            k: visit(v, stats.get(k, {}), f"{path}/{k}".lstrip("/")) if isinstance(v, Mapping) else v
            for k, v in params.items()
            if k != "bn"
        }
        if "bn" not in params:
            return inner
        layer = "conv" if "conv" in params else "dense"
        return {**inner, layer: _folded(params[layer], params["bn"], stats["bn"], epsilons[path])}

    return {"params": visit(variables["params"], variables.get("batch_stats", {}), "")}


def _folded(layer: Mapping[str, Any], norm: Mapping[str, Any], stats: Mapping[str, Any], epsilon: float) -> dict:
    kernel = jnp.asarray(layer["kernel"])
    gain = norm["scale"] / jnp.sqrt(stats["var"] + epsilon)
    bias = (layer.get("bias", jnp.zeros_like(gain)) - stats["mean"]) * gain + norm["bias"]
    return {"kernel": kernel * _aligned(gain, kernel), "bias": bias}


def uniform_quantize(weight: jax.Array, *, bits: int = 8) -> tuple[jax.Array, jax.Array]:
    """Valverde's uniform symmetric quantizer, one scale for the whole tensor (eq. 2–4).

    W_b = round(s_b · W), s_b = (2^b - 1) / (2 · max|W|). Taken literally, s_b maps the largest weight of int8 to 127.5,
    which does not fit; as in the paper's figure 6 it is mapped to 2^(b-1) - 1 = 127.

    Args:
      weight: any shape.
      bits: b.

    Returns:
      (W_b, s_b): whole numbers in -(2^(b-1) - 1) … 2^(b-1) - 1 in the weight's dtype, and W ≈ W_b / s_b.

    Raises:
      InputError: if there is no such width.
    """
    top = _top(bits)
    scale = top / jnp.maximum(jnp.max(jnp.abs(weight)), _SMALLEST_RANGE)
    return jnp.clip(jnp.round(weight * scale), -top, top), scale


def _top(bits: int) -> int:
    if bits not in BITS:
        raise errors.InputError(f"integers of {bits} bits are not supported: choose {' or '.join(map(str, BITS))}")
    return 2 ** (bits - 1) - 1


def _bits(grid: Grid) -> int:
    return (grid.high + 1).bit_length()


def _aligned(values: Any, x: jax.Array) -> jax.Array:
    """Gives a scalar or a (C,) vector x's dtype and rank."""
    values = jnp.asarray(values, x.dtype)
    return values.reshape((1,) * (x.ndim - values.ndim) + values.shape)


def _constants(grid: Grid, x: jax.Array) -> tuple[jax.Array, jax.Array, int, int]:
    return _aligned(grid.scale, x), _aligned(grid.zero_point, x), grid.low, grid.high

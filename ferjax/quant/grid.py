"""Implements fake quantization on the integer grid of TFLite and ONNX, with the straight-through estimator.

The integer q represents the real number r = (q - zero_point) * scale (Jacob et al. 2018, eq. 1). Weights are symmetric,
per output channel and narrow-range (int8: -127 … 127); activations are asymmetric and per tensor (-128 … 127).
`fake_quant` rounds to the grid in floating point, for training; `mark` is the same operation under the name that
converters replace by integers.
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
_SMALLEST_RANGE = 1e-8  # keeps the scale of an all-zero channel positive


class Grid(NamedTuple):
    """Quantization grid: the values (q - zero_point) * scale for integers q in low … high.

    Attributes:
      scale: positive step; a scalar, or (C,) for per-channel scales of the last axis.
      zero_point: integers in the dtype and shape of the scale.
      low: smallest q.
      high: largest q.
    """

    scale: Any
    zero_point: Any
    low: int
    high: int


def weight_grid(weight: jax.Array, *, bits: int = 8) -> Grid:
    """Returns the symmetric grid of a kernel, ±(2^(bits-1) - 1), one scale per output channel (last axis)."""
    high = _top(bits)
    largest = jnp.max(jnp.abs(weight), axis=tuple(range(weight.ndim - 1)))
    scale = jnp.maximum(largest, _SMALLEST_RANGE) * (1 / high)  # not / high: see activation_grid
    return Grid(scale, jnp.zeros_like(scale), -high, high)


def activation_grid(low: jax.Array, high: jax.Array, *, bits: int = 8) -> Grid:
    """Returns the asymmetric per-tensor grid for values in low … high; zero is a point of the grid.

    Args:
      low: smallest value, a scalar; the range is widened to include zero.
      high: largest value, a scalar.
      bits: 4 or 8.
    """
    top = _top(bits)
    low, high = jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)
    # XLA's division by a constant depends on the surrounding program; training and export must agree exactly.
    scale = jnp.maximum(high - low, _SMALLEST_RANGE) * (1 / (2 * top + 1))
    return Grid(scale, jnp.round(-top - 1 - low / scale), -top - 1, top)


def quantize(x: jax.Array, grid: Grid) -> jax.Array:
    """Returns the integers nearest to x (halves to even), clipped to the grid, in x's dtype."""
    scale, zero_point = (_aligned(v, x) for v in grid[:2])
    return jnp.clip(jnp.round(x / scale) + zero_point, grid.low, grid.high)


def fake_quant(x: jax.Array, grid: Grid) -> jax.Array:
    """Returns the grid point nearest to x.

    The gradient with respect to x is 1 inside the grid and 0 where x is clipped (straight-through estimator, Bengio et
    al. 2013; Jacob et al. 2018, section 3). The grid gets no gradient.

    Args:
      x: any shape; a per-channel grid applies to its last axis.
      grid: from `weight_grid` or `activation_grid`.
    """
    scale, zero_point = (lax.stop_gradient(_aligned(v, x)) for v in grid[:2])
    return _fake_quant(x, scale, zero_point, grid.low, grid.high)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _fake_quant(x: jax.Array, scale: jax.Array, zero_point: jax.Array, low: int, high: int) -> jax.Array:
    return (jnp.clip(jnp.round(x / scale) + zero_point, low, high) - zero_point) * scale


def _fake_quant_forward(x: jax.Array, scale: jax.Array, zero_point: jax.Array, low: int, high: int) -> Any:
    return _fake_quant(x, scale, zero_point, low, high), (x, scale, zero_point)


def _fake_quant_backward(low: int, high: int, saved: Any, dy: jax.Array) -> Any:
    x, scale, zero_point = saved
    # Neither the mask nor the quotient is saved: on CPUs, each would be one more array to write per activation.
    first, last = ((end - zero_point) * scale for end in (low - 0.5, high + 0.5))
    return jnp.where((first <= x) & (x <= last), dy, 0), jnp.zeros_like(scale), jnp.zeros_like(scale)


_fake_quant.defvjp(_fake_quant_forward, _fake_quant_backward)


def mark(x: jax.Array, grid: Grid) -> jax.Array:
    """Returns `fake_quant(x, grid)` as a composite that converters replace by integers.

    Args:
      x: float32, in the function that is exported.
      grid: a grid of concrete float32 arrays.
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
    """Returns the parameters with the matching kernels rounded to their grids.

    Args:
      params: a nested dict of arrays.
      bits: 4 or 8.
      rules: regular expressions over parameter paths; each must match a parameter.
      quantizer: `fake_quant`, or `mark` in a function that is exported.

    Raises:
      InputError: for other bits or a rule that matches nothing.
    """
    chosen = path_mask(rules, params)
    return jax.tree.map(lambda w, hit: quantizer(w, weight_grid(w, bits=bits)) if hit else w, params, chosen)


def fold_batch_norm(variables: Mapping[str, Any], epsilons: Mapping[str, float]) -> dict[str, Any]:
    """Folds every batch normalization into the convolution or linear layer before it.

    With g = scale / sqrt(var + ε), the kernel becomes kernel · g and the bias (bias - mean) · g + shift (Jacob et al.
    2018, eq. 14).

    Args:
      variables: {"params": …, "batch_stats": …}; a normalization `bn` is a sibling of its layer, `conv` or `dense`.
      epsilons: ε of each normalization by the path of its parent, such as {"layer1_0/conv1": 1e-5}.

    Returns:
      {"params": …} of the network with `folded=True`, in the dtypes of the input.
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
    """Quantizes a whole tensor with one scale, symmetrically (Valverde eq. 2-4): W_b = round(s_b · W).

    Equation 3 maps the largest int8 weight to 127.5, which does not fit; as in figure 6 it is mapped to 127.

    Args:
      weight: any shape.
      bits: 4 or 8; another value raises InputError.

    Returns:
      (W_b, s_b): integers within ±(2^(bits-1) - 1) in the weight's dtype, and the scale: W ≈ W_b / s_b.
    """
    top = _top(bits)
    scale = top / jnp.maximum(jnp.max(jnp.abs(weight)), _SMALLEST_RANGE)
    return jnp.clip(jnp.round(weight * scale), -top, top), scale


def _top(bits: int) -> int:
    if bits not in BITS:
        raise errors.InputError(f"bits must be {' or '.join(map(str, BITS))}, got {bits}")
    return 2 ** (bits - 1) - 1


def _bits(grid: Grid) -> int:
    return (grid.high + 1).bit_length()


def _aligned(values: Any, x: jax.Array) -> jax.Array:
    """Returns a scalar or a (C,) vector in x's dtype and rank."""
    values = jnp.asarray(values, x.dtype)
    return values.reshape((1,) * (x.ndim - values.ndim) + values.shape)


def _constants(grid: Grid, x: jax.Array) -> tuple[jax.Array, jax.Array, int, int]:
    return _aligned(grid.scale, x), _aligned(grid.zero_point, x), grid.low, grid.high

"""Implements quantization-aware training: rounds every kernel and `QuantPoint` and observes activation ranges.

The network must be folded (`fold`), because integer files have no normalizations. `make_apply` returns a function with
the signature of `module.apply`, which training, distillation and evaluation use unchanged. The activation ranges are an
additional collection:

    module, variables = fold(module, variables, image_shape)
    variables["ranges"] = initial_ranges(module, image_shape)
    apply_fn = make_apply(module)                              # train with it, ranges mutable
    check_ranges(variables["ranges"])
    to_tflite(make_marked(module, variables), …)               # ferjax.export.tflite.qat
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from ferjax import quant
from ferjax.errors import InputError
from ferjax.models.layers import QuantPoint
from ferjax.models.normalization import BatchNorm, full_precision
from ferjax.models.operations import computed_once
from ferjax.trees import path_mask

Observer = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
Quantizer = Callable[[jax.Array, quant.Grid], jax.Array]
KERNELS = ("kernel$",)
_FEW = 16_384  # fully connected weights: the heads of ResNets, but not those of MobileNetV3 and transformers
# (value, scale) of each rounded value by its id; holding the value keeps its id from being reused.
_Scales = dict[int, tuple[jax.Array, jax.Array]]


def min_max(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the smallest and the largest value of a batch (N, …)."""

    def widen(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return jax.lax.min(a[0], b[0]), jax.lax.max(a[1], b[1])

    def ends(low: jax.Array, high: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        start = np.array(np.inf, x.dtype)
        return jax.lax.reduce((low, high), (start, -start), widen, axes)

    # XLA's CPU backend runs jnp.min and jnp.max one after the other, without vector instructions, on one core. One
    # reduction per image in vectors of eight takes a fifth of the time (1.3 instead of 6.5 ms for 64 maps of 44x44x16).
    lanes = x.reshape(len(x), -1, math.gcd(8, x.size // len(x)))
    return ends(*ends(lanes, lanes, (1,)), (0, 1))


def percentile(percent: float = 99.9) -> Observer:
    """Returns an observer that excludes the outliers of a batch on both sides.

    Args:
      percent: in (50, 100]; 99.9 excludes the largest and the smallest thousandth of the values.
    """
    if not 50 < percent <= 100:
        raise InputError(f"percentile must be above 50 and at most 100, got {percent}")

    def observe(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        # "nearest" returns values that occur, so that the lower end after a ReLU is exactly zero.
        low, high = jnp.percentile(x, jnp.array([100 - percent, percent], x.dtype), method="nearest")
        return low, high

    return observe


def make_apply(
    module: nn.Module,
    *,
    weight_bits: int = 8,
    rules: Sequence[str] = KERNELS,
    observe: Observer = min_max,
    decay: float = 0.99,
    freeze: int | None = None,
) -> Callable[..., Any]:
    """Returns `module.apply` with rounded weights and activations.

    If "ranges" is mutable, each range becomes the exponential moving average of the observed ranges, starting from the
    first. A bias is rounded to the grid of the 32-bit accumulators, input scale times kernel scale (Jacob et al. 2018,
    eq. 11), if the layer's input is a rounded value without pooling in between.

    Args:
      module: a folded network.
      weight_bits: bits of the kernels, 8 or 4; activations have 8.
      rules: regular expressions over parameter paths: the kernels that are rounded.
      observe: returns the range of a batch: `min_max` or `percentile(…)`.
      decay: of the moving average; 0 uses the last batch only.
      freeze: number of batches after which the ranges are fixed; ranges["seen"], a float32 scalar, counts them.

    Returns:
      apply(variables, x, train=…, mutable=…, rngs=…) with variables {"params": …, "ranges": …}.

    Raises:
      InputError: if decay is outside [0, 1); when called, if the variables have no ranges.
    """
    if not 0 <= decay < 1:
        raise InputError(f"decay must be in [0, 1), got {decay}")

    def apply(variables: Mapping[str, Any], x: jax.Array, **options: Any) -> Any:
        params = quant.fake_quant_weights(variables["params"], bits=weight_bits, rules=rules, quantizer=_rounded)
        rounded_kernels = traverse_util.flatten_dict(path_mask(rules, variables["params"]))
        scales: _Scales = {}
        moving = True if freeze is None else variables["ranges"]["seen"] < freeze

        def round_here(point: nn.Module, x: jax.Array) -> jax.Array:
            low, high = _range(point)
            wide = computed_once(full_precision(x), high)
            if point.is_mutable_collection("ranges") and not _bounds(point):
                low, high = _updated(low, high, observe(jax.lax.stop_gradient(wide)), decay, moving)
                point.put_variable("ranges", "low", low)
                point.put_variable("ranges", "high", high)
                if freeze is not None and not point.path:
                    point.put_variable("ranges", "seen", point.get_variable("ranges", "seen") + 1)
            grid = quant.activation_grid(low, high)
            rounded = _rounded(wide, grid).astype(x.dtype)
            scales[id(rounded)] = rounded, grid.scale
            return rounded

        round_bias = partial(_round_bias, scales, rounded_kernels, weight_bits)
        with nn.intercept_methods(_at_points(round_here)), nn.intercept_methods(round_bias):
            return module.apply({**variables, "params": params}, x, **options)

    return apply


def _updated(low: jax.Array, high: jax.Array, seen: tuple[jax.Array, ...], decay: float, moving: Any) -> Any:
    """Returns the moving average of a range; the first observed range replaces an empty one (low > high)."""
    empty = low > high

    def average(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(empty, new, jnp.where(moving, decay * old + (1 - decay) * new, old))

    return tuple(average(old, new.astype(low.dtype)) for old, new in zip((low, high), seen, strict=True))


def _round_bias(
    scales: _Scales,
    rounded_kernels: Mapping[tuple[str, ...], bool],
    weight_bits: int,
    call: Callable[..., Any],
    args: Any,
    kwargs: Any,
    context: nn.module.InterceptorContext,
) -> Any:
    """Intercepts layers with a bias and rounds it to input scale times kernel scale."""
    y, layer = call(*args, **kwargs), context.module
    if not (isinstance(layer, nn.Conv | nn.Dense) and context.method_name == "__call__" and layer.use_bias):
        return y
    if id(args[0]) not in scales or not rounded_kernels[*layer.path, "kernel"]:
        return y
    kernel: jax.Array = layer.get_variable("params", "kernel")
    bias: jax.Array = layer.get_variable("params", "bias")
    step = scales[id(args[0])][1] * quant.weight_grid(kernel, bits=weight_bits).scale
    moved = computed_once(jax.lax.stop_gradient(jnp.round(bias / step) * step - bias))
    return y + moved.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


def initial_ranges(module: nn.Module, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Returns the collection "ranges" of a network before any observation: low = inf, high = -inf."""
    points: list[tuple[str, ...]] = []

    def note(point: nn.Module, x: jax.Array) -> jax.Array:
        if not _bounds(point):
            points.append(point.path)
        return x

    with nn.intercept_methods(_at_points(note)):
        _trace(module, image_shape)
    nothing = {"low": jnp.inf, "high": -jnp.inf}
    flat = {(*path, end): jnp.full((), value, jnp.float32) for path in points for end, value in nothing.items()}
    return traverse_util.unflatten_dict(flat)


def check_ranges(ranges: Mapping[str, Any]) -> None:
    """Raises InputError if a range was never observed, and names the first such range."""
    flat = {path: float(value) for path, value in traverse_util.flatten_dict(dict(ranges)).items()}
    points = [path[:-1] for path in flat if path[-1] == "low"]
    unseen = [p for p in points if not -np.inf < flat[*p, "low"] <= flat[*p, "high"] < np.inf]
    if unseen or not points:
        which = f"the range of {_name(unseen[0])} was" if unseen else "ranges were"
        raise InputError(
            f"{which} never observed ({len(points) - len(unseen)} of {len(points)} were): "
            "train with quantization, or run training images through the network, before export"
        )


def make_marked(
    module: nn.Module, variables: Mapping[str, Any], *, weight_bits: int = 8, rules: Sequence[str] = KERNELS
) -> Callable[..., Any]:
    """Returns apply(images, mutable=…) with constant variables and every rounding as `quant.mark`, for export.

    The 4-bit weights of fully connected layers are stored in 8 bits, with the same values, if they are few: TensorFlow
    Lite runs 4-bit convolutions from version 2.11 on, but 4-bit fully connected layers only from 2.19 on.

    Args:
      module: a folded network.
      variables: {"params": …, "ranges": …}, concrete arrays.
      weight_bits: as in training.
      rules: as in training.

    Raises:
      InputError: if a range was never observed.
    """
    ranges = variables.get("ranges", {})
    check_ranges(ranges)

    def round_here(point: nn.Module, x: jax.Array) -> jax.Array:
        with jax.ensure_compile_time_eval():
            grid = quant.activation_grid(*_range(point))
        return quant.mark(x, grid)

    connected = sum(weight.size for weight in jax.tree.leaves(variables["params"]) if weight.ndim == 2)

    def mark_weight(weight: jax.Array, grid: quant.Grid) -> jax.Array:
        with jax.ensure_compile_time_eval():
            grid = quant.weight_grid(weight, bits=weight_bits)
        if weight.ndim == 2 and connected <= _FEW:
            grid = grid._replace(low=-127, high=127)
        return quant.mark(weight, grid)

    def apply(x: jax.Array, **options: Any) -> Any:
        params = quant.fake_quant_weights(variables["params"], bits=weight_bits, rules=rules, quantizer=mark_weight)
        with nn.intercept_methods(_at_points(round_here)):
            return module.apply({"params": params, "ranges": ranges}, x, train=False, **options)

    return apply


def fold(
    module: nn.Module, variables: Mapping[str, Any], image_shape: tuple[int, ...]
) -> tuple[nn.Module, dict[str, Any]]:
    """Returns the network without batch normalizations and its variables; the logits are the same.

    Args:
      module: a network of `ferjax.models`; a network without batch normalization is returned unchanged.
      variables: {"params": …, "batch_stats": …}.
      image_shape: (height, width, channels).
    """
    epsilons: dict[str, float] = {}

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            epsilons["/".join(context.module.path[:-1])] = context.module.epsilon
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        _trace(module, image_shape)
    if not epsilons:
        return module, dict(variables)
    return module.clone(folded=True), quant.fold_batch_norm(variables, epsilons)


def _at_points(act: Callable[[nn.Module, jax.Array], jax.Array]) -> Callable[..., Any]:
    """Returns the linen interceptor that applies `act` to the image and to the input of every `QuantPoint`."""

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name == "__call__" and (isinstance(module, QuantPoint) or not module.path):
            args = (act(module, args[0]), *args[1:])
        return call(*args, **kwargs)

    return intercept


def _rounded(x: jax.Array, grid: quant.Grid) -> jax.Array:
    """Rounds a weight or an activation, once for all its uses (nine in a depthwise convolution on CPUs)."""
    return computed_once(quant.fake_quant(x, grid), grid.scale.ravel()[0])


def _bounds(point: nn.Module) -> tuple[float, ...]:
    return point.bounds if isinstance(point, QuantPoint) else ()


def _range(point: nn.Module) -> tuple[jax.Array, jax.Array]:
    if bounds := _bounds(point):
        low, high = (jnp.full((), bound, jnp.float32) for bound in bounds)
        return low, high
    if not point.has_variable("ranges", "low"):
        raise InputError(f"no range for {_name(point.path)} in the variables: add ferjax.quant.rounding.initial_ranges")
    return point.get_variable("ranges", "low"), point.get_variable("ranges", "high")


def _name(path: tuple[str, ...]) -> str:
    return "/".join(path) or "the image"


def _trace(module: nn.Module, image_shape: tuple[int, ...]) -> None:
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    jax.eval_shape(partial(module.init, train=False), jax.random.key(0), image)

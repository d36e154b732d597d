"""Selects the implementation of the layers' operations for the default device.

Each operation has two forms with the same values and gradients: XLA's own, and one that XLA's CPU backend runs fast
(`ferjax.models.cpu`). `chosen` selects one of them at trace time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax

from ferjax.errors import unknown
from ferjax.models import cpu, xla
from ferjax.models.cpu import convolution, normalization, pooling, primitives, tokens
from ferjax.models.cpu import depthwise as shifts


class Operations(NamedTuple):
    """One form of each operation; the functions below document them."""

    convolve: Callable[..., jax.Array]
    depthwise: Callable[..., jax.Array]
    max_pool: Callable[..., jax.Array]
    batch_norm: Callable[..., xla.Normalized]
    layer_norm: Callable[..., jax.Array]
    linear: Callable[..., jax.Array]
    stored: Callable[[jax.Array], jax.Array]
    computed_once: Callable[[jax.Array, jax.Array | None], jax.Array]


XLA = Operations(
    convolve=lax.conv_general_dilated,
    depthwise=lax.conv_general_dilated,
    max_pool=xla.max_pool,
    batch_norm=xla.batch_norm,
    layer_norm=xla.layer_norm,
    linear=xla.linear,
    stored=xla.identity,
    computed_once=xla.identity,
)
CPU = Operations(
    convolve=convolution.convolve,
    depthwise=shifts.convolve,
    max_pool=pooling.max_pool,
    batch_norm=normalization.batch_norm,
    layer_norm=tokens.layer_norm,
    linear=tokens.linear,
    stored=tokens.stored,
    computed_once=primitives.computed_once,
)
DEPTHWISE = ("auto", "conv", "shifts")


def chosen() -> Operations:
    """Returns the operations for the default device."""
    return CPU if cpu.wanted() else XLA


def convolve(*args: Any, **options: Any) -> jax.Array:
    """Replaces `lax.conv_general_dilated` in a `flax.linen.Conv` with equal strides and one group.

    Its padding is "SAME" or pairs of zeros before and after.
    """
    return chosen().convolve(*args, **options)


def depthwise(implementation: str) -> Callable[..., jax.Array]:
    """Returns the replacement of `lax.conv_general_dilated` in a depthwise `flax.linen.Conv`.

    Its windows are odd and padded by half of them or "SAME", its strides 1 or 2 and equal.

    Args:
      implementation: "conv" for XLA's form, which exported files need, "shifts" for the CPU form, or "auto".

    Raises:
      InputError: for an unknown implementation.
    """
    if implementation not in DEPTHWISE:
        raise unknown("depthwise implementation", implementation, DEPTHWISE)
    return {"auto": chosen(), "conv": XLA, "shifts": CPU}[implementation].depthwise


def max_pool(x: jax.Array, window: int, stride: int, padding: str) -> jax.Array:
    """Returns the maxima of x over square windows; among equal values, the first gets the gradient.

    Args:
      x: feature map (N, H, W, C).
      window: side of the windows, at least `stride`.
      stride: stride on both axes.
      padding: "SAME", which pads with minus infinity, or "VALID".
    """
    return chosen().max_pool(x, window, stride, padding)


def batch_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> xla.Normalized:
    """Returns x (..., C) normalized over all axes but the last, and its mean and variance (C,).

    Ioffe and Szegedy 2015, algorithm 1; the variance is divided by N.
    """
    return chosen().batch_norm(x, scale, bias, epsilon)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Returns x (..., D) normalized over its last axis (Ba et al. 2016), times scale, plus bias (D,).

    The variance comes from the centered values, as in `flax.linen.LayerNorm` without `use_fast_variance`.
    """
    return chosen().layer_norm(x, scale, bias, epsilon)


def linear(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """Replaces `lax.dot_general` in a `flax.linen.Dense`: x (..., I) times kernel (I, O)."""
    return chosen().linear(x, kernel)


def stored(x: jax.Array) -> jax.Array:
    """Returns x (..., D); under differentiation, x and its gradient are each computed once for all their uses."""
    return chosen().stored(x)


def computed_once(x: jax.Array, runtime_scalar: jax.Array | None = None) -> jax.Array:
    """Returns x (..., C), which XLA then computes once and not again for each use; the gradient is that of x.

    Args:
      x: any floating type.
      runtime_scalar: any scalar that XLA does not know when it compiles; saves time if x is expensive.
    """
    return chosen().computed_once(x, runtime_scalar)

"""Implements convolutions with fast gradients on CPUs. Without a gradient, and in exported files, they are XLA's own.

Pointwise (1x1): the convolution and its two gradients are matrix products.

Windowed (3x3 and larger): the gradient of the kernel is a matrix product. XLA computes it as a convolution with a
window as large as the map, two to six times slower. Where the output is smaller than the window, the convolution and
both gradients are matrix products of unfolded windows, ten to eighty times faster than XLA's. With oneDNN, all three
are faster still (`ferjax.models.cpu.onednn`).
"""

import math
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ferjax.models import xla
from ferjax.models.cpu import onednn
from ferjax.models.cpu.primitives import (
    as_rows,
    computed_once,
    matrix_product,
    padded,
    pairs,
    places,
    seen_by_tap,
    wide,
)
from ferjax.models.xla import Padding

_PARTS = 2
_NO_PADDING = ((0, 0), (0, 0))


def convolve(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **_: Any) -> jax.Array:
    """Returns the convolution of x (N, H, W, I) with kernel (k, k, I, O), see `ferjax.models.operations.convolve`."""
    stride, pad = strides[0], pairs(x, kernel, strides, padding)
    if kernel.shape[0] == 1 and pad == _NO_PADDING:
        return pointwise(x, kernel, stride)
    return windowed(x, kernel, stride, pad)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def pointwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Returns the unpadded convolution of x (N, H, W, I) with kernel (1, 1, I, O)."""
    return xla.convolve(x, kernel, stride, _NO_PADDING)


def _pointwise_forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, Any]:
    seen = x[:, ::stride, ::stride]
    y = matrix_product(as_rows(seen), kernel[0, 0], 1, 0)
    return y.reshape(*seen.shape[:3], -1).astype(x.dtype), (x, kernel)


def _pointwise_backward(stride: int, saved: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes both gradients from the same rows of dy; XLA would compute dy twice otherwise."""
    x, kernel = saved
    seen, rows = x[:, ::stride, ::stride], as_rows(dy)
    dk = matrix_product(as_rows(seen), rows, 0, 0).reshape(kernel.shape).astype(kernel.dtype)
    dx = matrix_product(rows, kernel[0, 0], 1, 1).reshape(seen.shape).astype(x.dtype)
    gaps = [(0, (size - 1) % stride, stride - 1) for size in x.shape[1:3]]
    return lax.pad(dx, jnp.zeros((), x.dtype), ((0, 0, 0), *gaps, (0, 0, 0))), dk


pointwise.defvjp(_pointwise_forward, _pointwise_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def windowed(x: jax.Array, kernel: jax.Array, stride: int, pad: Padding) -> jax.Array:
    """Returns the convolution of x (N, H, W, I) with kernel (k, k, I, O)."""
    return xla.convolve(x, kernel, stride, pad)


def _windowed_forward(x: jax.Array, kernel: jax.Array, stride: int, pad: Padding) -> tuple[jax.Array, Any]:
    if onednn.serves(x, kernel):
        return onednn.convolve(x, kernel, stride, pad, places(x, kernel, stride, pad)), (x, kernel)
    x = computed_once(x)  # for the kernel's gradient; arguments of oneDNN's calls are stored in any case
    run = _unfolded if _tiny(x, kernel, stride, pad) else xla.convolve
    return run(x, kernel, stride, pad), (x, kernel)


def _windowed_backward(stride: int, pad: Padding, saved: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    if onednn.serves(x, kernel):
        return onednn.gradients(x, kernel, stride, pad, dy)
    if _tiny(x, kernel, stride, pad):
        return jax.vjp(partial(_unfolded, stride=stride, pad=pad), x, kernel)[1](dy)
    dy = computed_once(dy)
    (dx,) = jax.linear_transpose(lambda x: xla.convolve(x, kernel, stride, pad), x)(dy)
    _, rows, columns, _ = dy.shape
    if x.shape[-1] >= 16 and rows * columns >= 100:  # as measured
        return dx, _kernel_product(x, dy, kernel.shape[0], stride, pad).astype(kernel.dtype)
    (dk,) = jax.linear_transpose(lambda kernel: xla.convolve(x, kernel, stride, pad), kernel)(dy)
    return dx, dk


def _tiny(x: jax.Array, kernel: jax.Array, stride: int, pad: Padding) -> bool:
    """Returns whether the output has 4 pixels or fewer: XLA needs 580 ms for 2x2x512, matrix products 7 ms."""
    rows, columns = places(x, kernel, stride, pad)
    return rows * columns <= 4


def _unfolded(x: jax.Array, kernel: jax.Array, stride: int, pad: Padding) -> jax.Array:
    """Returns the convolution as one matrix product of unfolded windows (im2col), k² times as large as x."""
    size, (kh, kw, _, outputs) = places(x, kernel, stride, pad), kernel.shape
    around = padded(x, pad)
    taps = [seen_by_tap(around, i, j, size, stride) for i in range(kh) for j in range(kw)]
    y = matrix_product(as_rows(jnp.concatenate(taps, -1)), kernel.reshape(-1, outputs), 1, 0)
    return y.reshape(-1, *size, outputs).astype(x.dtype)


windowed.defvjp(_windowed_forward, _windowed_backward)


def _kernel_product(x: jax.Array, dy: jax.Array, side: int, stride: int, pad: Padding) -> jax.Array:
    """Returns the gradient of a convolution's kernel, (k, k, I, O), as one matrix product.

    For each pair (row of the padded x, column of dy), the operands hold the k values of x that the columns of the
    kernel multiply and the k values of dy that the rows of the kernel contribute to. The product over all pairs gives
    the gradient of every tap. It copies x and dy k times each; unfolded windows copy x k² times.
    """
    (n, height, width, inputs), (_, rows, columns, outputs) = x.shape, dy.shape
    (top, bottom), (left, _) = pad
    zero, total = jnp.zeros((), x.dtype), height + top + bottom
    last = stride * (columns - 1) + 1

    def seen(j: int) -> jax.Array:
        across = (left - j, last + j - left - width, 0)
        return lax.pad(x, zero, ((0, 0, 0), (top, bottom, 0), across, (inputs * j, inputs * (side - 1 - j), 0)))

    def given(i: int) -> jax.Array:
        down = (i, total - i - stride * (rows - 1) - 1, stride - 1)
        return lax.pad(dy, zero, ((0, 0, 0), down, (0, 0, 0), (outputs * i, outputs * (side - 1 - i), 0)))

    # XLA fuses sums of padded arrays into one pass; a concatenation takes twice as long.
    across = reduce(jnp.add, map(seen, range(side)))[:, :, ::stride]
    down = reduce(jnp.add, map(given, range(side)))
    parts = math.gcd(n, _PARTS)
    each = lax.dot_general(
        across.reshape(parts, -1, side * inputs),
        down.reshape(parts, -1, side * outputs),
        (((1,), (1,)), ((0,), (0,))),
        preferred_element_type=wide(dy).dtype,
    )
    return each.sum(0).reshape(side, inputs, side, outputs).transpose(2, 0, 1, 3)

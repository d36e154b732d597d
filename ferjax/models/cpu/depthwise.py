"""Implements depthwise convolution as a sum of shifted inputs, each multiplied by one weight per channel.

On CPUs this is ten to fifty times faster than XLA's depthwise convolution, forward and backward.
"""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ferjax.models.cpu.primitives import channel_sums, computed_once, padded, pairs, places, seen_by_tap, wide
from ferjax.models.xla import Padding

_PARTS = 2  # with one part, mini-Xception's step takes 1.25 times as long on two cores


def convolve(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **_: Any) -> jax.Array:
    """Returns the depthwise convolution, see `ferjax.models.operations.depthwise`."""
    return shifts(x, kernel, strides[0], pairs(x, kernel, strides, padding))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def shifts(x: jax.Array, kernel: jax.Array, stride: int, pad: Padding) -> jax.Array:
    """Returns the depthwise convolution of x (N, H, W, C) with kernel (k, k, 1, C), ceil(H / stride) rows."""
    side, size = kernel.shape[0], places(x, kernel, stride, pad)
    around = padded(x, pad)
    taps = [(i, j) for i in range(side) for j in range(side)]
    return _weighted_sum([(seen_by_tap(around, i, j, size, stride), kernel[i, j]) for i, j in taps]).astype(x.dtype)


def _shifts_forward(x: jax.Array, kernel: jax.Array, stride: int, pad: Padding) -> tuple[jax.Array, Any]:
    return shifts(x, kernel, stride, pad), (x, kernel)


def _shifts_backward(stride: int, pad: Padding, saved: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes both gradients; dx is stored, because XLA would compute it for each sum of a normalization before it."""
    x, kernel = saved
    dx = computed_once(_input_gradient(dy, kernel, stride, pad, x.shape[1:3]).astype(x.dtype))
    return dx, _kernel_gradient(x, dy, kernel, stride, pad).astype(kernel.dtype)


shifts.defvjp(_shifts_forward, _shifts_backward)


def _input_gradient(dy: jax.Array, kernel: jax.Array, stride: int, pad: Padding, size: tuple[int, ...]) -> jax.Array:
    """Returns the transposed convolution; each of the stride² phases of x (position modulo stride) has its own taps."""
    (n, rows, columns, channels), side = dy.shape, kernel.shape[0]
    half, ((top, _), (left, _)) = side // 2, pad
    around = padded(dy, ((half, half), (half, half)))

    def reached(phase: int, before: int) -> list[tuple[int, int]]:
        """Returns (tap, start in `around`) pairs along one axis, for the positions stride * t + phase of x."""
        offsets = [(i, phase + before - i) for i in range(side)]
        return [(i, offset // stride + half) for i, offset in offsets if offset % stride == 0]

    def phase(a: int, b: int) -> jax.Array:
        taps = [(i, j, y, x) for i, y in reached(a, top) for j, x in reached(b, left)]
        return _weighted_sum([(around[:, y : y + rows, x : x + columns], kernel[i, j]) for i, j, y, x in taps])

    if stride == 1:
        return phase(0, 0)
    grid = jnp.stack([jnp.stack([phase(a, b) for b in range(stride)], axis=3) for a in range(stride)], axis=2)
    return grid.reshape(n, rows * stride, columns * stride, channels)[:, : size[0], : size[1]]


def _kernel_gradient(x: jax.Array, dy: jax.Array, kernel: jax.Array, stride: int, pad: Padding) -> jax.Array:
    """Returns, for each tap and channel, the sum of x * dy over images and positions.

    A loop over the rows of the kernel adds the two halves of the batch element by element and sums the result by a
    matrix product. The loop also keeps XLA from recomputing x and dy for every tap, and halves the compile time.
    """
    (kh, kw), size = kernel.shape[:2], dy.shape[1:3]
    parts = min(_PARTS, len(x))
    fill = ((0, -len(x) % parts), (0, 0), (0, 0), (0, 0))
    around, dy = padded(jnp.pad(x, fill), pad), jnp.pad(dy, fill)
    length = len(dy) // parts
    images = [slice(p * length, (p + 1) * length) for p in range(parts)]
    reach = stride * (size[0] - 1) + 1

    def row(i: jax.Array) -> jax.Array:
        band = lax.dynamic_slice_in_dim(around, i, reach, axis=1)
        windows = [seen_by_tap(band, 0, j, size, stride) for j in range(kw)]
        products = [[wide(window[part]) * wide(dy[part]) for part in images] for window in windows]
        return jnp.stack([channel_sums(reduce(jnp.add, parts)) for parts in products])

    return lax.map(row, jnp.arange(kh)).reshape(kernel.shape)


def _weighted_sum(taps: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
    return reduce(jnp.add, (wide(window) * wide(weight).reshape(1, 1, 1, -1) for window, weight in taps))

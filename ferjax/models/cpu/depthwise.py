"""Depthwise convolution by shifted copies of the input, each times one weight per channel.

XLA has no fast depthwise convolution on CPUs: the same sum runs ten to fifty times faster there, forwards and
backwards.
"""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ferjax.models.cpu.primitives import channel_sums, padded, seen_by_tap, wide

_PARTS = 2  # with one, mini-Xception's step takes 1.25 of the time on two cores


def convolve(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **_: Any) -> jax.Array:
    """Returns the depthwise convolution, see `ferjax.models.operations.depthwise`."""
    return shifts(x, kernel, strides[0])


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def shifts(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Returns the depthwise convolution of x (N, H, W, C) with kernel (k, k, 1, C), padded by (k - 1) / 2."""
    side = kernel.shape[0]
    size = tuple(-(-length // stride) for length in x.shape[1:3])
    around = padded(x, side // 2, side // 2)
    places = [(i, j) for i in range(side) for j in range(side)]
    return _weighted_sum([(seen_by_tap(around, i, j, size, stride), kernel[i, j]) for i, j in places]).astype(x.dtype)


def _shifts_forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, Any]:
    return shifts(x, kernel, stride), (x, kernel)


def _shifts_backward(stride: int, saved: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    dx = _input_gradient(dy, kernel, stride, x.shape[1:3])
    return dx.astype(x.dtype), _kernel_gradient(x, dy, kernel, stride).astype(kernel.dtype)


shifts.defvjp(_shifts_forward, _shifts_backward)


def _input_gradient(dy: jax.Array, kernel: jax.Array, stride: int, size: tuple[int, ...]) -> jax.Array:
    """The transposed convolution: each of the stride² interleaved phases of x meets its own taps of the kernel."""
    (n, rows, columns, channels), side = dy.shape, kernel.shape[0]
    pad = side // 2
    around = padded(dy, pad, pad)

    def reached(phase: int) -> list[tuple[int, int]]:
        """(tap, where it starts to read in `around`) along one axis, for positions stride * t + phase of x."""
        offsets = [(i, phase + pad - i) for i in range(side)]
        return [(i, offset // stride + pad) for i, offset in offsets if offset % stride == 0]

    def phase(a: int, b: int) -> jax.Array:
        places = [(i, j, y, x) for i, y in reached(a) for j, x in reached(b)]
        return _weighted_sum([(around[:, y : y + rows, x : x + columns], kernel[i, j]) for i, j, y, x in places])

    if stride == 1:
        return phase(0, 0)
    grid = jnp.stack([jnp.stack([phase(a, b) for b in range(stride)], axis=3) for a in range(stride)], axis=2)
    return grid.reshape(n, rows * stride, columns * stride, channels)[:, : size[0], : size[1]]


def _kernel_gradient(x: jax.Array, dy: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """For each tap the sum of x * dy over images and positions, per channel.

    A loop over the kernel's rows adds up the batch's two halves by element-wise operations, and what is left by a
    matrix product. The loop also keeps XLA from computing x and dy anew for every tap, and halves the time to compile.
    """
    (kh, kw), size = kernel.shape[:2], dy.shape[1:3]
    parts = min(_PARTS, len(x))
    fill = ((0, -len(x) % parts), (0, 0), (0, 0), (0, 0))
    around, dy = padded(jnp.pad(x, fill), kh // 2, kw // 2), jnp.pad(dy, fill)
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

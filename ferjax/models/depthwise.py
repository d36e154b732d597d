"""Depthwise convolution, as a convolution or as shifted multiplications.

XLA has no fast depthwise convolution on CPUs: written as kernel_size² shifted copies of the input, each
times one weight per channel, the same sum runs ten to fifty times faster there, forwards and backwards.
GPUs, TPUs and exported files take the plain convolution.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ferjax.cli import unknown

IMPLEMENTATIONS = ("auto", "conv", "shifts")


class DepthwiseConv(nn.Module):
    """Convolution of every channel with a filter of its own, zero-padded by (kernel_size - 1) / 2.

    Attributes:
      kernel_size: side of the square kernel, odd.
      stride: 1 or 2.
      use_bias: whether a bias is added.
      implementation: "conv", "shifts", or "auto" for shifts on CPUs and conv elsewhere.
      kernel_init: start of the kernel, (kernel_size, kernel_size, 1, C).
      dtype: of the computation; parameters stay float32.
    """

    kernel_size: int
    stride: int
    use_bias: bool
    implementation: str
    kernel_init: Callable[..., jax.Array]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, ceil(H / stride), ceil(W / stride), C)."""
        if self.implementation not in IMPLEMENTATIONS:
            raise unknown("depthwise implementation", self.implementation, IMPLEMENTATIONS)
        channels, side = x.shape[-1], self.kernel_size
        kernel = self.param("kernel", self.kernel_init, (side, side, 1, channels), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32) if self.use_bias else None
        on_cpu = jax.default_backend() == "cpu"
        shifts = self.implementation == "shifts" or (self.implementation == "auto" and on_cpu)
        convolve = depthwise_shifts if shifts else depthwise_conv
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        return y if bias is None else y + bias.astype(self.dtype).reshape(1, 1, 1, -1)


def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Returns the plain grouped convolution of x (N, H, W, C) with kernel (k, k, 1, C)."""
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_shifts(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Returns `depthwise_conv(x, kernel, stride)`, as shifts and multiplications."""
    pad, size = kernel.shape[0] // 2, _output_size(x, stride)
    taps = _windows(_pad(x, pad, pad), kernel.shape[0], stride, size)
    return _weighted_sum(taps, kernel).astype(x.dtype)


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return depthwise_shifts(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    dx = _input_gradient(dy, kernel, stride, x.shape[1:3])
    return dx.astype(x.dtype), _kernel_gradient(x, dy, kernel, stride).astype(kernel.dtype)


depthwise_shifts.defvjp(_forward, _backward)


def _input_gradient(dy: jax.Array, kernel: jax.Array, stride: int, size: tuple[int, ...]) -> jax.Array:
    """The transposed convolution: each of the stride² interleaved phases of x meets its own taps of the kernel."""
    (n, height, width, channels), side = dy.shape, kernel.shape[0]
    padded = _pad(dy, side, side)

    def reached(phase: int) -> list[tuple[int, int]]:
        """(tap, where it starts to read in padded) along one axis, for rows or columns stride * t + phase."""
        offsets = [(i, phase + side // 2 - i) for i in range(side)]
        return [(i, offset // stride + side) for i, offset in offsets if offset % stride == 0]

    def phase(a: int, b: int) -> jax.Array:
        taps = [(i, j, y, x) for i, y in reached(a) for j, x in reached(b)]
        windows = [padded[:, y : y + height, x : x + width] for _, _, y, x in taps]
        return _weighted_sum(windows, jnp.stack([kernel[i, j] for i, j, _, _ in taps]))

    if stride == 1:
        return phase(0, 0)
    grid = jnp.stack([jnp.stack([phase(a, b) for b in range(stride)], axis=3) for a in range(stride)], axis=2)
    return grid.reshape(n, height * stride, width * stride, channels)[:, : size[0], : size[1]]


def _kernel_gradient(x: jax.Array, dy: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """For each tap the sum of x * dy over images and positions, per channel.

    The batch is first added up in eight parts by element-wise operations: fused with those, XLA's
    CPU reduction over all leading axes would run one channel at a time (measured 20 times slower).
    """
    side, size = kernel.shape[0], dy.shape[1:3]
    parts = min(8, len(x))
    fill = ((0, -len(x) % parts), (0, 0), (0, 0), (0, 0))
    x, dy = jnp.pad(x, fill), jnp.pad(dy, fill)
    length = len(x) // parts
    sums = []
    for window in _windows(_pad(x, side // 2, side // 2), side, stride, size):
        both = (slice(p * length, (p + 1) * length) for p in range(parts))
        partial_sum = reduce(jnp.add, (_wide(window[part]) * _wide(dy[part]) for part in both))
        sums.append(jnp.sum(partial_sum, axis=(0, 1, 2)))
    return jnp.stack(sums).reshape(kernel.shape)


def _windows(padded: jax.Array, side: int, stride: int, size: tuple[int, ...]) -> list[jax.Array]:
    """The padded input seen by each tap of the kernel, row by row, (N, *size, C)."""
    n, _, _, c = padded.shape
    reach = [stride * (length - 1) + 1 for length in size]
    return [
        lax.slice(padded, (0, i, j, 0), (n, i + reach[0], j + reach[1], c), (1, stride, stride, 1))
        for i in range(side)
        for j in range(side)
    ]


def _weighted_sum(windows: list[jax.Array], kernel: jax.Array) -> jax.Array:
    weights = _wide(kernel).reshape(len(windows), 1, 1, 1, -1)
    return reduce(jnp.add, (_wide(w) * k for w, k in zip(windows, weights, strict=True)))


def _output_size(x: jax.Array, stride: int) -> tuple[int, int]:
    return -(-x.shape[1] // stride), -(-x.shape[2] // stride)


def _pad(x: jax.Array, before: int, after: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))


def _wide(x: jax.Array) -> jax.Array:
    """Sums run in at least float32; the conversion is fused into them."""
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x

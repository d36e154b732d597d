"""Provides the building blocks of the CPU forms: matrix products, channel sums, windows, stored values."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ferjax.models.xla import Padding


def as_rows(x: jax.Array) -> jax.Array:
    """Reshapes x (..., C) to a matrix with C columns."""
    return x.reshape(-1, x.shape[-1])


def matrix_product(a: jax.Array, b: jax.Array, i: int, j: int) -> jax.Array:
    """Returns the matrix product over axis i of a and axis j of b in at least float32."""
    return lax.dot_general(a, b, (((i,), (j,)), ((), ())), preferred_element_type=wide(a).dtype)


def channel_sums(x: jax.Array) -> jax.Array:
    """Returns the sums over all axes but the last by a matrix product, into which XLA fuses nothing on CPUs.

    The ones have four rows because Eigen's product of one row and a wide matrix is five times slower.
    """
    rows = as_rows(x)
    return (jnp.ones((4, len(rows)), x.dtype) @ rows)[0]


def wide(x: jax.Array) -> jax.Array:
    """Returns x in at least float32."""
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x


def pairs(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any) -> Padding:
    """Returns a padding, pairs or "SAME", as pairs for x (N, H, W, C) and kernel (k, k, …)."""
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    (top, bottom), (left, right) = padding
    return (top, bottom), (left, right)


def places(x: jax.Array, kernel: jax.Array, stride: int, pad: Padding) -> tuple[int, ...]:
    """Returns the rows and columns of the output of a convolution."""
    sizes = zip(x.shape[1:3], kernel.shape[:2], pad, strict=True)
    return tuple((length + sum(ends) - side) // stride + 1 for length, side, ends in sizes)


def padded(x: jax.Array, pad: Padding) -> jax.Array:
    """Returns x (N, H, W, C) padded with zeros."""
    return jnp.pad(x, ((0, 0), *pad, (0, 0)))


def seen_by_tap(x: jax.Array, i: int, j: int, size: tuple[int, ...], stride: int) -> jax.Array:
    """Returns the values of the padded input x that the tap (i, j) of a kernel multiplies, (N, *size, C)."""
    n, _, _, channels = x.shape
    end = (n, i + stride * (size[0] - 1) + 1, j + stride * (size[1] - 1) + 1, channels)
    return lax.slice(x, (0, i, j, 0), end, (1, stride, stride, 1))


@jax.custom_vjp
def computed_once(x: jax.Array, runtime_scalar: jax.Array | None = None) -> jax.Array:
    """Returns x (..., C) and keeps XLA from computing it again for each of its uses; the gradient passes unchanged.

    XLA fuses cheap operations, such as sums and products, into every use of their result: in a residual network, each
    shifted read in a kernel's gradient would recompute the blocks before it. XLA does not duplicate divisions, and it
    removes `lax.optimization_barrier` too early. The divisor is always one, because no value exceeds infinity; XLA
    does not detect this, and LLVM removes the division later.

    Args:
      x: any floating type.
      runtime_scalar: what is compared with infinity, any scalar that XLA does not know when it compiles. The default,
        the first channel of x, makes an expensive x slower.
    """
    compared = x[..., :1] if runtime_scalar is None else runtime_scalar
    return x / jnp.where(compared > jnp.inf, 2, 1).astype(x.dtype)


def _computed_once_forward(x: jax.Array, runtime_scalar: jax.Array | None = None) -> tuple[jax.Array, Any]:
    return computed_once(x, runtime_scalar), jax.tree.map(jnp.zeros_like, runtime_scalar)


computed_once.defvjp(_computed_once_forward, lambda zero, dy: (dy, zero))

"""What the CPU forms are built from: sums and products as matrix products, windows, values that are stored."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ferjax.models.xla import Padding


def as_rows(x: jax.Array) -> jax.Array:
    """Returns x (..., C) as a matrix with C columns."""
    return x.reshape(-1, x.shape[-1])


def matrix_product(a: jax.Array, b: jax.Array, i: int, j: int) -> jax.Array:
    """Returns the matrix product over axis i of a and axis j of b, summed and given in at least float32."""
    return lax.dot_general(a, b, (((i,), (j,)), ((), ())), preferred_element_type=wide(a).dtype)


def channel_sums(x: jax.Array) -> jax.Array:
    """Returns the sums over all axes but the last as a matrix product, with which XLA fuses nothing on CPUs.

    Ones stand in four rows: Eigen's product of one row and a wide matrix is five times slower.
    """
    rows = as_rows(x)
    return (jnp.ones((4, len(rows)), x.dtype) @ rows)[0]


def wide(x: jax.Array) -> jax.Array:
    """Returns x in at least float32, for sums; the conversion is fused into them."""
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x


def pairs(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any) -> Padding:
    """Returns the padding of x (N, H, W, C) under kernel (k, k, …), given in pairs or as "SAME", in pairs."""
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    (top, bottom), (left, right) = padding
    return (top, bottom), (left, right)


def places(x: jax.Array, kernel: jax.Array, stride: int, pad: Padding) -> tuple[int, ...]:
    """Returns the rows and columns of the output of a convolution."""
    sizes = zip(x.shape[1:3], kernel.shape[:2], pad, strict=True)
    return tuple((length + sum(ends) - side) // stride + 1 for length, side, ends in sizes)


def padded(x: jax.Array, pad: Padding) -> jax.Array:
    """Returns x (N, H, W, C) with rows and columns of zeros around."""
    return jnp.pad(x, ((0, 0), *pad, (0, 0)))


def seen_by_tap(x: jax.Array, i: int, j: int, size: tuple[int, ...], stride: int) -> jax.Array:
    """Returns what the tap (i, j) of a kernel sees of the padded input x, (N, *size, C)."""
    n, _, _, channels = x.shape
    end = (n, i + stride * (size[0] - 1) + 1, j + stride * (size[1] - 1) + 1, channels)
    return lax.slice(x, (0, i, j, 0), end, (1, stride, stride, 1))


@jax.custom_vjp
def computed_once(x: jax.Array) -> jax.Array:
    """Returns x (..., C), which XLA then stores instead of computing it again for each of its readers.

    The gradient passes as it comes. XLA copies what it thinks cheap, sums and products, into every reader: of a
    residual network's third block, each shifted read in the kernel's gradient would compute the blocks before it once
    more. It does not copy divisions, and drops `lax.optimization_barrier` too early. The divisor is one because nothing
    exceeds infinity: XLA does not use this, and LLVM, later, drops the division.
    """
    return x / jnp.where(x[..., :1] > jnp.inf, 2, 1).astype(x.dtype)


computed_once.defvjp(lambda x: (computed_once(x), None), lambda _, dy: (dy,))

"""Implements the operations of the layers in XLA's own form, for GPUs, TPUs and exported files."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

Normalized = tuple[jax.Array, jax.Array, jax.Array]
Padding = tuple[tuple[int, int], tuple[int, int]]  # zeros above and below, left and right


def convolve(x: jax.Array, kernel: jax.Array, stride: int, pad: Padding) -> jax.Array:
    """Returns the convolution of x (N, H, W, I) with kernel (k, k, I, O)."""
    return lax.conv_general_dilated(x, kernel, (stride, stride), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def max_pool(x: jax.Array, window: int, stride: int, padding: str) -> jax.Array:
    """See `operations.max_pool`."""
    return nn.max_pool(x, (window, window), (stride, stride), padding)


def linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the product of x (..., I) and kernel (I, O)."""
    return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def batch_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> Normalized:
    """Returns x normalized, its mean and its variance, as `flax.linen.BatchNorm` computes them."""
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    var = jnp.maximum(0.0, jnp.mean(jnp.square(x), axes) - jnp.square(mean))
    return affine(x, mean, var, scale, bias, epsilon), mean, var


def affine(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    """Returns (x - mean) / sqrt(var + epsilon) * scale + bias in flax's order of operations."""
    factor = widened(lax.rsqrt(var + epsilon), x) * widened(scale, x)
    return (x - widened(mean, x)) * factor + widened(bias, x)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """See `operations.layer_norm`."""
    centered, _, inverse = moments(x, epsilon)
    return scaled(centered, inverse, scale, bias)


def moments(x: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns x - mean (..., D), and the mean and 1 / sqrt(variance + epsilon) of each vector, (..., 1)."""
    mean = jnp.expand_dims(x.mean(-1), -1)
    variance = jnp.expand_dims(jnp.square(x - mean).mean(-1), -1)
    return x - mean, mean, lax.rsqrt(variance + epsilon)


def scaled(centered: jax.Array, inverse: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns centered * inverse * scale + bias in flax's order of operations."""
    return centered * (inverse * widened(scale, centered)) + widened(bias, centered)


def identity(x: jax.Array, _: object = None) -> jax.Array:
    """Returns x; XLA decides which values are stored."""
    return x


def widened(values: jax.Array, x: jax.Array) -> jax.Array:
    """Reshapes values (C,) for broadcasting against x (..., C)."""
    return values.reshape((1,) * (x.ndim - 1) + values.shape)

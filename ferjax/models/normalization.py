"""Defines batch and layer normalization with flax's variables."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ferjax.models import operations, xla


class BatchNorm(nn.Module):
    """Normalizes over all axes but the last, with flax's parameters `scale`, `bias` and statistics `mean`, `var`.

    Attributes:
      momentum: of the running statistics: running = momentum * running + (1 - momentum) * batch. The variance is
        divided by N in both uses.
      epsilon: added to the variance.
      dtype: computation dtype; parameters and statistics are float32.
    """

    momentum: float
    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, use_running_average: bool) -> jax.Array:
        """Normalizes (N, ..., C) with the running statistics, or with the batch's, which update the running ones."""
        shape = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        if use_running_average:
            return xla.affine(x, mean.value, var.value, scale, bias, self.epsilon).astype(self.dtype)
        y, batch_mean, batch_var = operations.batch_norm(x, scale, bias, self.epsilon)
        if not self.is_initializing():
            mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
            var.value = self.momentum * var.value + (1 - self.momentum) * batch_var
        return y.astype(self.dtype)


class LayerNorm(nn.Module):
    """Normalizes over the last axis in at least float32, with flax's parameters `scale` and `bias`."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes (..., D)."""
        width = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, width, jnp.float32)
        return operations.layer_norm(full_precision(x), scale, bias, 1e-6).astype(x.dtype)


def batch_norm(x: jax.Array, train: bool, epsilon: float = 1e-5) -> jax.Array:
    """Applies batch normalization in at least float32, in a child named `bn`; flax's momentum 0.9 is torch's 0.1.

    If the collection `frozen` has its statistics, they are used and kept, as in evaluation.
    """
    wide = full_precision(x)
    norm = BatchNorm(momentum=0.9, epsilon=epsilon, dtype=wide.dtype, name="bn")
    resting = not train or norm.has_variable("frozen", "mean")
    return norm(wide, use_running_average=resting).astype(x.dtype)


def full_precision(x: jax.Array) -> jax.Array:
    """Returns x in float32, or in float64 (in tests) if it already is."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)

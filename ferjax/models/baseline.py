"""Defines the plain convolutional networks that serve as baselines in the papers."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ferjax.errors import InputError
from ferjax.models.layers import ConvNormAct, Head, global_average_pool, max_pool, tap


class BaselineCNN(nn.Module):
    """3x3 convolutions, each with normalization, ReLU and 2x2 max pooling; global average pooling; a linear head.

    Named intermediates: `stage1`, `stage2`, …, `features`, `embedding`.

    Attributes:
      num_classes: number of logits.
      widths: channels of each convolution.
      bare_last: whether the last convolution has no normalization, activation and pooling.
      bias: whether convolutions have a bias before their normalization.
      head_dropout: dropout rate before the head.
      folded, dtype: see `ConvNormAct`.
    """

    num_classes: int = 7
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    bare_last: bool = False
    bias: bool = False
    head_dropout: float = 0.5
    folded: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps images (N, H, W, 1 or 3) to float32 logits (N, num_classes)."""
        x, size = x.astype(self.dtype), x.shape[1:3]
        conv = partial(ConvNormAct, bias=self.bias, folded=self.folded, dtype=self.dtype)
        for i, width in enumerate(self.widths, 1):
            bare = self.bare_last and i == len(self.widths)
            x = conv(width, act="linear" if bare else "relu", norm=not bare, name=f"conv{i}")(x, train)
            if not bare:
                if min(x.shape[1:3]) < 2:
                    least = 2 ** (len(self.widths) - self.bare_last)
                    raise InputError(f"images must be at least {least}x{least} pixels, got {size[0]}x{size[1]}")
                x = max_pool(x, window=2)
            x = tap(self, f"stage{i}", x)
        x = tap(self, "features", x)
        x = tap(self, "embedding", global_average_pool(x))
        return Head(self.num_classes, dropout=(self.head_dropout,), dtype=self.dtype, name="head")(x, train)


# Qin: five convolutions, max pooling, normalization, dropout, one linear layer. Qin does not give the widths.
BaselineCNN5 = BaselineCNN
# Paraschiv, experiment 1: average pooling follows the third convolution directly.
BaselineCNN3 = partial(BaselineCNN, widths=(32, 64, 128), bare_last=True, bias=True, head_dropout=0.0)

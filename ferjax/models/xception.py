"""Defines mini-Xception (Arriaga et al. 2017, section III): residual modules of depthwise-separable convolutions.

Valverde's "Xception" of 58,423 parameters is this network; the number includes the BatchNorm statistics.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ferjax.errors import InputError
from ferjax.models.layers import ConvNormAct, QuantPoint, convolution, global_average_pool, tap
from ferjax.models.normalization import full_precision
from ferjax.models.operations import max_pool


class SeparableConv(nn.Module):
    """3x3 depthwise convolution, 1x1 convolution, batch normalization, activation.

    Attributes:
      features: output channels.
      act: name of the activation.
      depthwise, folded, dtype: see `ConvNormAct`.
    """

    features: int
    act: str
    depthwise: str
    folded: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, features)."""
        spatial = partial(convolution, implementation=self.depthwise, dtype=self.dtype, name="depthwise")
        x = QuantPoint(name="q_depthwise")(spatial(x.shape[-1], 3)(x))
        pointwise = ConvNormAct(self.features, 1, act=self.act, folded=self.folded, dtype=self.dtype, name="pointwise")
        return pointwise(x, train)


class Module(nn.Module):
    """Two separable convolutions and 3x3 max pooling of stride 2, added to a 1x1 convolution of stride 2.

    Attributes:
      features: output channels.
      hidden: channels between the two separable convolutions.
      depthwise, folded, dtype: see `ConvNormAct`.
    """

    features: int
    hidden: int
    depthwise: str
    folded: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps (N, H, W, C) to (N, ceil(H / 2), ceil(W / 2), features)."""
        separable = partial(SeparableConv, depthwise=self.depthwise, folded=self.folded, dtype=self.dtype)
        shortcut = ConvNormAct(self.features, 1, 2, act="linear", folded=self.folded, dtype=self.dtype, name="shortcut")
        y = separable(self.hidden, "relu", name="sep1")(x, train)
        y = separable(self.features, "linear", name="sep2")(y, train)
        # Values may be negative here: SAME pads with minus infinity, `layers.max_pool` with zeros.
        return QuantPoint(name="q")(shortcut(x, train) + max_pool(y, 3, 2, "SAME"))


class MiniXception(nn.Module):
    """Two unpadded 3x3 convolutions, four residual modules, a 3x3 convolution to the classes, global average pooling.

    Named intermediates: `stage0` (stem), `stage1` … `stage4`, `features` (input of the last convolution),
    `embedding` (mean of `features`, which the logits do not use).

    Attributes:
      num_classes: number of logits.
      stem_widths: channels of the first two convolutions.
      widths: output channels of each module.
      hidden: channels inside each module; `widths` if not given.
      depthwise, folded, dtype: see `ConvNormAct`.
    """

    num_classes: int = 7
    stem_widths: tuple[int, ...] = (8, 8)
    widths: tuple[int, ...] = (16, 32, 64, 128)
    hidden: tuple[int, ...] = ()
    depthwise: str = "auto"
    folded: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps images (N, H, W, 1 or 3), at least 5 pixels high and wide, to float32 logits (N, num_classes)."""
        hidden = self.hidden or self.widths
        if len(hidden) != len(self.widths):
            raise InputError(f"hidden needs {len(self.widths)} widths, got {hidden}")
        x = x.astype(self.dtype)
        for i, width in enumerate(self.stem_widths, 1):
            x = ConvNormAct(width, pad=0, folded=self.folded, dtype=self.dtype, name=f"stem{i}")(x, train)
        x = tap(self, "stage0", x)
        for i, (width, inner) in enumerate(zip(self.widths, hidden, strict=True), 1):
            x = Module(width, inner, self.depthwise, self.folded, self.dtype, name=f"module{i}")(x, train)
            x = tap(self, f"stage{i}", x)
        x = tap(self, "features", x)
        tap(self, "embedding", global_average_pool(x))
        x = ConvNormAct(self.num_classes, act="linear", norm=False, dtype=self.dtype, name="head")(x, train)
        return full_precision(global_average_pool(x))

"""Defines residual networks (He et al. 2016, "Deep Residual Learning for Image Recognition").

ResNet-18, canonical and for 48x48 gray faces; ResNet-20 (section 4.2 of the paper, with projection shortcuts);
ResNet-50.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ferjax.errors import InputError, unknown
from ferjax.models.layers import ConvNormAct, Head, QuantPoint, global_average_pool, max_pool, tap


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, a 1x1 convolution where the shape changes.

    Attributes:
      features: output channels.
      hidden: channels between the two convolutions.
      stride: of the first convolution and of the shortcut.
      bias: whether convolutions have a bias before their normalization.
      folded, dtype: see `ConvNormAct`.
    """

    features: int
    hidden: tuple[int, ...]
    stride: int = 1
    bias: bool = False
    folded: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps (N, H, W, C) to (N, ceil(H / stride), ceil(W / stride), features)."""
        conv = partial(ConvNormAct, bias=self.bias, folded=self.folded, dtype=self.dtype)
        y = conv(self.hidden[0], stride=self.stride, name="conv1")(x, train)
        y = conv(self.features, act="linear", name="conv2")(y, train)
        if x.shape != y.shape:
            x = conv(self.features, 1, self.stride, act="linear", name="shortcut")(x, train)
        return QuantPoint(name="q")(nn.relu(x + y))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut, a 1x1 convolution where the shape changes.

    Attributes:
      features: output channels.
      hidden: channels after the first and after the second convolution.
      stride: of the block.
      stride_first: whether the first 1x1 convolution has the stride (Caffe) instead of the 3x3 (torch).
      folded, dtype: see `ConvNormAct`.
    """

    features: int
    hidden: tuple[int, ...]
    stride: int = 1
    stride_first: bool = False
    folded: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps (N, H, W, C) to (N, ceil(H / stride), ceil(W / stride), features)."""
        conv = partial(ConvNormAct, folded=self.folded, dtype=self.dtype)
        first, second = (self.stride, 1) if self.stride_first else (1, self.stride)
        y = conv(self.hidden[0], 1, first, name="conv1")(x, train)
        y = conv(self.hidden[1], 3, second, name="conv2")(y, train)
        y = conv(self.features, 1, act="linear", name="conv3")(y, train)
        if x.shape != y.shape:
            x = conv(self.features, 1, self.stride, act="linear", name="shortcut")(x, train)
        return QuantPoint(name="q")(nn.relu(x + y))


class ResNet(nn.Module):
    """Residual network; the first block of each stage but the first halves the map.

    Named intermediates: `stage0` (stem), `stage1`, …, `features` (the last map), `embedding`.

    Attributes:
      num_classes: number of logits.
      depths: blocks in each stage.
      widths: output channels of each stage.
      hidden: channels inside each block, in order; if empty, the stage width for basic blocks and a quarter of
        it for bottlenecks. Set in slimmed networks.
      stem_width: channels of the stem.
      stem: "small" (3x3, stride 1) or "imagenet" (7x7, stride 2, then 3x3 max pooling, stride 2).
      bottleneck: whether blocks are `Bottleneck` instead of `BasicBlock`.
      caffe: Caffe's layout, as in VGGFace2's ResNet-50: `Bottleneck.stride_first`, and the max pooling of the
        stem is padded at the bottom and on the right only.
      head_hidden, head_dropout: see `Head`.
      folded, dtype: see `ConvNormAct`.
    """

    num_classes: int = 7
    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    hidden: tuple[tuple[int, ...], ...] = ()
    stem_width: int = 64
    stem: str = "small"
    bottleneck: bool = False
    caffe: bool = False
    head_hidden: tuple[int, ...] = ()
    head_dropout: tuple[float, ...] = ()
    folded: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps images (N, H, W, 1 or 3) to float32 logits (N, num_classes)."""
        hidden = self.block_widths()
        kind: Any = partial(Bottleneck, stride_first=self.caffe) if self.bottleneck else BasicBlock
        x = self._stem(x.astype(self.dtype), train)
        block = 0
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            for i in range(depth):
                stride = 2 if stage > 1 and i == 0 else 1
                name = f"layer{stage}_{i}"
                x = kind(width, hidden[block], stride, folded=self.folded, dtype=self.dtype, name=name)(x, train)
                block += 1
            x = tap(self, f"stage{stage}", x)
        x = tap(self, "features", x)
        x = tap(self, "embedding", global_average_pool(x))
        head = Head(
            self.num_classes, self.head_hidden, self.head_dropout, folded=self.folded, dtype=self.dtype, name="head"
        )
        return head(x, train)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        if self.stem not in ("small", "imagenet"):
            raise unknown("stem", self.stem, ("small", "imagenet"))
        kernel, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        conv = ConvNormAct(self.stem_width, kernel, stride, folded=self.folded, dtype=self.dtype, name="stem")
        x = conv(x, train)
        if self.stem == "imagenet":
            x = max_pool(x, pad=(0, 1) if self.caffe else (1, 1))
        return tap(self, "stage0", x)

    def block_widths(self) -> tuple[tuple[int, ...], ...]:
        """Returns the channels inside each block, in order.

        Raises:
          InputError: if `widths` has not one entry per stage, or `hidden` not one per block.
        """
        if len(self.depths) != len(self.widths):
            raise InputError(f"depths and widths must have the same length, got {self.depths} and {self.widths}")
        own = [
            (w // 4, w // 4) if self.bottleneck else (w,)
            for depth, w in zip(self.depths, self.widths, strict=True)
            for _ in range(depth)
        ]
        hidden = self.hidden or tuple(own)
        if [len(h) for h in hidden] != [len(h) for h in own]:
            raise InputError(f"hidden needs {len(own)} entries of {len(own[0])} widths, got {hidden}")
        return hidden


ResNet50 = partial(
    ResNet,
    depths=(3, 4, 6, 3),
    widths=(256, 512, 1024, 2048),
    stem="imagenet",
    bottleneck=True,
)
ResNet50Caffe = partial(ResNet50, caffe=True)
ResNet20 = partial(ResNet, depths=(3, 3, 3), widths=(16, 32, 64), stem_width=16)

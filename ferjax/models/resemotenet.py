"""Defines ResEmoteNet (Roy et al. 2024, "Bridging Accuracy and Loss Reduction in Facial Emotion Recognition")."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ferjax.errors import InputError
from ferjax.models.layers import ConvNormAct, Head, SqueezeExcite, global_average_pool, max_pool, tap
from ferjax.models.resnet import BasicBlock


class ResEmoteNet(nn.Module):
    """Three convolutions with max-pool, squeeze-and-excitation, three strided residual blocks, four linear layers.

    As in the authors' code, convolutions have a bias before their normalization. Named intermediates:
    `stage0` (after squeeze-and-excitation), `stage1` … `stage3`, `features`, `embedding`.

    Attributes:
      num_classes: number of logits.
      stem_widths: channels of the first convolutions, each followed by 2x2 max pooling.
      stem_dropout: dropout rate after each max pooling but the last.
      squeezed: width inside the squeeze-and-excitation block.
      widths: output channels of the residual blocks.
      hidden: channels inside the residual blocks; `widths` if not given.
      head_hidden, head_dropout: see `Head`.
      folded, dtype: see `ConvNormAct`.
    """

    num_classes: int = 7
    stem_widths: tuple[int, ...] = (64, 128, 256)
    stem_dropout: float = 0.2
    squeezed: int = 16
    widths: tuple[int, ...] = (512, 1024, 2048)
    hidden: tuple[int, ...] = ()
    head_hidden: tuple[int, ...] = (1024, 512, 256)
    head_dropout: tuple[float, ...] = (0.0, 0.5, 0.5, 0.5)
    folded: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps images (N, H, W, 1 or 3), at least 8 pixels high and wide, to float32 logits (N, num_classes)."""
        hidden = self.hidden or self.widths
        if len(hidden) != len(self.widths):
            raise InputError(f"hidden needs {len(self.widths)} widths, got {hidden}")
        x = x.astype(self.dtype)
        conv = partial(ConvNormAct, bias=True, folded=self.folded, dtype=self.dtype)
        for i, width in enumerate(self.stem_widths, 1):
            x = max_pool(conv(width, name=f"stem{i}")(x, train), window=2)
            if i < len(self.stem_widths):
                x = nn.Dropout(self.stem_dropout, deterministic=not train)(x)
        x = tap(self, "stage0", SqueezeExcite(self.squeezed, bias=False, dtype=self.dtype, name="se")(x))
        block = partial(BasicBlock, stride=2, bias=True, folded=self.folded, dtype=self.dtype)
        for i, (width, inner) in enumerate(zip(self.widths, hidden, strict=True), 1):
            x = tap(self, f"stage{i}", block(width, (inner,), name=f"layer{i}")(x, train))
        x = tap(self, "features", x)
        x = tap(self, "embedding", global_average_pool(x))
        head = Head(self.num_classes, self.head_hidden, self.head_dropout, norm=False, dtype=self.dtype, name="head")
        return head(x, train)

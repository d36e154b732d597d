"""Defines EfficientNet-Lite0 (Tan and Le 2019, in the variant for integers that TensorFlow published in 2020).

It is EfficientNet-B0 without squeeze-and-excitation and with ReLU6, whose range is fixed, instead of swish. The
pretrained weights need TensorFlow's SAME padding: on even maps at stride 2, it has one row and one column of zeros less
at the top and on the left than torch's padding.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ferjax.errors import InputError
from ferjax.models.arguments import is_whole
from ferjax.models.layers import ConvNormAct, Head, global_average_pool, tap
from ferjax.models.mobilenet import InvertedResidual


class Row(NamedTuple):
    """One inverted residual block."""

    kernel: int
    output: int
    stride: int


# Tan and Le 2019, table 1; all blocks but the first expand their input six times.
ROWS = (
    Row(3, 16, 1),
    Row(3, 24, 2),
    Row(3, 24, 1),
    Row(5, 40, 2),
    Row(5, 40, 1),
    *[Row(3, 80, 2), Row(3, 80, 1), Row(3, 80, 1)],
    *[Row(5, 112, 1)] * 3,
    *[Row(5, 192, 2), Row(5, 192, 1), Row(5, 192, 1), Row(5, 192, 1)],
    Row(3, 320, 1),
)
_STEM, _LAST, _EXPANSION = 32, 1280, 6


class Widths(NamedTuple):
    """Channels of all layers of a network."""

    stem: int
    expanded: tuple[int, ...]
    output: tuple[int, ...]
    last: int


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0.

    Named intermediates: `stage0` (stem) to `stage5` (the last block of each resolution), `features`, `embedding`.

    Attributes:
      num_classes: number of logits.
      widths: all widths, as in `Widths`; set in slimmed networks.
      stem_stride: 2 as published; with 1, a 48-pixel face has maps of the size of a 96-pixel face.
      act: activation.
      head_hidden, head_dropout: see `Head`.
      depthwise, folded, dtype: see `ConvNormAct`.
    """

    num_classes: int = 7
    widths: tuple[Any, ...] = ()
    stem_stride: int = 2
    act: str = "relu6"
    head_hidden: tuple[int, ...] = ()
    head_dropout: tuple[float, ...] = (0.2,)
    depthwise: str = "auto"
    folded: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps images (N, H, W, 1 or 3) to float32 logits (N, num_classes)."""
        w = self.all_widths()
        conv = partial(ConvNormAct, act=self.act, epsilon=1e-3, folded=self.folded, dtype=self.dtype)
        x = conv(w.stem, 3, self.stem_stride, pad="SAME", name="stem")(x.astype(self.dtype), train)
        x = tap(self, "stage0", x)
        stage = 0
        for i, row in enumerate(ROWS):
            x = self._block(i, row, w)(x, train)
            if i + 1 == len(ROWS) or ROWS[i + 1].stride == 2:
                stage += 1
                x = tap(self, f"stage{stage}", x)
        x = tap(self, "features", conv(w.last, 1, name="last")(x, train))
        x = tap(self, "embedding", global_average_pool(x))
        head = partial(Head, self.num_classes, self.head_hidden, self.head_dropout, self.act, norm=False)
        return head(dtype=self.dtype, name="head")(x, train)

    def _block(self, i: int, row: Row, w: Widths) -> InvertedResidual:
        return InvertedResidual(
            row.kernel,
            w.expanded[i],
            w.output[i],
            squeezed=0,
            stride=row.stride,
            expand=i > 0,
            residual=i > 0 and row.stride == 1 and row.output == ROWS[i - 1].output,
            act=self.act,
            gate="",
            depthwise=self.depthwise,
            folded=self.folded,
            dtype=self.dtype,
            pad="SAME",
            name=f"block{i}",
        )

    def all_widths(self) -> Widths:
        """Returns all widths; raises InputError if `widths` does not have the form of `Widths`."""
        if not self.widths:
            output = tuple(row.output for row in ROWS)
            return Widths(_STEM, (_STEM, *(_EXPANSION * width for width in output[:-1])), output, _LAST)
        if not _fit_the_blocks(self.widths):
            raise InputError(f"widths must be [stem, {len(ROWS)} expanded, {len(ROWS)} output, last]")
        return Widths(*self.widths)


def _fit_the_blocks(widths: tuple[Any, ...]) -> bool:
    if len(widths) != 4 or not all(isinstance(part, tuple) and len(part) == len(ROWS) for part in widths[1:3]):
        return False
    stem, expanded, output, last = widths
    return all(map(is_whole, (stem, *expanded, *output, last)))

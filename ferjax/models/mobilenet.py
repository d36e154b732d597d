"""Defines MobileNetV3-Small (Howard et al. 2019, table 2, as in torchvision) and MicroExpNet, which extends it.

The momentum of the running statistics is 0.9 (flax's convention), as in all networks here; torchvision's is 0.99.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ferjax.errors import InputError
from ferjax.models.arguments import is_whole
from ferjax.models.layers import ConvNormAct, Head, QuantPoint, SqueezeExcite, global_average_pool, tap


class Row(NamedTuple):
    """One inverted residual block of the table, in channels at width 1."""

    kernel: int
    expanded: int
    output: int
    squeeze: bool
    late: bool  # late blocks use the network's activation, early blocks ReLU
    stride: int


ROWS = (
    Row(3, 16, 16, True, False, 2),
    Row(3, 72, 24, False, False, 2),
    Row(3, 88, 24, False, False, 1),
    Row(5, 96, 40, True, True, 2),
    Row(5, 240, 40, True, True, 1),
    Row(5, 240, 40, True, True, 1),
    Row(5, 120, 48, True, True, 1),
    Row(5, 144, 48, True, True, 1),
    Row(5, 288, 96, True, True, 2),
    Row(5, 576, 96, True, True, 1),
    Row(5, 576, 96, True, True, 1),
)


class Widths(NamedTuple):
    """Channels of all layers of a network."""

    stem: int
    expanded: tuple[int, ...]
    output: tuple[int, ...]
    squeezed: tuple[int, ...]  # 0 for blocks without squeeze-and-excitation
    last: int


def divisible(value: float, by: int = 8) -> int:
    """Returns the multiple of `by` nearest to value, at most 10% below it (torchvision's rounding)."""
    rounded = max(by, int(value + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * value else rounded


class InvertedResidual(nn.Module):
    """Inverted residual block: expansion, depthwise convolution, squeeze-and-excitation, projection.

    Attributes:
      kernel_size: of the depthwise convolution.
      expanded: channels of the depthwise convolution.
      output: channels of the output.
      squeezed: width of the squeeze-and-excitation, 0 for none.
      stride: of the depthwise convolution.
      expand: whether there is an expansion (the first block has none).
      residual: whether the input is added.
      act: name of the activation.
      gate: activation of the squeeze-and-excitation.
      depthwise, folded, dtype, pad: see `ConvNormAct`; the padding is that of the depthwise convolution.
    """

    kernel_size: int
    expanded: int
    output: int
    squeezed: int
    stride: int
    expand: bool
    residual: bool
    act: str
    gate: str
    depthwise: str
    folded: bool
    dtype: Any
    pad: int | str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps (N, H, W, C) to (N, ceil(H / stride), ceil(W / stride), output)."""
        conv = partial(ConvNormAct, epsilon=1e-3, folded=self.folded, dtype=self.dtype)
        y = conv(self.expanded, 1, act=self.act, name="expand")(x, train) if self.expand else x
        spatial = partial(conv, pad=self.pad, act=self.act, depthwise=self.depthwise)
        y = spatial(self.expanded, self.kernel_size, self.stride, name="depthwise")(y, train)
        if self.squeezed:
            y = SqueezeExcite(self.squeezed, self.gate, dtype=self.dtype, name="se")(y)
        y = conv(self.output, 1, act="linear", name="project")(y, train)
        return QuantPoint(name="q")(x + y) if self.residual else y


class MobileNetV3Small(nn.Module):
    """MobileNetV3-Small, optionally with squeeze-and-excitation after its last feature map.

    Named intermediates: `stage0` (stem) to `stage4` (the last block of each resolution), `features`, `embedding`.

    Attributes:
      num_classes: number of logits.
      width: multiplier of all widths of the table; the products are rounded to multiples of 8.
      widths: all widths, as in `Widths`; set in slimmed networks.
      stem_stride: 2 as published; with 1, the last map of a 48-pixel face is 3x3 instead of 2x2.
      act: activation of stem, late blocks and last convolution; "relu6" quantizes better than "hard_swish".
      gate: gate of the squeeze-and-excitation in the blocks.
      attention: squeezed width of the squeeze-and-excitation after the last map, 0 for none.
      attention_gate: gate of the squeeze-and-excitation after the last map.
      head_hidden, head_dropout: see `Head`.
      head_act: activation of the head's hidden layers.
      depthwise, folded, dtype: see `ConvNormAct`.
    """

    num_classes: int = 7
    width: float = 1.0
    widths: tuple[Any, ...] = ()
    stem_stride: int = 2
    act: str = "hard_swish"
    gate: str = "hard_sigmoid"
    attention: int = 0
    attention_gate: str = "sigmoid"
    head_hidden: tuple[int, ...] = (1024,)
    head_dropout: tuple[float, ...] = (0.0, 0.2)
    head_act: str = "hard_swish"
    depthwise: str = "auto"
    folded: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps images (N, H, W, 1 or 3) to float32 logits (N, num_classes)."""
        w = self.all_widths()
        conv = partial(ConvNormAct, act=self.act, epsilon=1e-3, folded=self.folded, dtype=self.dtype)
        x = conv(w.stem, 3, self.stem_stride, name="stem")(x.astype(self.dtype), train)
        x = tap(self, "stage0", x)
        stage = 0
        for i, row in enumerate(ROWS):
            x = self._block(i, row, w)(x, train)
            if i + 1 == len(ROWS) or ROWS[i + 1].stride == 2:
                stage += 1
                x = tap(self, f"stage{stage}", x)
        x = conv(w.last, 1, name="last")(x, train)
        if self.attention:
            x = SqueezeExcite(self.attention, self.attention_gate, dtype=self.dtype, name="attention_se")(x)
        x = tap(self, "features", x)
        x = tap(self, "embedding", global_average_pool(x))
        head = partial(Head, self.num_classes, self.head_hidden, self.head_dropout, self.head_act, norm=False)
        return head(dtype=self.dtype, name="head")(x, train)

    def _block(self, i: int, row: Row, w: Widths) -> InvertedResidual:
        return InvertedResidual(
            row.kernel,
            w.expanded[i],
            w.output[i],
            w.squeezed[i],
            row.stride,
            expand=i > 0,
            residual=i > 0 and row.stride == 1 and row.output == ROWS[i - 1].output,
            act=self.act if row.late else "relu",
            gate=self.gate,
            depthwise=self.depthwise,
            folded=self.folded,
            dtype=self.dtype,
            name=f"block{i}",
        )

    def all_widths(self) -> Widths:
        """Returns all widths; raises InputError if `widths` does not have the table's form."""
        if not self.widths:
            expanded = tuple(divisible(self.width * row.expanded) for row in ROWS)
            output = tuple(divisible(self.width * row.output) for row in ROWS)
            squeezed = tuple(divisible(e // 4) if row.squeeze else 0 for e, row in zip(expanded, ROWS, strict=True))
            return Widths(divisible(self.width * 16), expanded, output, squeezed, 6 * output[-1])
        if not _fit_the_table(self.widths):
            raise InputError(
                f"widths must be [stem, {len(ROWS)} expanded, {len(ROWS)} output, {len(ROWS)} squeezed, last]"
            )
        return Widths(*self.widths)


def _fit_the_table(widths: tuple[Any, ...]) -> bool:
    if len(widths) != 5 or not all(isinstance(part, tuple) and len(part) == len(ROWS) for part in widths[1:4]):
        return False
    stem, expanded, output, squeezed, last = widths
    return all(map(is_whole, (stem, *expanded, *output, last))) and all(is_whole(width, 0) for width in squeezed)


MicroExpNet = partial(MobileNetV3Small, attention=144, head_hidden=(256,), head_dropout=(0.0, 0.4), head_act="relu")

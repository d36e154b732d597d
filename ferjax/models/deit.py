"""Defines DeiT-Tiny (Touvron et al. 2021), plain and distilled, and Qin's small DeiT without attention."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ferjax.errors import InputError
from ferjax.models.activations import activation
from ferjax.models.layers import PROBABILITY, Head, QuantPoint, activate, tap
from ferjax.models.normalization import LayerNorm, full_precision
from ferjax.models.operations import linear, stored

TEACHER_HEADS = ("class_logits", "distillation_logits")
small_normal = nn.initializers.truncated_normal(0.02)


def dense(features: int, dtype: Any, name: str) -> nn.Dense:
    """Returns a linear layer with a truncated-normal initial kernel."""
    return nn.Dense(features, kernel_init=small_normal, dtype=dtype, dot_general=linear, name=name)


class Patches(nn.Module):
    """Embeds square patches of an image as tokens.

    Attributes:
      width: length of a token.
      size: side of a patch in pixels.
      dtype: computation dtype.
    """

    width: int
    size: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, tuple[int, int]]:
        """Maps (N, H, W, C) to tokens (N, rows * columns, width) and (rows, columns)."""
        n, height, width, _ = x.shape
        if height % self.size or width % self.size:
            raise InputError(f"image sides must be multiples of the patch size {self.size}, got {height}x{width}")
        square = (self.size, self.size)
        x = nn.Conv(self.width, square, square, "VALID", dtype=self.dtype, kernel_init=small_normal, name="conv")(
            x.astype(self.dtype)
        )
        x = QuantPoint(name="q")(x)
        return x.reshape(n, -1, self.width), (height // self.size, width // self.size)


def resize_positions(positions: jax.Array, old: tuple[int, int], new: tuple[int, int]) -> jax.Array:
    """Interpolates position embeddings to another grid of patches (Touvron et al. 2021, section 3).

    Args:
      positions: (1, prefix + old rows * old columns, D); the prefix tokens are kept.
      old: (rows, columns) of the embedding.
      new: (rows, columns) of the result.

    Returns:
      (1, prefix + new rows * new columns, D), bicubic, with antialiasing where the grid shrinks.
    """
    if old == new:
        return positions
    width = positions.shape[-1]
    prefix, places = jnp.split(positions, [positions.shape[1] - old[0] * old[1]], axis=1)
    resized = jax.image.resize(places.reshape(*old, width), (*new, width), "bicubic")
    return jnp.concatenate([prefix, resized.reshape(1, -1, width)], axis=1)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2).

    Attributes:
      heads: number of heads, a divisor of the token length.
      dtype: computation dtype; the softmax is computed in at least float32.
    """

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (N, T, D) to (N, T, D)."""
        n, t, d = x.shape
        if d % self.heads:
            raise InputError(f"heads must divide the token width {d}, got {self.heads}")
        q, k, v = (
            part.reshape(n, t, self.heads, d // self.heads).transpose(0, 2, 1, 3)
            for part in jnp.split(QuantPoint(name="q_qkv")(dense(3 * d, self.dtype, "qkv")(x)), 3, axis=-1)
        )
        q = QuantPoint(name="q_scaled")(q * (d // self.heads) ** -0.5)
        scores = QuantPoint(name="q_scores")(jnp.matmul(q, k.transpose(0, 1, 3, 2)))
        weights = QuantPoint(PROBABILITY, name="q_weights")(nn.softmax(full_precision(scores)).astype(scores.dtype))
        y = QuantPoint(name="q_values")(jnp.matmul(weights, v)).transpose(0, 2, 1, 3).reshape(n, t, d)
        return QuantPoint(name="q")(dense(d, self.dtype, "proj")(y))


class Block(nn.Module):
    """Transformer block: attention and a feed-forward network, pre-normalized and residual.

    Attributes:
      heads: number of attention heads.
      hidden: width inside the feed-forward network.
      act: name of the activation.
      dtype: computation dtype.
    """

    heads: int
    hidden: int
    act: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens (N, T, D) to (N, T, D)."""
        y = QuantPoint(name="q_norm1")(LayerNorm(name="norm1")(x))
        x = stored(QuantPoint(name="q_attn")(x + Attention(self.heads, self.dtype, name="attn")(y)))
        y = QuantPoint(name="q_norm2")(LayerNorm(name="norm2")(x))
        y = activate(dense(self.hidden, self.dtype, "fc1")(y), self.act)
        y = QuantPoint(name="q_fc2")(dense(x.shape[-1], self.dtype, "fc2")(y))
        return stored(QuantPoint(name="q_sum")(x + y))


class DeiT(nn.Module):
    """Vision transformer with a class token and, if distilled, a distillation token with a head of its own.

    The distilled network returns the mean of the two heads' logits, as the code of Touvron et al. 2021 does; their
    section 4 adds the softmax outputs.
    Named intermediates: `stage1`, `stage2`, … (tokens after each block), `features` (tokens before the last
    block, because the head reads only the prefix tokens after it), `embedding` (class token) and, if distilled,
    `class_logits` and `distillation_logits`.

    Attributes:
      num_classes: number of logits.
      depth: number of blocks.
      width: length of a token.
      heads: attention heads.
      hidden: width inside each block's feed-forward network, one per block; 4 * width if not given.
      patch: side of a patch in pixels.
      grid: (rows, columns) of the position embedding, which is interpolated for other image sizes.
      distilled: whether there are a distillation token and its head.
      act: activation of the feed-forward networks; pretrained weights need the exact "gelu".
      head_dropout: dropout rate before the heads.
      dtype: computation dtype; parameters stay float32.
    """

    num_classes: int = 7
    depth: int = 12
    width: int = 192
    heads: int = 3
    hidden: tuple[int, ...] = ()
    patch: int = 16
    grid: tuple[int, int] = (14, 14)
    distilled: bool = False
    act: str = "gelu"
    head_dropout: float = 0.0
    dtype: Any = jnp.float32

    @property
    def prefix_tokens(self) -> int:
        """Number of tokens before the patch tokens."""
        return 2 if self.distilled else 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps images (N, H, W, 1 or 3), sides multiples of `patch`, to float32 logits (N, num_classes)."""
        hidden = self.hidden or (4 * self.width,) * self.depth
        if len(hidden) != self.depth:
            raise InputError(f"hidden needs {self.depth} widths, got {hidden}")
        x = self._embed(x)
        for i, inner in enumerate(hidden):
            if i + 1 == self.depth:
                x = tap(self, "features", x)
            x = Block(self.heads, inner, self.act, self.dtype, name=f"block{i}")(x)
            x = tap(self, f"stage{i + 1}", x)
        prefix = LayerNorm(name="norm")(x[:, : self.prefix_tokens])
        head = partial(Head, self.num_classes, dropout=(self.head_dropout,), dtype=self.dtype)
        read = [t.reshape(-1, self.width) for t in jnp.split(prefix, self.prefix_tokens, axis=1)]
        logits = head(name="head")(tap(self, "embedding", read[0]), train)
        if self.distilled:
            labels, teacher = TEACHER_HEADS
            of_teacher = tap(self, teacher, head(name="head_dist")(read[1], train))
            logits = 0.5 * (tap(self, labels, logits) + of_teacher)
        return logits

    def _embed(self, image: jax.Array) -> jax.Array:
        x, grid = Patches(self.width, self.patch, self.dtype, name="patch")(image)
        rows, columns = self.grid
        names = ("cls_token", "dist_token")[: self.prefix_tokens]
        first = [self.param(name, small_normal, (1, 1, self.width)) for name in names]
        count = self.prefix_tokens + rows * columns
        positions = self.param("pos_embed", small_normal, (1, count, self.width))
        prefix = [jnp.broadcast_to(t.astype(self.dtype), (len(x), 1, self.width)) for t in first]
        x = jnp.concatenate([*prefix, x], axis=1) + resize_positions(positions, self.grid, grid).astype(self.dtype)
        return stored(QuantPoint(name="q_embed")(x))


class AttentionFreeDeiT(nn.Module):
    """Qin's small DeiT: patch and position embedding and feed-forward networks, without attention.

    Every feed-forward network is one 192-wide layer with GELU, pre-normalized and residual. The head reads the
    mean over the patches, because without attention a class token gets no information from the image.
    Named intermediates: `stage1`, … (tokens after each layer), `features` (tokens after the last), `embedding`.

    Attributes:
      num_classes: number of logits.
      depth: number of feed-forward networks; the paper's parameter count corresponds to one.
      width: length of a token.
      patch: side of a patch in pixels; with 16, a 48-pixel face has nine tokens.
      grid: see `DeiT.grid`.
      act: name of the activation.
      head_dropout: dropout rate before the head.
      dtype: computation dtype; parameters stay float32.
    """

    num_classes: int = 7
    depth: int = 1
    width: int = 192
    patch: int = 16
    grid: tuple[int, int] = (14, 14)
    act: str = "gelu"
    head_dropout: float = 0.0
    dtype: Any = jnp.float32

    @property
    def prefix_tokens(self) -> int:
        """Number of tokens before the patch tokens."""
        return 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps images (N, H, W, 1 or 3), sides multiples of `patch`, to float32 logits (N, num_classes)."""
        x, grid = Patches(self.width, self.patch, self.dtype, name="patch")(x)
        positions = self.param("pos_embed", small_normal, (1, self.grid[0] * self.grid[1], self.width))
        x = stored(QuantPoint(name="q_embed")(x + resize_positions(positions, self.grid, grid).astype(self.dtype)))
        for i in range(self.depth):
            y = QuantPoint(name=f"q_norm{i}")(LayerNorm(name=f"norm{i}")(x))
            y = QuantPoint(name=f"q_fc{i}")(dense(self.width, self.dtype, f"fc{i}")(y))
            y = QuantPoint(name=f"q_act{i}")(activation(self.act)(y))
            x = tap(self, f"stage{i + 1}", stored(QuantPoint(name=f"q_sum{i}")(x + y)))
        x = tap(self, "features", x)
        x = tap(self, "embedding", jnp.mean(LayerNorm(name="norm")(x), axis=1))
        return Head(self.num_classes, dropout=(self.head_dropout,), dtype=self.dtype, name="head")(x, train)


DeiTTinyDistilled = partial(DeiT, distilled=True)

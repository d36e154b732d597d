"""Selects the units to keep by their scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ferjax.prune.layers import Layer, Pool

Masks = dict[str, jax.Array]


def select(
    layers: Mapping[str, Layer],
    pools: Sequence[Pool],
    scores: Mapping[str, jax.Array],
    masks: Masks,
    progress: Any,
) -> Masks:
    """Returns masks that keep the best units of each pool among those alive, and at least one unit of each layer.

    Args:
      layers: by path.
      pools: layers that are ranked together.
      scores: non-negative scores of the weights, by path.
      masks: current masks, including those of the companions.
      progress: share of each pool's final count to prune now, 0 … 1.
    """
    units, alive = {}, {}
    kept: dict[str, jax.Array] = {}
    for name, layer in layers.items():
        units[name], alive[name] = layer.score(scores[name]), layer.alive(masks[name])
    for names, pruned in pools:
        best = [jnp.arange(units[n].size) == jnp.argmax(jnp.where(alive[n], units[n], -1.0)) for n in names]
        ranked = [jnp.where(b, jnp.inf, units[n]) for b, n in zip(best, names, strict=True)]
        living = jnp.concatenate([alive[n] for n in names])
        chosen = _largest(jnp.concatenate(ranked), living, progress * pruned) & living
        ends = np.cumsum([layers[n].units for n in names])[:-1]
        kept |= dict(zip(names, jnp.split(chosen, ends), strict=True))
    result = dict(masks)
    for name, layer in layers.items():
        result[name] = layer.mask(kept[name])
        for companion in layer.companions:
            result[companion] = kept[name]
    return result


def _largest(scores: jax.Array, alive: jax.Array, pruned: Any) -> jax.Array:
    """Marks all but the `pruned` lowest scores; dead units rank lowest, ties rank by index."""
    count = jnp.round(pruned).astype(jnp.int32)
    # The bits of non-negative floats are in the order of the floats; dead units are negative.
    ranked = jax.lax.bitcast_convert_type(jnp.where(alive, scores, -1.0), jnp.int32)
    last = _nth(ranked, count)
    lower, ties, index = ranked < last, ranked == last, jnp.arange(scores.size, dtype=jnp.int32)
    end = _nth(jnp.where(ties, index, scores.size), count - jnp.sum(lower, dtype=jnp.int32))
    return ~(lower | (ties & (index <= end)))


def _nth(values: jax.Array, n: jax.Array) -> jax.Array:
    """Returns the n-th lowest of int32 values, n from 1: bit by bit; a sort takes ten times as long."""
    unsigned = jax.lax.bitcast_convert_type(values, jnp.uint32) ^ jnp.uint32(1 << 31)

    def bit(i: jax.Array, found: jax.Array) -> jax.Array:
        tried = found | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        return jnp.where(jnp.sum(unsigned < tried, dtype=jnp.int32) < n, tried, found)

    found = jax.lax.fori_loop(0, 32, bit, jnp.uint32(0))
    return jax.lax.bitcast_convert_type(found ^ jnp.uint32(1 << 31), jnp.int32)


def best_of_blocks(scores: jax.Array, mask: jax.Array, kept: int, size: int) -> jax.Array:
    """Marks the `kept` best of every `size` consecutive weights along the inputs of each output channel."""
    blocks = jnp.where(mask, scores, -1.0).reshape(-1, size, scores.shape[-1])
    ranks = jnp.argsort(jnp.argsort(blocks, axis=1), axis=1)
    return (ranks >= size - kept).reshape(scores.shape)

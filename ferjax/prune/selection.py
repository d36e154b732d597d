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
    order = jnp.argsort(jnp.where(alive, scores, -1.0))
    ranks = jnp.arange(scores.size, dtype=jnp.int32)
    return jnp.zeros(scores.shape, bool).at[order].set(ranks >= jnp.round(pruned).astype(jnp.int32))


def best_of_blocks(scores: jax.Array, mask: jax.Array, kept: int, size: int) -> jax.Array:
    """Marks the `kept` best of every `size` consecutive weights along the inputs of each output channel."""
    blocks = jnp.where(mask, scores, -1.0).reshape(-1, size, scores.shape[-1])
    ranks = jnp.argsort(jnp.argsort(blocks, axis=1), axis=1)
    return (ranks >= size - kept).reshape(scores.shape)

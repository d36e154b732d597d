"""Measures the sparsity of pruned parameters and applies masks."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ferjax import errors
from ferjax.prune.layers import KERNELS, chosen, flat
from ferjax.trees import path_name


def apply_masks(params: Any, masks: Mapping[str, jax.Array]) -> Any:
    """Sets weights to zero by the masks of `find_masks`, such as in a moving average (EMA), where they only decay."""

    def masked(path: Any, weight: jax.Array) -> jax.Array:
        mask = masks.get(path_name(path))
        return weight if mask is None else jnp.where(mask, weight, 0)

    return jax.tree_util.tree_map_with_path(masked, params)


def masked_share(masks: Mapping[str, jax.Array]) -> float:
    """Returns the share of pruned weights, 0 … 1, over all parameters with a mask."""
    alive = sum(int(np.count_nonzero(np.asarray(mask))) for mask in masks.values())
    return 1 - alive / sum(mask.size for mask in masks.values())


def layer_sparsity(params: Any, *, rules: Sequence[str] = KERNELS) -> dict[str, float]:
    """Returns the share of exact zeros, 0 … 1, of each parameter that matches `rules`."""
    weights = flat(params)
    return {name: float(np.mean(np.asarray(weights[name]) == 0)) for name in chosen(params, rules)}


def compression_ratio(dense: Any, pruned: Any) -> float:
    """Returns R, the number of parameters before pruning over the number of nonzeros after it (Valverde, eq. 1).

    `pruned` is of the same or of a slimmed network.
    """
    remaining = sum(int(np.count_nonzero(np.asarray(w))) for w in jax.tree.leaves(pruned))
    if not remaining:
        raise errors.InputError("all parameters are zero: the compression ratio is infinite")
    return sum(w.size for w in jax.tree.leaves(dense)) / remaining

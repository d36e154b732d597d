"""What is left of a network after pruning."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ferjax import errors
from ferjax.prune.layers import KERNELS, chosen, flat
from ferjax.trees import path_name


def apply_masks(params: Any, masks: Mapping[str, jax.Array]) -> Any:
    """Sets pruned weights to zero, such as in a running average, where they only fade.

    Args:
      params: a nested dict of arrays.
      masks: by parameter path, from `find_masks`.
    """

    def masked(path: Any, weight: jax.Array) -> jax.Array:
        mask = masks.get(path_name(path))
        return weight if mask is None else jnp.where(mask, weight, 0)

    return jax.tree_util.tree_map_with_path(masked, params)


def masked_share(masks: Mapping[str, jax.Array]) -> float:
    """Returns the share of weights that masks prune, 0 … 1, over all parameters that have one."""
    alive = sum(int(np.count_nonzero(np.asarray(mask))) for mask in masks.values())
    return 1 - alive / sum(mask.size for mask in masks.values())


def layer_sparsity(params: Any, *, rules: Sequence[str] = KERNELS) -> dict[str, float]:
    """Returns the share of exact zeros, 0 … 1, of each parameter that the rules find.

    Raises:
      InputError: for a rule that finds nothing.
    """
    weights = flat(params)
    return {name: float(np.mean(np.asarray(weights[name]) == 0)) for name in chosen(params, rules)}


def compression_ratio(dense: Any, pruned: Any) -> float:
    """Returns R, what there was over what remains (Valverde eq. 1).

    Args:
      dense: parameters before pruning; each counts.
      pruned: parameters after it, of the same or of a slimmed network; those that are not zero count.

    Raises:
      InputError: if nothing remains.
    """
    remaining = sum(int(np.count_nonzero(np.asarray(w))) for w in jax.tree.leaves(pruned))
    if not remaining:
        raise errors.InputError("nothing remains of the network: its compression ratio is infinite")
    return sum(w.size for w in jax.tree.leaves(dense)) / remaining

"""Implements pruning as an optax transform.

A score ranks the weights, a distribution sets how many each layer loses, a schedule sets when, and a structure sets
which weights are pruned together. The masks are part of the optimizer state; a pruned weight never comes back.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ferjax import errors
from ferjax.prune.layers import DISTRIBUTIONS, KERNELS, Layer, find_layers, find_pools, flat, parse_block
from ferjax.prune.selection import Masks, best_of_blocks, select
from ferjax.trees import path_name

SCORES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "magnitude": lambda weight, gradient: jnp.abs(weight),
    "gradient_weight": lambda weight, gradient: jnp.abs(weight * gradient),  # Molchanov et al. 2019, eq. 8
}


class PruneState(NamedTuple):
    """State of `prune`.

    Attributes:
      seen: int32, number of updates.
      masks: by parameter path, True where a weight is kept; parameters that are not pruned have no mask.
    """

    seen: jax.Array
    masks: Masks


def prune(
    sparsity: float,
    *,
    begin: int = 0,
    end: int | None = None,
    frequency: int = 100,
    score: str = "magnitude",
    distribution: str = "global",
    structure: str = "weight",
    rules: Sequence[str] = KERNELS,
    keep: Sequence[str] = (),
    keep_zeros: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Returns the transform that replaces the update of a pruned weight w by -w, so that it becomes exactly zero.

    It must be the last in `optax.chain`. Sparsity rises from 0 at `begin` as s · (1 - (1 - t)³) to s at `end` (Zhu and
    Gupta 2017, eq. 1); with `end` equal to `begin`, pruning is done in one step.

    Args:
      sparsity: s, final share of pruned units, in [0, 1).
      begin: first update that prunes.
      end: update at which s is reached; `begin` if not given.
      frequency: number of updates between two changes of the masks.
      score: "magnitude", |w|, or "gradient_weight", |w · g|, which needs `gradients=…` in `update`. The score of a
        filter is the root mean square over its weights.
      distribution: "global" ranks the units of all layers together and keeps at least one per layer; "uniform" prunes
        the same share of each layer; "erdos_renyi_kernel" sets the density of a layer proportional to
        sum(shape) / prod(shape), so that large layers lose more (Evci et al. 2020, section 3).
      structure: the unit of pruning: "weight"; "filter", the weights of an output channel with its bias and
        normalization, so that `ferjax.prune.slim` can remove it; or "N:M", which keeps N of M consecutive weights along
        the inputs of an output channel, in every layer and in one step, with `sparsity` = 1 - N/M.
      rules: regular expressions over parameter paths that are pruned; each must match a parameter.
      keep: regular expressions over parameter paths that are not pruned; each must match a parameter.
      keep_zeros: whether units that are zero at initialization are pruned from the first update on, as in a network
        that was pruned before; they count towards `sparsity`.

    Raises:
      InputError: for an unknown name or a value out of range; at initialization, for a rule that matches nothing, a
        layer that would lose all units, or a kernel that N:M does not divide.
    """
    if score not in SCORES:
        raise errors.unknown("score", score, SCORES)
    if distribution not in DISTRIBUTIONS:
        raise errors.unknown("distribution", distribution, DISTRIBUTIONS)
    if not 0 <= sparsity < 1:
        raise errors.InputError(f"sparsity must be in [0, 1), got {sparsity}")
    end = begin if end is None else end
    if not (0 <= begin <= end and frequency >= 1):
        raise errors.InputError(
            f"pruning needs 0 <= begin <= end and frequency >= 1, got begin={begin}, end={end}, frequency={frequency}"
        )
    block = parse_block(structure, sparsity, one_shot=begin == end)
    find = partial(find_layers, rules=rules, keep=keep, structure=structure, block=block)
    plan = _Plan(sparsity, begin, end, frequency, score, "uniform" if block else distribution, block, find, keep_zeros)
    return optax.GradientTransformationExtraArgs(partial(_init, plan), partial(_update, plan))


class _Plan(NamedTuple):
    """The checked arguments of `prune`."""

    sparsity: float
    begin: int
    end: int
    frequency: int
    score: str
    distribution: str
    block: tuple[int, int] | None
    find: Callable[[Any], dict[str, Layer]]
    keep_zeros: bool

    def progress(self, now: jax.Array) -> Any:
        """Returns the share of the final count that is pruned by an update, 0 … 1."""
        if self.end == self.begin:
            return 1.0
        return optax.polynomial_schedule(0.0, 1.0, 3, self.end - self.begin, self.begin)(now)


def _init(plan: _Plan, params: Any) -> PruneState:
    layers, weights = plan.find(params), flat(params)
    find_pools(layers, plan.sparsity, plan.distribution)
    names = [name for path, layer in layers.items() for name in (path, *layer.companions)]
    masks = {name: jnp.ones(weights[name].shape, bool) for name in names}
    for path, layer in layers.items() if plan.keep_zeros else ():
        alive = layer.alive(weights[path] != 0)
        masks |= {path: layer.mask(alive), **dict.fromkeys(layer.companions, alive)}
    return PruneState(jnp.zeros((), jnp.int32), masks)


def _update(
    plan: _Plan, updates: Any, state: PruneState, params: Any = None, *, gradients: Any = None, **_: Any
) -> tuple[Any, PruneState]:
    if params is None:
        raise ValueError("prune needs the parameters: tx.update(updates, state, params)")
    if gradients is None and plan.score == "gradient_weight":
        raise ValueError("the score gradient_weight needs tx.update(updates, state, params, gradients=gradients)")
    layers, steps, weights = plan.find(params), flat(updates), flat(params)
    slopes = flat(updates if gradients is None else gradients)
    now = state.seen
    since = now - plan.begin
    due = (since >= 0) & (now <= plan.end) & ((since % plan.frequency == 0) | (now == plan.end))

    def selected() -> Masks:
        scores = {p: SCORES[plan.score](weights[p] + steps[p], slopes[p]).astype(jnp.float32) for p in layers}
        if plan.block:
            kept = {p: best_of_blocks(scores[p], state.masks[p], *plan.block) & state.masks[p] for p in layers}
            return {**state.masks, **kept}
        pools = find_pools(layers, plan.sparsity, plan.distribution)
        return select(layers, pools, scores, state.masks, plan.progress(now))

    masks = jax.lax.cond(due, selected, lambda: state.masks)

    def masked(path: Any, step: jax.Array, weight: jax.Array) -> jax.Array:
        mask = masks.get(path_name(path))
        return step if mask is None else jnp.where(mask, step, -weight)

    updates = jax.tree_util.tree_map_with_path(masked, updates, params)
    return updates, PruneState(optax.safe_increment(now), masks)


def find_masks(opt_state: Any) -> Masks:
    """Returns the masks in an optimizer state; raises InputError if there are none."""
    states = [s for s in jax.tree.leaves(opt_state, is_leaf=_is_state) if _is_state(s)]
    if not states:
        raise errors.InputError("the optimizer state has no pruning masks: add ferjax.prune.prune to its chain")
    return states[0].masks


def prunes(opt_state: Any) -> bool:
    """Returns whether an optimizer state has pruning masks."""
    return any(map(_is_state, jax.tree.leaves(opt_state, is_leaf=_is_state)))


def _is_state(node: Any) -> bool:
    return isinstance(node, PruneState)

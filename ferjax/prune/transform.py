"""The optax transform that prunes.

What is pruned is put together from four parts: a score says which weights matter, a distribution how many each layer
loses, a schedule when, a structure what goes together. Masks live in the optimiser state and only ever lose weights.
"""

from collections.abc import Callable, Sequence
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
      seen: int32, updates so far.
      masks: by parameter path, True where a weight is alive; parameters that are not pruned have none.
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
    """Returns the transform that turns the update of a pruned weight w into -w, whatever momentum or decay say.

    Put it last in `optax.chain`. Sparsity rises from 0 at `begin` as s · (1 - (1 - t)³) to s at `end` (Zhu & Gupta
    2017, eq. 1); with `end` equal to `begin` it is reached at once.

    Args:
      sparsity: s, share of units that are pruned in the end, in [0, 1).
      begin: first update that prunes.
      end: update at which s is reached; `begin` if not given.
      frequency: updates from one look at the scores to the next.
      score: "magnitude", |w|, or "gradient_weight", |w · g|, for which `update` takes `gradients=…`. Filters
        are scored by the root of their mean square.
      distribution: "global" prunes the lowest scores wherever they are but leaves each layer its best unit; "uniform"
        prunes the same share of each layer; "erdos_renyi_kernel" prunes large layers more, the density of a layer
        being proportional to sum(shape) / prod(shape) (Evci et al. 2020, section 3).
      structure: what a unit is: "weight"; "filter", all weights of an output channel and its bias and normalisation,
        so that the channel is dead and `ferjax.prune.slim` can remove it; or "N:M": N of M consecutive weights along
        the inputs of an output channel stay, `sparsity` being 1 - N/M, in every layer and at once.
      rules: regular expressions over parameter paths: what is pruned; each must find one.
      keep: regular expressions over parameter paths: exceptions; each must find one.
      keep_zeros: whether what is zero when the state is initialised is pruned from the first update on, so that a
        network that was pruned before stays so; these units count towards `sparsity`.

    Returns:
      A transform whose update takes the parameters, and gradients if the score needs them.

    Raises:
      InputError: for a name that is unknown or a value outside its range; when initialised, for a rule that finds
        nothing, a layer that would be pruned away, or a kernel that N:M does not divide.
    """
    if score not in SCORES:
        raise errors.unknown("score", score, SCORES)
    if distribution not in DISTRIBUTIONS:
        raise errors.unknown("distribution", distribution, DISTRIBUTIONS)
    if not 0 <= sparsity < 1:
        raise errors.InputError(f"sparsity must be at least 0 and below 1, got {sparsity}")
    end = begin if end is None else end
    if not (0 <= begin <= end and frequency >= 1):
        raise errors.InputError(f"pruning needs 0 <= begin <= end and frequency >= 1, got {begin}, {end}, {frequency}")
    block = parse_block(structure, sparsity, one_shot=begin == end)
    # the share of the final count that is pruned by an update
    reached = (
        optax.polynomial_schedule(0.0, 1.0, 3, end - begin, begin) if end > begin else optax.constant_schedule(1.0)
    )

    def find(params: Any) -> dict[str, Layer]:
        return find_layers(params, rules, keep, structure=structure, block=block)

    def init(params: Any) -> PruneState:
        layers = find(params)
        find_pools(layers, sparsity, "uniform" if block else distribution)
        names = [name for path, layer in layers.items() for name in (path, *layer.companions)]
        weights = flat(params)
        masks = {name: jnp.ones(weights[name].shape, bool) for name in names}
        for path, layer in layers.items() if keep_zeros else ():
            alive = layer.alive(weights[path] != 0)
            masks |= {path: layer.mask(alive), **dict.fromkeys(layer.companions, alive)}
        return PruneState(jnp.zeros((), jnp.int32), masks)

    def update(updates: Any, state: PruneState, params: Any = None, *, gradients: Any = None, **_: Any) -> Any:
        if params is None:
            raise ValueError("prune needs the parameters: tx.update(updates, state, params)")
        if gradients is None and score == "gradient_weight":
            raise ValueError("the score gradient_weight needs tx.update(updates, state, params, gradients=gradients)")
        layers, steps, weights = find(params), flat(updates), flat(params)
        slopes = flat(updates if gradients is None else gradients)
        now = state.seen
        since = now - begin
        due = (since >= 0) & (now <= end) & ((since % frequency == 0) | (now == end))

        def look() -> Masks:
            scores = {p: SCORES[score](weights[p] + steps[p], slopes[p]).astype(jnp.float32) for p in layers}
            if block:
                kept = {p: best_of_blocks(scores[p], state.masks[p], *block) & state.masks[p] for p in layers}
                return {**state.masks, **kept}
            return select(layers, find_pools(layers, sparsity, distribution), scores, state.masks, reached(now))

        masks = jax.lax.cond(due, look, lambda: state.masks)

        def masked(path: Any, step: jax.Array, weight: jax.Array) -> jax.Array:
            mask = masks.get(path_name(path))
            return step if mask is None else jnp.where(mask, step, -weight)

        updates = jax.tree_util.tree_map_with_path(masked, updates, params)
        return updates, PruneState(optax.safe_increment(now), masks)

    return optax.GradientTransformationExtraArgs(init, update)


def find_masks(opt_state: Any) -> Masks:
    """Returns the masks in the state of a chain.

    Raises:
      InputError: if nothing in the chain prunes.
    """
    states = [s for s in jax.tree.leaves(opt_state, is_leaf=_is_state) if _is_state(s)]
    if not states:
        raise errors.InputError("this optimiser prunes nothing: its chain has no prune")
    return states[0].masks


def prunes(opt_state: Any) -> bool:
    """Returns whether anything in the chain of a state prunes."""
    return any(map(_is_state, jax.tree.leaves(opt_state, is_leaf=_is_state)))


def _is_state(node: Any) -> bool:
    return isinstance(node, PruneState)

"""Finds the kernels to prune and the number of units to prune in each."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ferjax import errors
from ferjax.trees import path_mask, path_name

DISTRIBUTIONS = ("global", "uniform", "erdos_renyi_kernel")
STRUCTURES = ("weight", "filter", "N:M, such as 2:4")
KERNELS = ("kernel$",)


class Layer(NamedTuple):
    """A pruned kernel.

    Attributes:
      shape: shape of the kernel.
      grouped: axes that a unit spans: all but the last for filters, none for weights.
      companions: paths of the bias and normalization vectors that are pruned with the filters.
    """

    shape: tuple[int, ...]
    grouped: tuple[int, ...]
    companions: tuple[str, ...]

    @property
    def units(self) -> int:
        """Number of units."""
        return self.shape[-1] if self.grouped else int(np.prod(self.shape))

    def score(self, scores: jax.Array) -> jax.Array:
        """Returns one score per unit, (units,)."""
        return jnp.sqrt(jnp.mean(scores**2, axis=self.grouped)) if self.grouped else scores.reshape(-1)

    def alive(self, mask: jax.Array) -> jax.Array:
        """Returns which units a mask keeps, (units,)."""
        return jnp.any(mask, axis=self.grouped).reshape(-1)

    def mask(self, alive: jax.Array) -> jax.Array:
        """Returns the mask, in the kernel's shape, that keeps the units `alive`."""
        return jnp.broadcast_to(alive, self.shape) if self.grouped else alive.reshape(self.shape)


class Pool(NamedTuple):
    """Layers whose units are ranked together, and the final number of pruned units."""

    names: tuple[str, ...]
    pruned: int


def find_layers(
    params: Any, rules: Sequence[str], keep: Sequence[str], *, structure: str, block: tuple[int, int] | None
) -> dict[str, Layer]:
    """Returns the kernels to prune by path.

    Args:
      params: a nested dict of arrays.
      rules: see `prune`.
      keep: see `prune`.
      structure: see `prune`.
      block: (N, M) of an N:M structure.

    Raises:
      InputError: for a rule that matches nothing, or a parameter that the structure does not fit.
    """
    layers, weights = {}, flat(params)
    for name in chosen(params, rules, keep):
        shape = weights[name].shape
        if structure != "weight" and len(shape) < 2:
            raise errors.InputError(
                f"structure {structure!r} needs kernels, {name} has shape {shape}: match kernels only in `rules`"
            )
        inputs = int(np.prod(shape[:-1]))
        if block and inputs % block[1]:
            raise errors.InputError(
                f"{name} has {inputs} weights per output, not a multiple of {block[1]}: add it to `keep`"
            )
        module, _, _ = name.rpartition("/")
        parent = module.rpartition("/")[0]
        around = (f"{module}/bias", f"{parent}/bn/scale".lstrip("/"), f"{parent}/bn/bias".lstrip("/"))
        filters = structure == "filter"
        companions = tuple(c for c in around if c in weights) if filters else ()
        layers[name] = Layer(shape, tuple(range(len(shape) - 1)) if filters else (), companions)
    if not layers:
        raise errors.InputError("`keep` excludes all parameters that `rules` matches: nothing to prune")
    return layers


def find_pools(layers: Mapping[str, Layer], sparsity: float, distribution: str) -> list[Pool]:
    """Returns the pools of layers that are ranked together; raises InputError if a layer would lose all its units."""
    if distribution == "global":
        total = sum(layer.units for layer in layers.values())
        pruned = round(sparsity * total)
        if pruned > total - len(layers):
            raise errors.InputError(f"sparsity {sparsity} is too high: each of {len(layers)} layers must keep one unit")
        return [Pool(tuple(layers), pruned)]
    shares = dict.fromkeys(layers, sparsity) if distribution == "uniform" else _erdos_renyi(layers, sparsity)
    pools = [Pool((name,), round(shares[name] * layer.units)) for name, layer in layers.items()]
    for (name,), pruned in pools:
        if pruned >= layers[name].units:
            raise errors.InputError(
                f"sparsity {sparsity} prunes all of {name} ({pruned} of {layers[name].units} units): "
                "lower it or add the layer to `keep`"
            )
    return pools


def parse_block(structure: str, sparsity: float, *, one_shot: bool) -> tuple[int, int] | None:
    """Returns (N, M) of an N:M structure, None for other structures."""
    if structure in STRUCTURES[:2]:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", structure)
    if not match or not 0 < int(match[1]) < int(match[2]):
        raise errors.unknown("structure", structure, STRUCTURES)
    kept, size = int(match[1]), int(match[2])
    if abs(sparsity - (1 - kept / size)) > 1e-6 or not one_shot:
        raise errors.InputError(
            f"structure {structure!r} prunes in one step to sparsity {1 - kept / size:g}: "
            f"set sparsity to {1 - kept / size:g} and leave out `end`"
        )
    return kept, size


def chosen(params: Any, rules: Sequence[str], keep: Sequence[str] = ()) -> list[str]:
    """Returns the paths of the parameters that match `rules` and not `keep`."""
    wanted, spared = flat(path_mask(rules, params)), flat(path_mask(keep, params))
    return [name for name in wanted if wanted[name] and not spared[name]]


def flat(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by path."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _erdos_renyi(layers: Mapping[str, Layer], sparsity: float) -> dict[str, float]:
    """Returns the sparsity per layer: densities min(1, ε · sum(shape) / prod(shape)), ε set by the total sparsity."""
    raw = {name: sum(layer.shape) / float(np.prod(layer.shape)) for name, layer in layers.items()}
    left = (1 - sparsity) * sum(layer.units for layer in layers.values())
    full: set[str] = set()
    while True:
        rest = [name for name in layers if name not in full]
        if not rest:
            return dict.fromkeys(layers, 0.0)
        room = left - sum(layers[name].units for name in full)
        epsilon = room / sum(raw[name] * layers[name].units for name in rest)
        over = [name for name in rest if epsilon * raw[name] > 1]
        if not over:
            return {name: 0.0 if name in full else 1 - epsilon * raw[name] for name in layers}
        full.update(over)

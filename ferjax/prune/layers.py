"""What is pruned: units of kernels, the layers that compete, and how much each loses."""

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
      shape: of the kernel.
      grouped: axes that a unit spans: all but the last for filters, none for weights.
      companions: vectors of the same module that go with its filters.
    """

    shape: tuple[int, ...]
    grouped: tuple[int, ...]
    companions: tuple[str, ...]

    @property
    def units(self) -> int:
        """How many units can be pruned."""
        return self.shape[-1] if self.grouped else int(np.prod(self.shape))

    def score(self, scores: jax.Array) -> jax.Array:
        """Returns one score per unit, (units,)."""
        return jnp.sqrt(jnp.mean(scores**2, axis=self.grouped)) if self.grouped else scores.reshape(-1)

    def alive(self, mask: jax.Array) -> jax.Array:
        """Returns which units a mask leaves, (units,)."""
        return jnp.any(mask, axis=self.grouped).reshape(-1)

    def mask(self, alive: jax.Array) -> jax.Array:
        """Returns the mask that leaves some units, in the kernel's shape."""
        return jnp.broadcast_to(alive, self.shape) if self.grouped else alive.reshape(self.shape)


class Pool(NamedTuple):
    """Layers whose units compete, and how many of them are pruned in the end."""

    names: tuple[str, ...]
    pruned: int


def find_layers(
    params: Any, rules: Sequence[str], keep: Sequence[str], *, structure: str, block: tuple[int, int] | None
) -> dict[str, Layer]:
    """Returns the kernels to prune by path.

    Args:
      params: a nested dict of arrays.
      rules: as for `prune`.
      keep: as for `prune`.
      structure: as for `prune`.
      block: (N, M) of an N:M structure.

    Raises:
      InputError: for a rule that finds nothing, or a parameter without the structure.
    """
    layers, weights = {}, flat(params)
    for name in chosen(params, rules, keep):
        shape = weights[name].shape
        if structure != "weight" and len(shape) < 2:
            raise errors.InputError(
                f"{name} of shape {shape} has no {structure} structure: let the rules find kernels only"
            )
        inputs = int(np.prod(shape[:-1]))
        if block and inputs % block[1]:
            raise errors.InputError(
                f"{name} has {inputs} weights per output, not a multiple of {block[1]}: put it in `keep`"
            )
        module, _, _ = name.rpartition("/")
        parent = module.rpartition("/")[0]
        around = (f"{module}/bias", f"{parent}/bn/scale".lstrip("/"), f"{parent}/bn/bias".lstrip("/"))
        filters = structure == "filter"
        companions = tuple(c for c in around if c in weights) if filters else ()
        layers[name] = Layer(shape, tuple(range(len(shape) - 1)) if filters else (), companions)
    if not layers:
        raise errors.InputError("the exceptions in `keep` leave nothing to prune")
    return layers


def find_pools(layers: Mapping[str, Layer], sparsity: float, distribution: str) -> list[Pool]:
    """Returns the layers that compete with each other, and how many of their units are pruned in the end.

    Raises:
      InputError: if nothing would be left of a layer.
    """
    if distribution == "global":
        total = sum(layer.units for layer in layers.values())
        pruned = round(sparsity * total)
        if pruned > total - len(layers):
            raise errors.InputError(f"sparsity {sparsity} leaves no unit to some of {len(layers)} layers: lower it")
        return [Pool(tuple(layers), pruned)]
    shares = dict.fromkeys(layers, sparsity) if distribution == "uniform" else _erdos_renyi(layers, sparsity)
    pools = [Pool((name,), round(shares[name] * layer.units)) for name, layer in layers.items()]
    for (name,), pruned in pools:
        if pruned >= layers[name].units:
            raise errors.InputError(
                f"sparsity {sparsity} prunes {name} away ({pruned} of {layers[name].units} units): "
                "lower it or put the layer in `keep`"
            )
    return pools


def parse_block(structure: str, sparsity: float, *, one_shot: bool) -> tuple[int, int] | None:
    """Returns (N, M) of an N:M structure, None for the others."""
    if structure in STRUCTURES[:2]:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", structure)
    if not match or not 0 < int(match[1]) < int(match[2]):
        raise errors.unknown("structure", structure, STRUCTURES)
    kept, size = int(match[1]), int(match[2])
    if abs(sparsity - (1 - kept / size)) > 1e-6 or not one_shot:
        raise errors.InputError(
            f"structure {structure!r} is reached at once and means sparsity {1 - kept / size:g}: "
            "set that sparsity and leave out `end`"
        )
    return kept, size


def chosen(params: Any, rules: Sequence[str], keep: Sequence[str] = ()) -> list[str]:
    """Returns the paths of the parameters that the rules find, less the exceptions."""
    wanted, spared = flat(path_mask(rules, params)), flat(path_mask(keep, params))
    return [name for name in wanted if wanted[name] and not spared[name]]


def flat(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by path."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _erdos_renyi(layers: Mapping[str, Layer], sparsity: float) -> dict[str, float]:
    """Densities ε · sum(shape) / prod(shape), at most 1, with ε such that the whole has the sparsity asked for."""
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

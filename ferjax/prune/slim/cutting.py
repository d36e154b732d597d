"""Removes channels from the variables and the arguments of a network."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ferjax import errors, models
from ferjax.prune.slim.rules import Group, Rules, find_rules

Keep = Mapping[str, np.ndarray]


def cut(
    name: str,
    arguments: Mapping[str, Any],
    variables: Mapping[str, Any],
    keep: Keep,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int = 7,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the arguments and variables of the network without the other channels.

    The logits do not change if the removed channels are zero for every image.

    Args:
      name: name of the network.
      arguments: keyword arguments of `ferjax.models.create`.
      variables: {"params": …, "batch_stats": …}; other collections are kept.
      keep: ascending indices of the channels to keep, by name of the group; other groups keep their width.
      image_shape: (height, width, channels).
      num_classes: number of logits.

    Returns:
      (arguments, variables) of the new network; the arguments include every width.

    Raises:
      InputError: for a network without rules, an unknown group, or variables of another network.
    """
    rules = find_rules(name, arguments)
    flat = _flatten(variables)
    for group in _selected(rules.groups, keep):

        def take(x: np.ndarray, axis: int, stay: np.ndarray = keep[group.name]) -> np.ndarray:
            return np.take(x, stay, axis=axis)

        flat = _change(flat, group, take)
    changed = resized(rules, arguments, {group: len(stay) for group, stay in keep.items()})
    module = models.create(name, num_classes=num_classes, **changed)
    _check(name, module, image_shape, flat)
    return changed, {**variables, **traverse_util.unflatten_dict(flat)}


def resized(rules: Rules, arguments: Mapping[str, Any], widths: Mapping[str, int]) -> dict[str, Any]:
    """Returns the arguments of the network with new widths, given by name of the group."""
    stated = copy.deepcopy(rules.arguments)
    for group in rules.groups:
        for place in group.places if group.name in widths else ():
            target: Any = stated
            for key in place[:-1]:
                target = target[key]
            target[place[-1]] = int(widths[group.name])
    return {**arguments, **{k: v for k, v in stated.items() if v or k in arguments}}


def members(flat: Mapping[tuple[str, ...], Any], module: str) -> list[tuple[str, ...]]:
    """Returns the paths of the arrays of a module in all collections."""
    prefix = tuple(module.split("/"))
    return [path for path in flat if path[1 : 1 + len(prefix)] == prefix]


def _change(flat: dict[tuple[str, ...], Any], group: Group, act: Callable[[Any, int], Any]) -> dict:
    """Applies act(array, axis) to every array with an axis of the group's channels."""
    result = dict(flat)
    for module in (*group.makers, *group.carriers):
        for path in members(flat, module):
            result[path] = act(result[path], -1)
    for module in group.readers:
        for path in members(flat, module):
            if flat[path].ndim > 1:
                result[path] = act(result[path], -2)
    return result


def _selected(groups: Sequence[Group], keep: Keep) -> list[Group]:
    names = [group.name for group in groups]
    for name in keep:
        if name not in names:
            raise errors.unknown("group of channels", name, names)
    return [group for group in groups if group.name in keep]


def _check(name: str, module: Any, image_shape: tuple[int, int, int], flat: Mapping[tuple[str, ...], Any]) -> None:
    """Raises InputError if the variables are not the network's."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)
    wanted = {path: x.shape for path, x in traverse_util.flatten_dict(dict(shapes)).items()}
    for path in sorted(wanted.keys() | flat.keys()):
        here = flat[path].shape if path in flat else None
        if here != wanted.get(path):
            raise errors.InputError(
                f"{'/'.join(path)} has shape {here}, the slimmed {name} needs {wanted.get(path)}: "
                "the variables do not belong to this network with these arguments"
            )


def _flatten(variables: Mapping[str, Any]) -> dict[tuple[str, ...], np.ndarray]:
    """Returns the parameters and statistics by path; the first part is the collection.

    As numpy arrays: JAX would compile a program for each shape.
    """
    held = {k: v for k, v in variables.items() if k in ("params", "batch_stats")}
    return {path: np.asarray(x) for path, x in traverse_util.flatten_dict(held).items()}

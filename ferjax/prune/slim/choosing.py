"""Selects the channels to keep: those that are not dead, or the best that a budget allows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from ferjax import errors, models
from ferjax.models.costs import cost
from ferjax.prune.slim.cutting import members, resized
from ferjax.prune.slim.rules import Group, find_rules

CostFn = Callable[[Any], float]


def parameters(image_shape: tuple[int, int, int]) -> CostFn:
    """Returns the function that counts the parameters of a module, for `choose`."""
    return lambda module: cost(module, image_shape).parameters


def macs(image_shape: tuple[int, int, int]) -> CostFn:
    """Returns the function that counts the multiply-accumulate operations of a module per image, for `choose`."""
    return lambda module: cost(models.for_export(module), image_shape).macs


def keep_alive(groups: Sequence[Group], variables: Mapping[str, Any], *, multiple: int = 8) -> dict[str, np.ndarray]:
    """Returns the channels that are not dead, and enough dead ones to make each width a multiple.

    A channel is dead if its normalization has scale and shift zero or, without normalization, if kernel and bias are
    zero, as after `ferjax.prune` with structure "filter".

    Args:
      groups: from `find_groups`.
      variables: {"params": …, "batch_stats": …}.
      multiple: new widths are multiples of it, or of twice this number in groups of at least four times as many
        channels.

    Returns:
      Ascending indices for each group that can shrink.
    """
    flat = _flat(variables)
    keep = {}
    for group in groups:
        alive = np.any([_alive(flat, maker) for maker in group.makers], axis=0)
        width = _width(int(alive.sum()), alive.size, group, multiple, np.ceil)
        if width < alive.size:
            keep[group.name] = np.sort(np.argsort(~alive, kind="stable")[:width])
    return keep


def channel_scores(
    groups: Sequence[Group], variables: Mapping[str, Any], gradients: Any = None
) -> dict[str, np.ndarray]:
    """Returns the importance of each channel, non-negative and comparable between groups.

    Without gradients: the root mean square of the channel's filters with their normalizations folded in, relative to
    the group's mean. With gradients: |Σ w · g| over the weights of its filters and normalizations, the first-order
    change of the loss when the channel is removed (Molchanov et al. 2019, eq. 8).

    Args:
      groups: from `find_groups`.
      variables: {"params": …, "batch_stats": …}.
      gradients: gradient of the loss with respect to the parameters, summed over many images.

    Returns:
      float64 (channels,) for each group, by name.
    """
    flat, slopes = _flat(variables), _flat({"params": gradients} if gradients is not None else {})
    scores = {}
    for group in groups:
        if gradients is not None:
            scores[group.name] = np.abs(np.sum([_first_order(flat, slopes, maker) for maker in group.makers], axis=0))
        else:
            size = np.sqrt(np.mean([_strength(flat, maker) ** 2 for maker in group.makers], axis=0))
            scores[group.name] = size / max(size.mean(), np.finfo(float).tiny)
    return scores


def choose(
    name: str,
    arguments: Mapping[str, Any],
    scores: Mapping[str, np.ndarray],
    *,
    cost_of: CostFn,
    target: float,
    multiple: int = 8,
    num_classes: int = 7,
) -> dict[str, np.ndarray]:
    """Returns the channels to keep so that the cost of the network is at most a target.

    One threshold on the scores applies to all groups.

    Args:
      name: name of the network.
      arguments: keyword arguments of `ferjax.models.create`.
      scores: from `channel_scores`; groups without scores keep their width.
      cost_of: module -> cost: `parameters(…)`, `macs(…)`, or a measurement such as a latency.
      target: largest cost allowed, in units of `cost_of`.
      multiple: see `keep_alive`.
      num_classes: number of logits.

    Returns:
      Ascending indices for each group that shrinks.

    Raises:
      InputError: for a network without rules, or a target that cannot be met.
    """
    rules = find_rules(name, arguments)
    groups = [group for group in rules.groups if group.name in scores]
    thresholds = np.unique(np.concatenate([scores[group.name] for group in groups]))

    def keep(step: int) -> dict[str, np.ndarray]:
        kept = {}
        for group in groups:
            score = scores[group.name]
            above = int((score > thresholds[step - 1]).sum()) if step else score.size
            width = _width(above, score.size, group, multiple, np.round)
            if width < score.size:
                kept[group.name] = np.sort(np.argsort(-score, kind="stable")[:width])
        return kept

    def price(step: int) -> float:
        changed = resized(rules, arguments, {group: len(stay) for group, stay in keep(step).items()})
        return cost_of(models.create(name, num_classes=num_classes, **changed))

    low, high = 0, len(thresholds)
    if (smallest := price(high)) > target:
        raise errors.InputError(f"{name} cannot be slimmed to {target:g}: its minimum is {smallest:g}")
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if price(middle) <= target else (middle + 1, high)
    return keep(high)


def _width(count: int, full: int, group: Group, multiple: int, rounding: Callable[[Any], Any]) -> int:
    """Rounds a width; wide groups to twice the multiple, because 16-lane processors compute 24 channels as 32."""
    multiple *= 2 if full >= 4 * multiple else 1
    rounded = int(rounding(count / multiple)) * multiple
    return min(full, max(rounded, group.least))


def _alive(flat: Mapping[tuple[str, ...], np.ndarray], module: str) -> np.ndarray:
    paths = [p for p in members(flat, module) if p[0] == "params"]
    norm = [p for p in paths if p[-2] == "bn"]
    return np.any([_columns(flat[p]).any(axis=0) for p in norm or paths], axis=0)


def _strength(flat: Mapping[tuple[str, ...], np.ndarray], module: str) -> np.ndarray:
    """Returns the root mean square of each filter with its normalization folded in."""
    paths = {p[-2:] if len(p) > 2 else p: p for p in members(flat, module)}
    kernel = next(flat[p] for p in paths.values() if p[-1] == "kernel")
    strength = np.sqrt(np.mean(_columns(kernel).astype(np.float64) ** 2, axis=0))
    if ("bn", "scale") not in paths:
        return strength
    return strength * np.abs(flat[paths["bn", "scale"]]) / np.sqrt(flat[paths["bn", "var"]] + 1e-5)


def _first_order(
    flat: Mapping[tuple[str, ...], np.ndarray], slopes: Mapping[tuple[str, ...], np.ndarray], module: str
) -> np.ndarray:
    paths = [p for p in members(flat, module) if p[0] == "params"]
    return np.sum([_columns(flat[p].astype(np.float64) * slopes[p]).sum(axis=0) for p in paths], axis=0)


def _columns(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, x.shape[-1])


def _flat(variables: Mapping[str, Any]) -> dict[tuple[str, ...], np.ndarray]:
    return {path: np.asarray(x) for path, x in traverse_util.flatten_dict(dict(variables)).items()}

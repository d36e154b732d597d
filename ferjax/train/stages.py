"""Stages of training: which parameters a stage trains, what of the optimizer and of the statistics rests meanwhile."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from ferjax import errors
from ferjax.trees import path_mask, path_name


class Stage(NamedTuple):
    """Some epochs in which a part of the network is trained and the rest is frozen.

    Attributes:
      number: of the stage, from 0.
      first_epoch: epochs before it.
      trainable: regular expressions over parameter paths; what none of them finds is frozen.
      learning_rate: factor on the schedule.
    """

    number: int = 0
    first_epoch: int = 0
    trainable: tuple[str, ...] = (".*",)
    learning_rate: float = 1.0


WHOLE = Stage()  # everything is trained


def create_stages(entries: Sequence[Sequence[Any]], *, epochs: float) -> tuple[Stage, ...]:
    """Returns the stages of a configuration, see `ferjax.train.optim.create`.

    Args:
      entries: (epochs, rules) or (epochs, rules, factor on the learning rate) each; the last may say None epochs.
      epochs: of the whole run.

    Raises:
      InputError: for an entry of another form, or epochs that do not add up to the run's.
    """
    plan: list[Stage] = []
    done: float = 0
    for number, entry in enumerate(entries):
        if not _is_entry(entry):
            raise errors.InputError(
                f"optim.stages[{number}] must be (epochs, rules) or (epochs, rules, factor), such as (5, ('^head/',)), "
                f"got {entry!r}"
            )
        length, rules, factor = (*entry, 1.0)[:3]
        rest = length is None and number + 1 == len(entries)
        length = epochs - done if rest else length
        whole = rest or (_is_number(length) and length % 1 == 0)
        if not whole or length < 1 or not (_is_number(factor) and 0 < factor < math.inf):
            raise errors.InputError(
                f"optim.stages[{number}] needs 1 epoch or more, a whole number, of the run's {epochs}, and a factor "
                f"greater than 0; got {tuple(entry)} after {done} epochs; None is for the last stage"
            )
        plan.append(Stage(number, int(done), tuple(rules), float(factor)))
        done += length
    if done != epochs:
        raise errors.InputError(
            f"optim.stages take {done} of the run's {epochs} epochs: let the last say None for the rest"
        )
    return tuple(plan)


def stage_of(epoch: int, stages: Sequence[Stage]) -> Stage:
    """Returns the stage of an epoch, counted from 0."""
    return max((s for s in stages if s.first_epoch <= epoch), key=lambda s: s.first_epoch)


def _is_entry(entry: Any) -> bool:
    """Whether it has the form (epochs, rules) or (epochs, rules, factor)."""
    if not isinstance(entry, list | tuple) or len(entry) not in (2, 3):
        return False
    rules = entry[1]
    return isinstance(rules, list | tuple) and bool(rules) and all(isinstance(rule, str) for rule in rules)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def trained(stage: Stage, params: Any, collections: Any) -> tuple[Any, Any]:
    """Marks what changes in a stage: parameters by its rules, and the statistics of the modules that own them.

    A statistic, such as a running mean, changes if a trained parameter lies in its module; if that module has no
    parameter at all, in the nearest one around it that has.

    Args:
      stage: the rules.
      params: a nested dict of arrays.
      collections: nested dicts of arrays at the same modules, such as {"batch_stats": …}.

    Returns:
      (mask of params, mask of collections): True where a leaf may change.

    Raises:
      InputError: for a rule that finds no parameter.
    """
    mask = path_mask(stage.trainable, params)
    marks = {path_name(path): mark for path, mark in jax.tree_util.tree_leaves_with_path(mask)}

    def changes(path: Sequence[Any], _: Any) -> bool:
        module = list(path[1:-1])  # without the collection's name and the statistic's own
        while True:
            prefix = f"{path_name(module)}/" if module else ""
            inside = [mark for name, mark in marks.items() if name.startswith(prefix)]
            if inside or not module:
                return any(inside)
            module.pop()

    return mask, jax.tree_util.tree_map_with_path(changes, collections)


def select(mask: Any, chosen: Any, other: Any) -> Any:
    """Returns the leaves of `chosen` where the mask is True, of `other` where it is False."""
    return jax.tree.map(lambda mark, a, b: a if mark else b, mask, chosen, other)


def frozen_modules(mask: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the collection "frozen" that tells a network which of its statistics rest.

    A normalization that finds its own there uses its running statistics, in training as in evaluation.

    Args:
      mask: of the collections, from `trained`.

    Returns:
      The resting statistics' places in one nested dict, without the collections' names; empty if none rests.
    """
    flat: dict[tuple[str, ...], Any] = {}
    for collection in mask.values():
        flat |= {path: True for path, mark in traverse_util.flatten_dict(collection).items() if not mark}
    return traverse_util.unflatten_dict(flat)


def staged(core: optax.GradientTransformation, stages: Sequence[Stage]) -> optax.GradientTransformationExtraArgs:
    """Gives parameters that are trained in other stages a state of their own, which rests while they are frozen."""

    def group(params: Any) -> Any:
        """Labels each parameter with the stages that train it, one letter each: "01" is the second of two."""
        masks = [path_mask(stage.trainable, params) for stage in stages]
        return jax.tree.map(lambda *marks: "".join("01"[mark] for mark in marks), *masks)

    def partition(params: Any, number: int) -> optax.GradientTransformationExtraArgs:
        labels = group(params)
        rest = optax.GradientTransformation(core.init, lambda u, state, params=None: (optax.tree.zeros_like(u), state))
        kinds = {
            label: optax.set_to_zero() if "1" not in label else core if label[number] == "1" else rest
            for label in sorted(set(jax.tree.leaves(labels)))
        }
        return optax.partition(kinds, labels)

    def init(params: Any) -> Any:
        return partition(params, 0).init(params)

    def update(updates: Any, state: Any, params: Any = None, *, stage: Stage, **extra: Any) -> Any:
        return partition(params, stage.number).update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init, update)


def only_trained() -> optax.GradientTransformationExtraArgs:
    """Scales by the stage's factor what it trains, and zeroes the rest: decoupled weight decay reaches everything."""

    def update(updates: Any, state: Any, params: Any = None, *, stage: Stage, **_: Any) -> Any:
        mask = path_mask(stage.trainable, updates)
        return jax.tree.map(lambda m, u: stage.learning_rate * u if m else jnp.zeros_like(u), mask, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)

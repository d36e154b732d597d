"""Implements training stages: trainable and frozen parameters, with their statistics and optimizer states."""

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
    """A number of epochs in which part of the network is trained and the rest is frozen.

    Attributes:
      number: index, from 0.
      first_epoch: first epoch, from 0.
      trainable: regular expressions over parameter paths; parameters without a match are frozen.
      learning_rate: factor on the schedule.
    """

    number: int = 0
    first_epoch: int = 0
    trainable: tuple[str, ...] = (".*",)
    learning_rate: float = 1.0


WHOLE = Stage()  # everything is trained


def create_stages(entries: Sequence[Sequence[Any]], *, epochs: float) -> tuple[Stage, ...]:
    """Returns the stages of a configuration; the schedule covers all of them.

    Args:
      entries: (epochs, rules) or (epochs, rules, learning-rate factor) each, such as
        `((5, ("^head/",)), (None, (".*",)))` to freeze the backbone for five epochs. Rules are regular expressions over
        parameter paths. None in the last stage means the remaining epochs. A parameter's moments and their count start
        when it is first trained, as in torch.
      epochs: epochs of the run.

    Raises:
      InputError: for an entry of another form, or epochs that do not add up to those of the run.
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
                f"optim.stages[{number}] must have a whole number of epochs, 1 or more (None only in the last stage), "
                f"within the run's {epochs}, and a factor above 0; got {tuple(entry)} after {done} epochs"
            )
        plan.append(Stage(number, int(done), tuple(rules), float(factor)))
        done += length
    if done != epochs:
        raise errors.InputError(
            f"optim.stages cover {done} of the run's {epochs} epochs: set the last stage's epochs to None"
        )
    return tuple(plan)


def stage_of(epoch: int, stages: Sequence[Stage]) -> Stage:
    """Returns the stage of an epoch, counted from 0."""
    return max((s for s in stages if s.first_epoch <= epoch), key=lambda s: s.first_epoch)


def _is_entry(entry: Any) -> bool:
    """Returns whether an entry has the form (epochs, rules) or (epochs, rules, factor)."""
    if not isinstance(entry, list | tuple) or len(entry) not in (2, 3):
        return False
    rules = entry[1]
    return isinstance(rules, list | tuple) and bool(rules) and all(isinstance(rule, str) for rule in rules)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def trained(stage: Stage, params: Any, collections: Any) -> tuple[Any, Any]:
    """Returns masks of the parameters and statistics that a stage trains: (of params, of collections).

    A statistic, such as a running mean, is trained if its module has a trained parameter. If its module has no
    parameter, the nearest enclosing module with parameters decides. Raises InputError for a rule without a match.
    """
    mask = path_mask(stage.trainable, params)
    marks = {path_name(path): mark for path, mark in jax.tree_util.tree_leaves_with_path(mask)}

    def changes(path: Sequence[Any], _: Any) -> bool:
        module = list(path[1:-1])  # without the names of the collection and of the statistic
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
    """Returns the collection "frozen", one nested dict that marks the frozen statistics; empty if nothing is frozen.

    A normalization with marked statistics uses its running statistics in training, too. `mask` is that of the
    collections, from `trained`.
    """
    flat: dict[tuple[str, ...], Any] = {}
    for collection in mask.values():
        flat |= {path: True for path, mark in traverse_util.flatten_dict(collection).items() if not mark}
    return traverse_util.unflatten_dict(flat)


def staged(core: optax.GradientTransformation, stages: Sequence[Stage]) -> optax.GradientTransformationExtraArgs:
    """Keeps one optimizer state per group of parameters with equal stages; it is unchanged while they are frozen."""

    def group(params: Any) -> Any:
        """Labels each parameter with one digit per stage: "01" is trained in the second of two."""
        masks = [path_mask(stage.trainable, params) for stage in stages]
        return jax.tree.map(lambda *marks: "".join("01"[mark] for mark in marks), *masks)

    def partition(params: Any, number: int) -> optax.GradientTransformationExtraArgs:
        labels = group(params)
        frozen = optax.GradientTransformation(
            core.init, lambda u, state, params=None: (optax.tree.zeros_like(u), state)
        )
        kinds = {
            label: optax.set_to_zero() if "1" not in label else core if label[number] == "1" else frozen
            for label in sorted(set(jax.tree.leaves(labels)))
        }
        return optax.partition(kinds, labels)

    def init(params: Any) -> Any:
        return partition(params, 0).init(params)

    def update(updates: Any, state: Any, params: Any = None, *, stage: Stage, **extra: Any) -> Any:
        return partition(params, stage.number).update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init, update)


def only_trained() -> optax.GradientTransformationExtraArgs:
    """Scales trained updates by the stage's factor and zeroes the others, which decoupled weight decay changes."""

    def update(updates: Any, state: Any, params: Any = None, *, stage: Stage, **_: Any) -> Any:
        mask = path_mask(stage.trainable, updates)
        return jax.tree.map(lambda m, u: stage.learning_rate * u if m else jnp.zeros_like(u), mask, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)

"""Checks the arguments of a network against the fields of its module."""

import dataclasses
import numbers
import types
import typing
from typing import Any

from ferjax.errors import InputError


def check(name: str, field: dataclasses.Field[Any], value: Any, *, default: Any) -> None:
    """Raises InputError if a value does not have the type or range of a field.

    Integers must be 1 or more, or 0 or more where the field's default is 0. Dropout rates must be in [0, 1).

    Args:
      name: name of the network, for the message.
      field: field annotated with int, float, bool, str, tuples of them, or Any.
      value: the value, with tuples in place of lists.
      default: the network's default, given in the message as an example.
    """
    least = 0 if field.default == 0 else 1
    if not _fits(value, field.type, least):
        example = f" such as {default}" if isinstance(default, tuple) and default else ""
        raise InputError(f"{field.name} of {name} must be {_words(field.type, least)}{example}, got {value!r}")
    rates = value if isinstance(value, tuple) else (value,)
    if field.name.endswith("dropout") and not all(0 <= rate < 1 for rate in rates):
        raise InputError(f"{field.name} of {name} must be in [0, 1), got {value!r}")


def is_whole(value: Any, least: int = 1) -> bool:
    """Returns whether a value is an integer of at least `least`."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= least


def _fits(value: Any, kind: Any, least: int) -> bool:
    if kind is Any:
        return True
    if kind is int:
        return is_whole(value, least)
    if kind is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not isinstance(kind, types.GenericAlias):
        return isinstance(value, kind)
    items = typing.get_args(kind)
    right = isinstance(value, tuple) and (items[-1] is ... or len(value) == len(items))
    return right and all(_fits(item, items[0], least) for item in value)


def _words(kind: Any, least: int) -> str:
    whole = f"of {least} or more"
    one = {int: f"a whole number {whole}", float: "a number", bool: "True or False", str: "a string"}
    if kind in one:
        return one[kind]
    item, *rest = typing.get_args(kind)
    if item is Any:
        return "a tuple"
    several = {int: f"whole numbers {whole}", float: "numbers"}
    if item not in several:
        return f"tuples of {_words(item, least)}"
    return several[item] if rest == [...] else f"{1 + len(rest)} {several[item]}"

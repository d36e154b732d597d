"""Names of the leaves of a tree, and rules over them."""

import re
from collections.abc import Sequence
from typing import Any

import jax

from ferjax import errors


def path_mask(patterns: Sequence[str], params: Any) -> Any:
    """Marks the leaves whose path one of the regular expressions finds.

    Args:
      patterns: regular expressions, tried with `re.search` on paths such as "stem/conv/kernel".
      params: a nested dict of arrays.

    Returns:
      The same structure with True or False leaves.

    Raises:
      InputError: for a pattern that is no regular expression or finds nothing.
    """
    try:
        compiled = [re.compile(p) for p in patterns]
    except re.error as error:
        raise errors.InputError(f"{error.pattern!r} is not a regular expression: {error}") from error
    names = jax.tree_util.tree_map_with_path(lambda path, _: path_name(path), params)
    every = jax.tree.leaves(names)
    for pattern in compiled:
        if not any(pattern.search(n) for n in every):
            raise errors.InputError(f"the rule {pattern.pattern!r} matches no parameter; there are: {', '.join(every)}")
    return jax.tree.map(lambda n: any(p.search(n) for p in compiled), names)


def path_name(path: Sequence[Any], separator: str = "/") -> str:
    """Returns the path of a leaf, as `jax.tree_util` gives it, as one string."""
    return separator.join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)

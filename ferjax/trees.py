"""Names the leaves of a pytree and selects them by regular expression."""

import re
from collections.abc import Sequence
from typing import Any

import jax

from ferjax import errors


def path_mask(patterns: Sequence[str], params: Any) -> Any:
    """Marks the leaves whose path matches any of the regular expressions.

    Args:
      patterns: regular expressions for `re.search` on paths such as "stem/conv/kernel".
      params: nested dict of arrays.

    Returns:
      The same structure with bool leaves.

    Raises:
      InputError: if a pattern is not a regular expression or matches no leaf.
    """
    try:
        compiled = [re.compile(p) for p in patterns]
    except re.error as error:
        raise errors.InputError(f"{error.pattern!r} is not a valid regular expression: {error}") from error
    names = jax.tree_util.tree_map_with_path(lambda path, _: path_name(path), params)
    every = jax.tree.leaves(names)
    for pattern in compiled:
        if not any(pattern.search(n) for n in every):
            raise errors.InputError(
                f"the rule {pattern.pattern!r} matches no parameter; parameters: {', '.join(every)}"
            )
    return jax.tree.map(lambda n: any(p.search(n) for p in compiled), names)


def path_name(path: Sequence[Any], separator: str = "/") -> str:
    """Converts the path of a leaf, as from `jax.tree_util`, to a string."""
    return separator.join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)

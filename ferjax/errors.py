"""The errors that a user can mend: InputError, and how it reads on one line.

Standard library only, so that the edge runtime can use it too.
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave is wrong: the message says what, what is accepted, and what to do."""


def unknown(kind: str, name: object, accepted: Iterable[str]) -> InputError:
    """Returns the error for a name that is not in a set, with the nearest accepted names.

    Args:
      kind: what the name stands for, such as "model" or "split".
      name: the offending value.
      accepted: every accepted name, in the order in which to list them.

    Returns:
      An InputError, to be raised by the caller.
    """
    accepted = list(accepted)
    close = difflib.get_close_matches(str(name), accepted, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
    return InputError(f"unknown {kind} {name!r}.{hint} Accepted: {', '.join(accepted)}.")


def explain(error: InputError | OSError) -> str:
    """Returns what is wrong, in one line."""
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"

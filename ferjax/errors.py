"""Defines InputError, the error that a user can fix, and formats it on one line.

Standard library only, so that the edge runtime can use it too.
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Invalid user input. The message names the value, the accepted values and the next step."""


def unknown(kind: str, name: object, accepted: Iterable[str]) -> InputError:
    """Returns the InputError for an unknown name, with similar accepted names.

    Args:
      kind: kind of name, such as "model" or "split".
      name: the offending value.
      accepted: all accepted names, in the order of the message.
    """
    accepted = list(accepted)
    close = difflib.get_close_matches(str(name), accepted, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
    return InputError(f"unknown {kind} {name!r}.{hint} Accepted: {', '.join(accepted)}.")


def explain(error: InputError | OSError) -> str:
    """Returns the error message on one line."""
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    if isinstance(error, FileNotFoundError) and not error.filename:  # as os.getcwd
        return "the working directory no longer exists: change to another folder"
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"

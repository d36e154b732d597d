"""How every ferjax command fails: one clear line on standard error and exit code 2.

Standard library only, so that the edge runtime can use it too.
"""

import atexit
import contextlib
import os
import sys
from collections.abc import Callable

from ferjax.errors import InputError, explain

RESUMES = "interrupted; the same command continues"


def note(message: str) -> None:
    """Prints one line about progress or a repair on standard error."""
    if sys.stderr is not None:  # closed: print would take standard output
        with contextlib.suppress(OSError):  # a terminal that is gone
            print(f"ferjax: {message}", file=sys.stderr, flush=True)


def run(main: Callable[[], object], *, interrupted: str = "interrupted") -> None:
    """Runs a command and exits: 0 when it returns, 2 with one line on bad input or a failing disk.

    `interrupted` is said after Ctrl-C, with exit code 130: RESUMES for a command that goes on where it was.

    Only InputError and OSError are the user's to mend; anything else is a defect of ours and keeps
    its traceback.
    """
    try:
        main()
        if sys.stdout is not None:  # closed
            sys.stdout.flush()
    except InputError as error:
        sys.exit(_fail(explain(error)))
    except BrokenPipeError:
        # The reader of our output went away, as `head` does: nothing is left to say, now or when Python flushes.
        abandon_output()
        sys.exit(1)
    except OSError as error:
        sys.exit(_fail(explain(error)))
    except KeyboardInterrupt:
        note(interrupted)
        if "jax" in sys.modules:  # taken down with the interpreter while it compiles, it ends in a segmentation fault
            atexit.register(_leave, 130)
        sys.exit(130)


def _leave(code: int) -> None:
    """Ends the process without the rest of its shutdown."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed
            stream.flush()
    os._exit(code)


def abandon_output() -> None:
    """Lets what standard output still holds, and gets from now on, go nowhere: it takes no more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> int:
    note(f"error: {message}")
    return 2

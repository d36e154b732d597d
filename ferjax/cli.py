"""What all commands share: the flags, the progress bar, and failure in one line on standard error with exit code 2.

Standard library only, so that the edge runtime can use it too.
"""

import argparse
import atexit
import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ferjax.errors import InputError, explain

RESUMES = "interrupted; the same command continues"
T = TypeVar("T")


def parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Returns the parser of `ferjax COMMAND`; the description keeps its lines."""
    return argparse.ArgumentParser(
        prog=f"ferjax {command}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_model(given: argparse.ArgumentParser, *, several: bool = False, files: bool = True) -> None:
    """Adds --model: a workdir, a .safetensors or, with `files`, an exported file."""
    accepted = "a run's workdir or a .safetensors" + (", .tflite or .onnx file" if files else " file")
    if several:
        given.add_argument("--model", required=True, nargs="+", metavar="MODEL", help=f"each {accepted}")
    else:
        given.add_argument("--model", required=True, metavar="MODEL", help=accepted)


def add_data(given: argparse.ArgumentParser) -> None:
    """Adds --data and --data-dir."""
    given.add_argument("--data", metavar="NAME", help="a prepared data set (default: the one of the training)")
    add_data_dir(given)


def add_data_dir(given: argparse.ArgumentParser) -> None:
    """Adds --data-dir."""
    given.add_argument(
        "--data-dir", metavar="DIR", type=pathlib.Path, help="prepared data (default: $FERJAX_DATA or ~/.cache/ferjax)"
    )


def add_split(given: argparse.ArgumentParser) -> None:
    """Adds --split."""
    given.add_argument(
        "--split", default="validation", help="train, validation, test or test_all (default: validation)"
    )


def add_out(given: argparse.ArgumentParser, what: str, *, required: bool = True) -> None:
    """Adds --out.

    Args:
      given: the parser.
      what: is written there, such as "folder for the files and export.json".
      required: whether the command writes nothing without it.
    """
    given.add_argument("--out", metavar="PATH", type=pathlib.Path, required=required, help=what)


def add_overwrite(given: argparse.ArgumentParser) -> None:
    """Adds --overwrite."""
    given.add_argument("--overwrite", action="store_true", help="replace what an earlier command wrote to --out")


def progress(items: Iterable[T], *, what: str, total: int | None = None) -> Iterator[T]:
    """Yields the items behind a bar with the time left, once two seconds have passed, if standard error is a terminal.

    Args:
      items: what is worked on.
      what: one word for the bar, such as "leaks".
      total: how many there are, if `items` has no length.
    """
    try:
        from tqdm import tqdm
    except ImportError:  # the edge install
        yield from items
        return
    yield from tqdm(items, desc=what, total=total, disable=None, leave=False, delay=2)


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

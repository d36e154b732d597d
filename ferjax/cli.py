"""Provides what all commands share: common flags, progress bar, one-line errors with exit code 2.

Standard library only, so that the edge runtime can use it too.
"""

import argparse
import atexit
import contextlib
import io
import logging
import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ferjax.errors import InputError, explain

PROVIDERS = "execution provider of ONNX Runtime for .onnx files, such as cuda, tensorrt or openvino"
RESUMES = "interrupted; the same command continues"
T = TypeVar("T")


def parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Returns the parser of `ferjax COMMAND`; line breaks in the description are kept."""
    return argparse.ArgumentParser(
        prog=f"ferjax {command}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_model(parser: argparse.ArgumentParser, *, several: bool = False, files: bool = True) -> None:
    """Adds --model: a workdir, a .safetensors file or, with `files`, an exported file."""
    accepted = "workdir or .safetensors" + (", .tflite or .onnx file" if files else " file")
    if several:
        parser.add_argument("--model", required=True, nargs="+", metavar="MODEL", help=f"{accepted}; one or more")
    else:
        parser.add_argument("--model", required=True, metavar="MODEL", help=accepted)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Adds --data and --data-dir."""
    parser.add_argument("--data", metavar="NAME", help="prepared data set (default: the training data of the model)")
    add_data_dir(parser)


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Adds --data-dir."""
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        type=pathlib.Path,
        help="folder of prepared data (default: $FERJAX_DATA or ~/.cache/ferjax)",
    )


def add_split(parser: argparse.ArgumentParser) -> None:
    """Adds --split."""
    parser.add_argument(
        "--split", default="validation", help="train, validation, test or test_all (default: validation)"
    )


def add_out(parser: argparse.ArgumentParser, what: str, *, required: bool = True) -> None:
    """Adds --out.

    Args:
      parser: the command's parser.
      what: help text, such as "folder for the files and export.json".
      required: whether the command requires --out.
    """
    parser.add_argument("--out", metavar="PATH", type=pathlib.Path, required=required, help=what)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Adds --overwrite."""
    parser.add_argument("--overwrite", action="store_true", help="replace existing output in --out")


def add_provider(parser: argparse.ArgumentParser) -> None:
    """Adds --provider."""
    parser.add_argument("--provider", default="cpu", metavar="NAME", help=f"{PROVIDERS} (default: cpu)")


def progress(items: Iterable[T], *, what: str, total: int | None = None) -> Iterator[T]:
    """Yields the items and, after two seconds, shows a bar with the time left if standard error is a terminal.

    Args:
      items: the items to process.
      what: label of the bar, such as "leaks".
      total: number of items, if `items` has no length.
    """
    try:
        from tqdm import tqdm
    except ImportError:  # the edge install
        yield from items
        return
    yield from tqdm(items, desc=what, total=total, disable=None, leave=False, delay=2)


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, such as "1 image" or "1,200 images"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def note(message: str) -> None:
    """Prints one line on standard error."""
    if sys.stderr is not None:  # None if closed: print(file=None) writes to standard output
        with contextlib.suppress(OSError):  # the terminal was closed
            print(f"ferjax: {message}", file=sys.stderr, flush=True)


def run(main: Callable[[], object], *, interrupted: str = "interrupted") -> None:
    """Runs a command and sets the exit code.

    Exits with 2 and a one-line message on InputError and OSError, which the user can fix. Other exceptions are bugs and
    keep their traceback. Characters that the encoding of standard output and error lacks are printed as "?".

    Args:
      main: the command.
      interrupted: message after Ctrl-C, which exits with 130; RESUMES for commands that can be continued.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")  # on damaged metadata of images
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells a user without a home folder of its cache
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None if closed
            stream.reconfigure(errors="replace")
    try:
        main()
        if sys.stdout is not None:  # None if closed
            sys.stdout.flush()
    except InputError as error:
        sys.exit(_fail(explain(error)))
    except BrokenPipeError:
        # The reader closed the pipe, as `head` does.
        abandon_output()
        sys.exit(1)
    except OSError as error:
        sys.exit(_fail(explain(error)))
    except KeyboardInterrupt:
        note(interrupted)
        if "jax" in sys.modules:  # interpreter shutdown during an XLA compilation ends in a segmentation fault
            atexit.register(_exit_now, 130)
        sys.exit(130)


def _exit_now(code: int) -> None:
    """Ends the process without the rest of the interpreter shutdown."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a closed stream
            stream.flush()
    os._exit(code)


def abandon_output() -> None:
    """Redirects standard output, including its unflushed buffer, to the null device."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> int:
    note(f"error: {message}")
    return 2

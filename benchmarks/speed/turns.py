"""Contenders of a benchmark take turns, so that a busy moment of the machine hits all of them."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ferjax import errors, memory
from tools import tables

Block = Callable[[int], None]  # takes so many steps and waits for the last


def orders(names: Iterable[str], rounds: int) -> Iterator[list[str]]:
    """Yields the order of the contenders in each round, rotated by one from round to round."""
    names = list(names)
    for turn in range(rounds):
        first = turn % len(names)
        yield names[first:] + names[:first]


def seconds(block: Block, steps: int) -> float:
    """Returns how long a block takes."""
    start = time.perf_counter()
    block(steps)
    return time.perf_counter() - start


def take(blocks: Mapping[str, Block], *, rounds: int, steps: int, untimed: int = 0) -> dict[str, list[float]]:
    """Returns the seconds of each contender's turns. A turn is `untimed` steps, then a timed block of `steps`."""
    times: dict[str, list[float]] = {name: [] for name in blocks}
    for order in orders(blocks, rounds):
        for name in order:
            if untimed:
                blocks[name](untimed)
            times[name].append(seconds(blocks[name], steps))
    return times


def milliseconds(blocks: Mapping[str, Block], *, rounds: int, steps: int) -> dict[str, list[float]]:
    """Returns the milliseconds a step of each contender's turns.

    The first step of a turn is not timed: it compiles, or starts with the caches and memory of another contender.
    """
    times = take(blocks, rounds=rounds, steps=steps, untimed=1)
    return {name: [1000 * value / steps for value in values] for name, values in times.items()}


def medians(times: Mapping[str, list[float]]) -> dict[str, object]:
    """Returns the columns of a row: the median of each contender as `NAME_ms`, and all turns as `all`."""
    return {
        **{f"{name}_ms": statistics.median(values) for name, values in times.items()},
        "all": {name: [round(value, 2) for value in values] for name, values in times.items()},
    }


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Returns the parser of a benchmark of steps; `parse` reads its command line."""
    parser = tables.arguments(doc)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contender")
    parser.add_argument("--steps", type=int, default=4, help="steps in a turn")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Reads the command line, and keeps freed memory as `ferjax train` does.

    Raises:
      InputError: if a number is not positive.
    """
    args = parser.parse_args()
    if min(args.batch_size, args.rounds, args.steps) < 1:
        raise errors.InputError("--batch-size, --rounds and --steps must be positive")
    memory.keep_freed()
    return args


def report(
    doc: str | None,
    name: str,
    columns: Sequence[tuple[str, str]],
    measure: Callable[[str, int, int, int], dict[str, Any]],
    packages: Sequence[str],
) -> None:
    """Runs a benchmark with a row per network: reads the command line, measures, saves and prints the table.

    Args:
      doc: help of the command.
      name: of the module in `benchmarks.speed`, and of its results.
      columns: of the table.
      measure: (network, batch size, rounds, steps in a turn) -> row.
      packages: whose versions are saved.
    """
    parser = arguments(doc)
    parser.add_argument("--models", nargs="+", default=["resnet20", "mini_xception"], help="names of the registry")
    args = parse(parser)
    rows = [measure(model, args.batch_size, args.rounds, args.steps) for model in args.models]
    command = tables.command(f"benchmarks.speed.{name}")
    print(tables.render(tables.save(name, columns, rows, command=command, packages=packages, results=args.results)))

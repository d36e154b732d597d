"""Draws accuracy over file size: python -m benchmarks.studies.frontier writes docs/frontier.png.

The points are the rows of the table of results/fer2013.jsonl that have an exported file, numbered from the top. The
line is the Pareto front: no file of the same size or less is more accurate.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ferjax import cli, errors, folders
from ferjax.evaluate.report.plots import TRAIN, VALIDATION
from tools import tables


def frontier(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the rows, with `accuracy` and `bytes`, than which none of at most their size is more accurate.

    Sizes are compared in whole kB, as the table shows them; the rows are sorted by size.
    """
    best: list[Mapping[str, Any]] = []
    for row in sorted(rows, key=lambda row: (round(row["bytes"] / 1e3), -row["accuracy"])):
        if not best or row["accuracy"] > best[-1]["accuracy"]:
            best.append(row)
    return best


def plot(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
    """Draws the rows as a PNG file.

    Args:
      rows: as `benchmarks.studies.accuracy` makes them; those without a file are left out.
      path: the PNG file to write; its folder must exist.

    Raises:
      InputError: if none has a file.
    """
    numbered = {number: row for number, row in enumerate(rows, start=1) if row.get("bytes") is not None}
    if not numbered:
        raise errors.InputError(
            "no row has a file: python -m benchmarks.studies.accuracy --file FILE makes one that has"
        )
    figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    best = frontier(list(numbered.values()))
    sizes, tops = [row["bytes"] / 1e3 for row in best], [row["accuracy"] for row in best]
    axes.step(sizes, tops, where="post", color=VALIDATION, label="Pareto front")
    for number, row in numbered.items():
        place = row["bytes"] / 1e3, row["accuracy"]
        label = f"{number}  {row['network']}, {row['quantization']}; teachers: {row['how']}"
        axes.plot(*place, "o", color=VALIDATION if row in best else TRAIN, label=label)
        x, side = (-7, "right") if number % 2 else (7, "left")  # neighbors in the table often lie close together
        axes.annotate(str(number), place, (x, 3), textcoords="offset points", ha=side)
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("file size, kB (logarithmic)")
    axes.set_ylabel("validation accuracy, %")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=8, handletextpad=0.2)
    with folders.atomic_file(path) as part:
        figure.savefig(part, format="png")


def main(argv: Sequence[str] | None = None) -> None:
    parser = tables.arguments(__doc__)
    parser.add_argument("--data", default="fer2013", help="the data set whose results are drawn")
    parser.add_argument("--out", type=pathlib.Path, default=tables.ROOT / "docs" / "frontier.png")
    options = parser.parse_args(argv)
    path = options.results / f"{options.data}.jsonl"
    if not path.is_file():
        raise errors.InputError(f"there are no results {path}: python -m benchmarks.studies.accuracy writes them")
    plot(tables.shown(tables.load(path).rows), options.out)
    print(f"saved {options.out}")


if __name__ == "__main__":
    cli.run(main)

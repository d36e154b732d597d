"""Draws accuracy over size and over latency: python -m benchmarks.studies.frontier writes docs/frontier.png.

Every row of results/fer2013.jsonl with an exported file is a point, with its 95 % interval. The line joins the files
that no other beats in both. Latencies are shown of one processor, that of the newest row.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ferjax import cli, errors, folders
from ferjax.evaluate.report.plots import TRAIN, VALIDATION
from tools import tables

AXES = {
    "bytes": (1e-3, "size of the file (kB, logarithmic)"),
    "p50": (1.0, "ms for one face, two threads (logarithmic)"),
}


def frontier(rows: Sequence[Mapping[str, Any]], key: str) -> list[Mapping[str, Any]]:
    """Returns the rows that none beats in both, by rising cost.

    Args:
      rows: with `accuracy` and the key.
      key: what is to be small.
    """
    best: list[Mapping[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row[key], -row["accuracy"])):
        if not best or row["accuracy"] > best[-1]["accuracy"]:
            best.append(row)
    return best


def timed_alike(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the rows that were measured on the processor of the newest one."""
    newest = max(rows, key=lambda row: row["date"])
    return [row for row in rows if row["machine"]["cpu"] == newest["machine"]["cpu"]]


def plot(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
    """Draws the rows as a PNG file.

    Args:
      rows: as `benchmarks.studies.accuracy` makes them; those without a file are left out.
      path: the PNG file to write; its folder must exist.

    Raises:
      InputError: if none has a file.
    """
    files = [row for row in rows if all(row.get(key) is not None for key in AXES)]
    if not files:
        raise errors.InputError(
            "no row has a file: python -m benchmarks.studies.accuracy --file FILE makes one that has"
        )
    files.sort(key=lambda row: row["bytes"])
    figure = Figure(figsize=(13, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    alike = timed_alike(files)
    for axes, key, shown in zip(figure.subplots(1, 2, sharey=True), AXES, (files, alike), strict=True):
        _panel(axes, {number: row for number, row in enumerate(files, start=1) if row in shown}, key)
    figure.axes[1].set_title(alike[0]["machine"]["cpu"], fontsize=9)
    figure.axes[0].set_ylabel("accuracy on PublicTest (%), which selected\nthe epoch; 95 % interval")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    with folders.atomic_file(path) as part:
        figure.savefig(part, format="png")


def _panel(axes: Axes, files: Mapping[int, Mapping[str, Any]], key: str) -> None:
    factor, label = AXES[key]
    best = frontier(list(files.values()), key)
    axes.step([factor * row[key] for row in best], [row["accuracy"] for row in best], where="post", color="0.6")
    for number, row in files.items():
        top, cost = row["accuracy"], factor * row[key]
        axes.errorbar(
            cost,
            top,
            [[top - row["low"]], [row["high"] - top]],
            fmt="o",
            color=VALIDATION if row in best else TRAIN,
            capsize=3,
            label=f"{number}  {row['network']}, {row['how']}",
        )
        axes.annotate(str(number), (cost, row["high"]), (0, 4), textcoords="offset points", ha="center", fontsize=9)
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.15)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def main(argv: Sequence[str] | None = None) -> None:
    parser = tables.arguments(__doc__)
    parser.add_argument("--data", default="fer2013", help="the data set whose results are drawn")
    parser.add_argument("--out", type=pathlib.Path, default=tables.ROOT / "docs" / "frontier.png")
    options = parser.parse_args(argv)
    path = options.results / f"{options.data}.jsonl"
    if not path.is_file():
        raise errors.InputError(f"there are no results {path}: python -m benchmarks.studies.accuracy writes them")
    plot(tables.load(path).rows, options.out)
    print(f"saved {options.out}")


if __name__ == "__main__":
    cli.run(main)

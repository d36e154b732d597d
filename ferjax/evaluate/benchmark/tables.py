"""Formats benchmark rows as text, CSV and Markdown, and reads the CSV."""

import contextlib
import csv
import datetime
import importlib.metadata
import io
import os
import pathlib
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ferjax.errors import InputError

Row = Mapping[str, Any]


class Column(NamedTuple):
    """One column: heading, keys of the values in a row, and their format."""

    heading: str
    keys: tuple[str, ...]
    show: Callable[..., str]


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:.0f}" if value >= 1e7 else f"{value / 1e6:.2f}" if value >= 1e4 else f"{value / 1e6:.4f}"


def _millions(value: float) -> str:
    return f"{value / 1e6:.2f}" if value >= 1e4 else f"{value / 1e6:.4f}"


COLUMNS = (
    Column("file", ("file",), str),
    Column("runtime", ("runtime",), str),
    Column("provider", ("provider",), str),
    Column("threads", ("threads",), str),
    Column("load ms", ("load_ms",), _milliseconds),
    Column("first ms", ("first_ms",), _milliseconds),
    Column("p50 ms", ("p50_ms",), _milliseconds),
    Column("p95 ms", ("p95_ms",), _milliseconds),
    Column("p99 ms", ("p99_ms",), _milliseconds),
    Column("memory MB", ("memory",), _megabytes),
    Column("with OpenCV", ("memory_opencv",), _megabytes),
    Column("size MB", ("bytes",), _megabytes),
    Column("parameters M", ("parameters",), _millions),
    Column("MACs M", ("macs",), _millions),
    Column("nodes", ("nodes", "nodes_optimised"), "{} → {}".format),
    Column("accuracy (95 %)", ("accuracy", "accuracy_low", "accuracy_high"), "{:.1%} ({:.1%} to {:.1%})".format),
)
# Columns of the CSV, unrounded: times in ms, memory and sizes in bytes, shares in 0..1.
KEYS = (*(key for column in COLUMNS for key in column.keys), "images", "architecture", "quantization", "passes")


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """Returns the headings, then the rows, as text."""
    return [[c.heading for c in COLUMNS], *([_cell(c, row) for c in COLUMNS] for row in rows)]


def screen(rows: Sequence[Row]) -> str:
    """Returns the table with aligned columns."""
    lines = cells(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def markdown(rows: Sequence[Row], command: str) -> str:
    """Returns the table with its notes, the command and the machine."""
    header, *lines = cells(rows)
    table = "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines])
    return f"# Benchmark\n\n{table}\n\n{NOTES}\n\n`{command}` · {machine()}\n"


NOTES = """Latency is that of the network on one image, after 100 warm-up passes; p50, p95 and p99 are percentiles. Each
file runs in its own process; the files alternate in blocks. Load excludes the import of the runtime; the file is in the
page cache. Memory is the peak of a new process that loads and runs the file, without and with OpenCV. Nodes: in the
file → executed by the runtime on the CPU; a subgraph delegated to XNNPACK counts as one. Accuracy is on the validation
split with Wilson's interval."""


def csv_text(rows: Sequence[Row]) -> str:
    """Returns the rows as CSV, unrounded; a value that was not measured is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, KEYS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def read_csv(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the rows that `csv_text` wrote, with numbers parsed; raises InputError for any other file."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; write it with ferjax benchmark FILE… --out DIR")
    rows: list[dict[str, str]] = []
    with open(path, newline="", encoding="utf-8") as file, contextlib.suppress(UnicodeDecodeError, csv.Error):
        rows = list(csv.DictReader(file))
    if not rows or any(row.keys() != set(KEYS) for row in rows):
        raise InputError(f"{path} is not a benchmark.csv of ferjax benchmark")
    found = [{key: _value(text) for key, text in row.items()} for row in rows]
    for key in set(KEYS) - {"file", "runtime", "provider", "architecture", "quantization"}:
        if odd := [row[key] for row in found if isinstance(row[key], str)]:
            raise InputError(f"{path} is not a benchmark.csv of ferjax benchmark: {key} is {odd[0]!r}")
    return found


def _value(text: str) -> Any:
    try:
        return None if not text else float(text) if "." in text or "e" in text else int(text)
    except ValueError:
        return text


def machine() -> str:
    """Returns processor, cores, system, versions and date."""
    versions = []
    for name in ("ai-edge-litert", "onnxruntime", "numpy"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    system = f"{os.cpu_count()} cores, {platform.platform(terse=True)}, Python {platform.python_version()}"
    return f"{processor()}, {system}, {', '.join(versions)} · {datetime.date.today().isoformat()}"


def processor() -> str:
    """Returns the name of the processor."""
    info = pathlib.Path("/proc/cpuinfo")
    found = (
        re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.MULTILINE) if info.exists() else None
    )
    return found[1] if found else platform.processor() or platform.machine()


def _cell(column: Column, row: Row) -> str:
    values = [row.get(key) for key in column.keys]
    return "–" if None in values else column.show(*values)

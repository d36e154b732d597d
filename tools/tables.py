"""Keeps the results of benchmarks and generates the tables of the documents from them.

    python -m tools.tables            writes each benchmarks/results/NAME.jsonl into README.md and docs/, between the
                                      markers `<!-- table:NAME -->` and `<!-- /table -->`
    python -m tools.tables --check    changes nothing and exits with 1 if a page is out of date

A file of results has one JSON object a line: first the columns of the table, then the rows in the order of the table.
A row refers by number to its run; the line of the run stands before its first row and holds the provenance. A row with
`"shown": false` is kept in the file and left out of the table.

    {"columns": [["network", "{name}"], ["images/s", "{speed:.1f}"]]}
    {"run": 1, "command": "python -m …", "machine": {…}, "versions": {…}, "date": "2026-11-29"}
    {"run": 1, "name": "resnet20", "speed": 101.58}
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shlex
import string
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ferjax import cli, errors, folders
from ferjax.evaluate.benchmark.tables import processor

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKED = re.compile(r"(<!-- table:(\S+) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)
PROVENANCE = ("command", "machine", "versions", "date")

Row = Mapping[str, Any]


class Table(NamedTuple):
    """What a file of results holds.

    Attributes:
      columns: (header, cell) pairs; a cell is a format string over a row's keys, such as "{speed:.0f}" or, in units of
        a thousand or a million, "{bytes:.0fk}" and "{macs:.1fM}".
      rows: each has a `name`, the number of its `run` and the run's provenance.
    """

    columns: Sequence[Sequence[str]]
    rows: Sequence[Row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the pages are up to date")
    parser.add_argument("--page", type=pathlib.Path, nargs="+", default=PAGES, help="the Markdown files")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args()
    stale = []
    for page in args.page:
        old = page.read_text(encoding="utf-8")
        new = insert(old, args.results)
        stale += [(page, b[0]) for a, b in zip(MARKED.findall(old), MARKED.findall(new), strict=True) if a != b]
        if not args.check:
            update(page, args.results)
    if args.check:
        for page, marker in stale:
            cli.note(f"{page}: {marker.strip()} is out of date; run python -m tools.tables")
        sys.exit(1 if stale else 0)


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Returns the parser of a benchmark, with the flag that all of them have.

    Args:
      doc: the docstring of the benchmark's module.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = "folder of the results; another folder leaves the recorded ones as they are"
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help=text)
    return parser


def command(module: str, given: Sequence[str] | None = None, *, without: Sequence[str] = ()) -> str:
    """Returns the command line that measures the same again.

    Args:
      module: of the benchmark.
      given: its arguments; those of this process if not given.
      without: flags with a value that do not matter, beside `--results`.
    """
    dropped = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--results", *without):
        dropped.add_argument(flag)
    _, kept = dropped.parse_known_args(given)
    return shlex.join(["python", "-m", module, *kept])


def load(path: pathlib.Path) -> Table:
    """Reads a file of results."""
    head, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    runs = {line["run"]: line for line in lines if "name" not in line}
    return Table(head["columns"], [{**row, **runs[row["run"]]} for row in lines if "name" in row])


def save(
    name: str,
    columns: Sequence[Sequence[str]],
    rows: Sequence[Row],
    *,
    command: str,
    packages: Sequence[str],
    whole: str | None = None,
    results: pathlib.Path,
) -> Table:
    """Merges rows into results/NAME.jsonl; a row replaces the one of the same `name`.

    Args:
      name: of the file and of the table.
      columns: as in `Table`.
      rows: JSON-able mappings with a `name`.
      command: what makes these rows again.
      packages: distributions whose versions matter.
      whole: a key, such as "network"; these rows are all that there are of their networks, and other rows of them go.
      results: folder of the file.

    Returns:
      What the file holds now.
    """
    path = results / f"{name}.jsonl"
    kept = {row["name"]: row for row in load(path).rows} if path.exists() else {}
    run = _run(kept.values(), _provenance(command, packages))
    if whole is not None:
        subjects, names = {row[whole] for row in rows}, {row["name"] for row in rows}
        kept = {name: row for name, row in kept.items() if row[whole] not in subjects or name in names}
    kept.update({row["name"]: {**row, **run} for row in rows})
    table = Table([list(column) for column in columns], list(kept.values()))
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in _lines(table)))
    return table


def render(table: Table) -> str:
    """Returns results as a Markdown table, with the machines, dates and versions of its rows below it."""
    headers, cells = zip(*table.columns, strict=True)
    rows = shown(table.rows)
    lines = [headers, ["---"] * len(headers), *([_cell(c, row) for c in cells] for row in rows)]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{text}\n\n<sub>{_origin(rows)}</sub>"


def shown(rows: Iterable[Row]) -> list[Row]:
    """Returns the rows that belong into a table."""
    return [row for row in rows if row.get("shown", True)]


def insert(page: str, results: pathlib.Path) -> str:
    """Returns a page with every marked table generated from its results.

    Raises:
      InputError: if a marker is not closed or names no results.
    """
    opened, found = page.count("<!-- table:"), MARKED.findall(page)
    if opened != len(found) or page.count("<!-- /table -->") != opened:
        raise errors.InputError("each <!-- table:NAME --> line of the page needs its own <!-- /table --> below it")

    def generate(match: re.Match[str]) -> str:
        path = results / f"{match[2]}.jsonl"
        if not path.exists():
            raise errors.unknown("table", match[2], sorted(p.stem for p in results.glob("*.jsonl")))
        commands = f"<sub>Commands: `benchmarks/results/{path.name}`</sub>"
        return f"{match[1]}{render(load(path))}\n{commands}\n{match[4]}"

    return MARKED.sub(generate, page)


def update(page: pathlib.Path, results: pathlib.Path) -> None:
    """Generates the tables of a page again."""
    _write(page, insert(page.read_text(encoding="utf-8"), results))


def _provenance(command: str, packages: Sequence[str]) -> dict[str, Any]:
    return {
        "command": command,
        "machine": {"cpu": processor(), "cores": os.cpu_count(), "system": platform.platform(terse=True)},
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages},
        "date": datetime.date.today().isoformat(),
    }


def _run(rows: Iterable[Row], provenance: Row) -> dict[str, Any]:
    """Returns a run with its number: that of the rows with the same provenance, or a new one."""
    numbers = {row["run"]: {key: row[key] for key in PROVENANCE} for row in rows}
    same = (number for number, theirs in numbers.items() if theirs == provenance)
    return {"run": next(same, 1 + max(numbers, default=0)), **provenance}


def _lines(table: Table) -> Iterator[Row]:
    yield {"columns": table.columns}
    seen = set()
    for row in table.rows:
        if row["run"] not in seen:
            seen.add(row["run"])
            yield {key: row[key] for key in ("run", *PROVENANCE)}
        yield {"run": row["run"], **{key: value for key, value in row.items() if key not in ("run", *PROVENANCE)}}


def _cell(template: str, row: Row) -> str:
    """A figure that was not measured, None, is shown as a dash."""
    used = re.findall(r"{(\w+)", template)
    return "–" if any(row.get(key) is None for key in used) else _Scaled().format(template, **row)


class _Scaled(string.Formatter):
    """Understands a unit at the end of a format: k divides by a thousand, M by a million."""

    def format_field(self, value: Any, format_spec: str) -> Any:
        units = {"k": 1e3, "M": 1e6}
        if format_spec[-1:] in units:
            value, format_spec = value / units[format_spec[-1]], format_spec[:-1]
        return super().format_field(value, format_spec)


def _origin(rows: Iterable[Row]) -> str:
    """Returns the machines with their dates, and the versions, each once."""
    dates: dict[str, set[str]] = {}
    versions: dict[str, set[str]] = {}
    for row in rows:
        dates.setdefault("{cpu}, {cores} cores".format(**row["machine"]), set()).add(row["date"])
        for package, version in row["versions"].items():
            versions.setdefault(package, set()).add(version)
    parts = [f"{machine}: {', '.join(sorted(days))}" for machine, days in dates.items()]
    return " · ".join([*parts, ", ".join(f"{package} {' and '.join(sorted(v))}" for package, v in versions.items())])


def _write(path: pathlib.Path, text: str) -> None:
    with folders.atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)

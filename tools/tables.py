"""Results of benchmarks: kept as JSON with how they were made, shown as tables in the README.

python -m tools.tables             writes each benchmarks/results/NAME.json into README.md and docs/, between
                                        the markers `<!-- table:NAME -->` and `<!-- /table -->`
python -m tools.tables --check     changes nothing and exits with 1 if a page is out of date
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ferjax import cli, errors, folders
from ferjax.evaluate.benchmark.tables import processor

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKED = re.compile(r"(<!-- table:(\S+) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    parser.add_argument("--page", type=pathlib.Path, nargs="+", default=PAGES, help="the Markdown files")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="where the JSON files are")
    args = parser.parse_args()
    stale = []
    for page in args.page:
        old = page.read_text()
        new = insert(old, args.results)
        stale += [(page, b[0]) for a, b in zip(MARKED.findall(old), MARKED.findall(new), strict=True) if a != b]
        if not args.check:
            write(page, new)
    if args.check:
        for page, marker in stale:
            cli.note(f"{page}: {marker.strip()} is out of date; run python -m tools.tables")
        sys.exit(1 if stale else 0)


def insert(page: str, results: pathlib.Path) -> str:
    """Returns the page with every marked table drawn anew from its results.

    Raises:
      InputError: if a marker is not closed or names no results.
    """
    opened, found = page.count("<!-- table:"), MARKED.findall(page)
    if opened != len(found) or page.count("<!-- /table -->") != opened:
        raise errors.InputError("each <!-- table:NAME --> line of the page needs its own <!-- /table --> below it")

    def draw(match: re.Match[str]) -> str:
        path = results / f"{match[2]}.json"
        if not path.exists():
            raise errors.unknown("table", match[2], sorted(p.stem for p in results.glob("*.json")))
        return f"{match[1]}{render(json.loads(path.read_text()))}\n{match[4]}"

    return MARKED.sub(draw, page)


def render(result: Mapping[str, Any]) -> str:
    """Returns the Markdown table of a results file, and below it how its rows were made."""
    headers, cells = zip(*result["columns"], strict=True)
    lines = [headers, ["---"] * len(headers), *([_cell(c, row) for c in cells] for row in result["rows"])]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    made = dict.fromkeys(_how(row) for row in result["rows"])
    return f"{table}\n\n" + "\n".join(f"<sub>{how}</sub>" for how in made)


def save(
    name: str,
    columns: Sequence[tuple[str, str]],
    rows: Sequence[Mapping[str, Any]],
    *,
    command: str,
    packages: Sequence[str],
    whole: str | None = None,
    results: pathlib.Path = RESULTS,
) -> dict[str, Any]:
    """Merges rows into results/NAME.json; a row replaces the one of the same `name`.

    Args:
      name: of the file and of the table.
      columns: (header, cell) pairs; a cell is a format string over a row's keys, such as "{speed:.0f}".
      rows: JSON-able mappings with a "name".
      command: what makes these rows again.
      packages: distributions whose versions matter.
      whole: a key, such as "network"; of what these rows have there, they are all that there is, and other rows go.
      results: folder of the file.

    Returns:
      What the file holds now.
    """
    path = results / f"{name}.json"
    kept = {row["name"]: row for row in json.loads(path.read_text())["rows"]} if path.exists() else {}
    how = {
        "command": command,
        "machine": {"cpu": processor(), "cores": os.cpu_count(), "system": platform.platform(terse=True)},
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages},
        "date": datetime.date.today().isoformat(),
    }
    if whole is not None:
        subjects, names = {row[whole] for row in rows}, {row["name"] for row in rows}
        kept = {name: row for name, row in kept.items() if row[whole] not in subjects or name in names}
    kept.update({row["name"]: {**row, **how} for row in rows})
    result = {"columns": [list(c) for c in columns], "rows": list(kept.values())}
    results.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps(result, indent=1) + "\n")
    return result


def _cell(template: str, row: Mapping[str, Any]) -> str:
    """A figure that was not measured, None, is shown as a dash."""
    used = re.findall(r"{(\w+)", template)
    return "–" if any(row.get(key) is None for key in used) else template.format(**row)


def _how(row: Mapping[str, Any]) -> str:
    machine = "{cpu}, {cores} cores, {system}".format(**row["machine"])
    versions = ", ".join(f"{k} {v}" for k, v in row["versions"].items())
    return f"`{row['command']}` · {machine} · {versions} · {row['date']}"


def write(path: pathlib.Path, text: str) -> None:
    """Writes a file whole, or leaves the one that is there."""
    with folders.replaced(path) as part:
        part.write_text(text)


if __name__ == "__main__":
    cli.run(main)

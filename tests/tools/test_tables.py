"""Results are kept with their provenance and become tables between the markers of a page."""

import datetime
import importlib.metadata
import json
import platform
import sys

import pytest

from ferjax.errors import InputError
from tools import tables

COLUMNS = (("network", "{name}"), ("images/s", "{speed:.1f}"), ("ratio", "{speed:.0f}:{other:.0f}"))
PAGE = "# Title\n\n<!-- table:speed -->\nold\n<!-- /table -->\n\nText | stays.\n"


def save(results, *rows, command="python -m speed", whole=None):
    return tables.save("speed", COLUMNS, rows, command=command, packages=["numpy"], whole=whole, results=results)


def command_line(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["tables", *map(str, arguments)])
    try:
        tables.main()
    except SystemExit as stopped:
        return stopped.code
    return 0


def test_results_say_how_they_were_made(tmp_path):
    save(tmp_path, {"name": "a", "speed": 10.0, "other": 2.0})
    columns, (row,) = tables.load(tmp_path / "speed.jsonl")
    assert columns == [list(column) for column in COLUMNS]
    assert row["name"] == "a" and row["speed"] == 10.0 and row["command"] == "python -m speed"
    assert row["versions"]["numpy"] == importlib.metadata.version("numpy")
    assert row["machine"]["cores"] > 0 and row["machine"]["cpu"] and row["machine"]["system"]
    assert datetime.date.fromisoformat(row["date"])
    assert [p.name for p in tmp_path.iterdir()] == ["speed.jsonl"]


def test_a_row_replaces_the_one_of_its_name_and_leaves_the_others(tmp_path):
    save(tmp_path, {"name": "a", "speed": 1, "other": 1}, {"name": "b", "speed": 2, "other": 2})
    result = save(tmp_path, {"name": "a", "speed": 9, "other": 9}, command="python -m speed --again")
    assert result == tables.load(tmp_path / "speed.jsonl")
    assert [(r["name"], r["speed"], r["command"]) for r in result.rows] == [
        ("a", 9, "python -m speed --again"),
        ("b", 2, "python -m speed"),
    ]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_holds_the_columns_then_a_line_for_each_run_and_row(tmp_path):
    a, b, c = ({"name": name, "speed": 1, "other": 1} for name in "abc")
    save(tmp_path, a, b)
    save(tmp_path, c)
    head, run, *rows = lines(tmp_path / "speed.jsonl")
    assert set(head) == {"columns"} and set(run) == {"run", *tables.PROVENANCE}
    assert rows == [{"run": 1, **row} for row in (a, b, c)]  # of one command, machine and day: one run
    save(tmp_path, {**b, "speed": 2}, command="python -m speed --again")
    _, first, *rest = lines(tmp_path / "speed.jsonl")
    assert first == run
    assert [(line["run"], line.get("name")) for line in rest] == [
        (1, "a"),
        (2, None),
        (2, "b"),
        (1, "c"),
    ]
    save(tmp_path, a, c, command="python -m speed --again")
    assert [line["run"] for line in lines(tmp_path / "speed.jsonl")[1:]] == [2, 2, 2, 2]


def test_the_recorded_command_leaves_out_where_the_results_go():
    given = ["--models", "a", "b c", "--results", "there", "--folder=x", "--rounds", "3"]
    made = "python -m benchmarks.speed.x --models a 'b c'"
    assert tables.command("benchmarks.speed.x", given) == f"{made} --folder=x --rounds 3"
    assert tables.command("benchmarks.speed.x", given, without=["--folder"]) == f"{made} --rounds 3"


def test_what_a_network_no_longer_has_leaves_the_table_where_all_of_it_is_measured(tmp_path):
    def row(name, speed):
        return {"name": name, "of": name[0], "speed": speed, "other": 1}

    save(tmp_path, row("a1", 1), row("a2", 2), row("b1", 3), row("a3", 4))
    result = save(tmp_path, row("a4", 5), row("a1", 6), whole="of")
    assert [(r["name"], r["speed"]) for r in result.rows] == [("a1", 6), ("b1", 3), ("a4", 5)]


def test_a_table_has_a_dash_for_what_was_not_measured_and_its_origin_once(tmp_path):
    result = save(tmp_path, {"name": "a", "speed": 10.04, "other": 2}, {"name": "b", "speed": 3, "other": None})
    lines = tables.render(result).splitlines()
    assert lines[:4] == [
        "| network | images/s | ratio |",
        "| --- | --- | --- |",
        "| a | 10.0 | 10:2 |",
        "| b | 3.0 | – |",
    ]
    machine, date = (result.rows[0][key] for key in ("machine", "date"))
    versions = f"python {platform.python_version()}, numpy {importlib.metadata.version('numpy')}"
    assert lines[4:] == ["", f"<sub>{machine['cpu']}, {machine['cores']} cores: {date} · {versions}</sub>"]


def test_machines_dates_and_versions_of_several_runs_are_told_apart():
    def row(cpu, date, jax):
        machine = {"cpu": cpu, "cores": 2, "system": "s"}
        return {"name": date, "machine": machine, "versions": {"jax": jax}, "date": date}

    rows = [row("a", "2026-01-03", "1"), row("b", "2026-01-02", "2"), row("a", "2026-01-01", "1")]
    *_, origin = tables.render(tables.Table([("n", "{name}")], rows)).splitlines()
    assert origin == "<sub>a, 2 cores: 2026-01-01, 2026-01-03 · b, 2 cores: 2026-01-02 · jax 1 and 2</sub>"


def test_a_row_may_stay_out_of_the_table_and_units_are_scaled(tmp_path):
    a = {"name": "a", "speed": 1, "other": 1}
    result = save(tmp_path, a, {**a, "name": "b", "shown": False})
    assert len(result.rows) == 2 and "| b |" not in tables.render(result)
    scaled = result._replace(columns=[("k", "{size:,.0fk}"), ("M", "{size:.1fM}"), ("plain", "{size:,}")])
    table = tables.render(scaled._replace(rows=[{**result.rows[0], "size": 1_454_609}]))
    assert table.splitlines()[2] == "| 1,455 | 1.5 | 1,454,609 |"


def test_the_page_changes_between_its_markers_only(tmp_path, monkeypatch, capsys):
    save(tmp_path, {"name": "a", "speed": 10, "other": 2})
    page = tmp_path / "README.md"
    page.write_text(PAGE)
    arguments = ("--page", page, "--results", tmp_path)
    assert command_line(monkeypatch, "--check", *arguments) == 1
    assert "<!-- table:speed --> is out of date; run python -m tools.tables" in capsys.readouterr().err
    assert page.read_text() == PAGE
    assert command_line(monkeypatch, *arguments) == 0
    text = page.read_text()
    assert "| a | 10.0 | 10:2 |" in text and "\nold\n" not in text
    assert text.startswith("# Title\n\n<!-- table:speed -->\n| network")
    commands = "<sub>Commands: `benchmarks/results/speed.jsonl`</sub>"
    assert text.endswith(f"</sub>\n{commands}\n<!-- /table -->\n\nText | stays.\n")
    assert command_line(monkeypatch, "--check", *arguments) == 0
    save(tmp_path, {"name": "a", "speed": 11, "other": 2})
    assert command_line(monkeypatch, "--check", *arguments) == 1


@pytest.mark.parametrize("page", ["<!-- table:speed -->\n", PAGE + "<!-- /table -->\n", PAGE.replace("\n", "")])
def test_broken_markers_are_refused(tmp_path, page):
    save(tmp_path, {"name": "a", "speed": 10, "other": 2})
    with pytest.raises(InputError, match="needs its own <!-- /table --> below it"):
        tables.insert(page, tmp_path)


def test_a_marker_without_results_names_those_there_are(tmp_path):
    save(tmp_path, {"name": "a", "speed": 10, "other": 2})
    with pytest.raises(InputError, match=r"unknown table 'sped'\. Did you mean 'speed'"):
        tables.insert(PAGE.replace("speed", "sped"), tmp_path)

"""Results are kept with their provenance and drawn between the markers of a page."""

import datetime
import importlib.metadata
import json
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
    (row,) = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert row["name"] == "a" and row["speed"] == 10.0 and row["command"] == "python -m speed"
    assert row["versions"]["numpy"] == importlib.metadata.version("numpy")
    assert row["machine"]["cores"] > 0 and row["machine"]["cpu"] and row["machine"]["system"]
    assert datetime.date.fromisoformat(row["date"])
    assert [p.name for p in tmp_path.iterdir()] == ["speed.json"]


def test_a_row_replaces_the_one_of_its_name_and_leaves_the_others(tmp_path):
    save(tmp_path, {"name": "a", "speed": 1, "other": 1}, {"name": "b", "speed": 2, "other": 2})
    result = save(tmp_path, {"name": "a", "speed": 9, "other": 9}, command="python -m speed --again")
    assert result == json.loads((tmp_path / "speed.json").read_text())
    assert [(r["name"], r["speed"], r["command"]) for r in result["rows"]] == [
        ("a", 9, "python -m speed --again"),
        ("b", 2, "python -m speed"),
    ]


def test_what_a_network_no_longer_has_leaves_the_table_where_all_of_it_is_measured(tmp_path):
    def row(name, speed):
        return {"name": name, "of": name[0], "speed": speed, "other": 1}

    save(tmp_path, row("a1", 1), row("a2", 2), row("b1", 3), row("a3", 4))
    result = save(tmp_path, row("a4", 5), row("a1", 6), whole="of")
    assert [(r["name"], r["speed"]) for r in result["rows"]] == [("a1", 6), ("b1", 3), ("a4", 5)]


def test_a_table_has_a_dash_for_what_was_not_measured_and_each_command_once(tmp_path):
    result = save(tmp_path, {"name": "a", "speed": 10.04, "other": 2}, {"name": "b", "speed": 3, "other": None})
    lines = tables.render(result).splitlines()
    assert lines[:4] == [
        "| network | images/s | ratio |",
        "| --- | --- | --- |",
        "| a | 10.0 | 10:2 |",
        "| b | 3.0 | – |",
    ]
    assert lines[4] == "" and lines[5].startswith("<sub>`python -m speed` · ") and len(lines) == 6


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
    assert text.endswith("\n<!-- /table -->\n\nText | stays.\n")
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

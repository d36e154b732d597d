import datetime
import importlib.metadata
import json
import sys

import pytest
from flax import linen as nn

from benchmarks.speed import train_contenders, train_throughput
from ferjax import models
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


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(train_contenders.CLASSES)(x.reshape(len(x), -1))


@pytest.mark.parametrize(("size", "name", "shape"), [(0, "resnet20", "48×48×1"), (16, "resnet20, 16×16", "16×16×1")])
def test_throughput_measures_every_contender_in_every_round(monkeypatch, size, name, shape):
    monkeypatch.setattr(models, "create", lambda name, **kwargs: Tiny())
    monkeypatch.setattr(train_throughput, "_torch_is_here", lambda: False)
    row = train_throughput.measure("resnet20", 4, "float32", rounds=3, block_seconds=0.01, size=size)
    assert {k: len(v) for k, v in row["all"].items()} == {"fit": 3, "disk": 3, "step": 3, "ferjax": 3}
    assert row["disk"] > 0 and row["disk_over_fit"] > 0 and row["workers"] == 0
    assert row["fit"] > 0 and row["step"] > 0 and row["ferjax"] > 0
    assert row["torch"] is None and row["ferjax_over_torch"] is None
    assert row["steps"] >= 2 and row["name"] == name and row["input"] == shape
    json.dumps(row)


def test_throughput_keeps_each_row_as_soon_as_it_is_measured(tmp_path, monkeypatch):
    def measure(name, *_, **__):
        if name == "b":
            raise KeyboardInterrupt
        figures = dict.fromkeys(("fit", "disk", "step", "ferjax", "torch", "first_step_seconds"), 1.0)
        ratios = dict.fromkeys(("fit_over_step", "disk_over_fit", "ferjax_over_torch"), 1.0)
        return {"name": name, "input": "1×1×1", "batch": 1, **figures, **ratios}

    monkeypatch.setattr(train_throughput, "measure", measure)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(train_throughput.memory, "keep_freed", lambda: True)
    monkeypatch.setattr(sys, "argv", ["train_throughput", "--models", "a", "b"])
    with pytest.raises(KeyboardInterrupt):
        train_throughput.main()
    (row,) = json.loads((tmp_path / "train_throughput.json").read_text())["rows"]
    assert row["name"] == "a"


def test_an_error_in_the_thread_of_a_fit_reaches_the_benchmark():
    def fit(on_epoch):
        on_epoch([])
        raise InputError("no disk")

    epochs = train_throughput._Epochs(fit)
    with pytest.raises(InputError, match="no disk"):
        epochs(2)
    epochs.end()

"""What viewers cost the live loop: the benchmark watches what it says it watches."""

import sys

import pytest

from benchmarks.speed import serve
from tools import tables

pytestmark = pytest.mark.slow


def test_the_command_keeps_a_row_for_each_number_of_viewers(tmp_path, monkeypatch):
    arguments = ["serve", "--rounds", "1", "--block", "30", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(serve, "VIEWERS", (0, 2))
    serve.main()
    rows = tables.load(tmp_path / "serve.jsonl").rows
    assert [row["name"] for row in rows] == ["0", "2"] and rows[0]["pictures"] is None
    assert 1 < rows[1]["pictures"] <= 33 and rows[1]["wall"] > 0

"""The benchmark of a teacher's cost: its three contenders do what they are named for."""

import sys

import pytest

from benchmarks.speed import distill_step, turns
from tools import tables

pytestmark = pytest.mark.slow


def test_a_row_has_the_three_times_and_their_ratio(tmp_path, monkeypatch, capsys):
    calls = []

    def contenders(student, teacher, batch_size):
        calls.append((student, teacher, batch_size))
        return {name: lambda steps, name=name: clock.append(cost[name] * steps) for name in cost}

    cost, clock = {"step": 2.0, "teacher": 1.0, "distill": 3.3}, []
    monkeypatch.setattr(turns.time, "perf_counter", lambda: sum(clock))
    monkeypatch.setattr(distill_step, "contenders", contenders)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["distill_step", "--pairs", "a:b", "--rounds", "3", "--steps", "2"])
    distill_step.main()
    (row,) = tables.load(tmp_path / "distill_step.jsonl").rows
    assert calls == [("a", "b", 64)]
    assert (round(row["step_ms"]), round(row["teacher_ms"]), round(row["distill_ms"])) == (2000, 1000, 3300)
    assert (
        round(row["ratio"], 6) == 1.1 and "| a | b | 64 | 2000.0 | 1000.0 | 3300.0 | 1.10 |" in capsys.readouterr().out
    )


def test_a_row_of_real_contenders_is_finite_and_positive():
    row = distill_step.measure("baseline_cnn3", "baseline_cnn3", 2, 1, 1)
    times = [row[f"{name}_ms"] for name in ("step", "teacher", "distill")]
    assert all(0 < t < 60_000 for t in times) and row["ratio"] == pytest.approx(times[2] / (times[0] + times[1]))

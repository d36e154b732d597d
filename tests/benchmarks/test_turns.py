"""Contenders take turns in an order that rotates."""

import sys

import pytest

from benchmarks.speed import turns
from ferjax.errors import InputError

pytestmark = pytest.mark.slow


def test_every_contender_is_first_in_turn():
    assert list(turns.orders("abc", 4)) == [list("abc"), list("bca"), list("cab"), list("abc")]


def test_each_turn_is_timed_after_its_first_step(monkeypatch):
    clock, taken = [0.0], []

    def block(name, cost):
        def run(steps):
            taken.append((name, steps))
            clock[0] += cost * steps

        return run

    monkeypatch.setattr(turns.time, "perf_counter", lambda: clock[0])
    times = turns.milliseconds({"a": block("a", 0.001), "b": block("b", 0.002)}, rounds=2, steps=3)
    assert taken == [("a", 1), ("a", 3), ("b", 1), ("b", 3), ("b", 1), ("b", 3), ("a", 1), ("a", 3)]
    assert times == {"a": pytest.approx([1, 1]), "b": pytest.approx([2, 2])}
    assert turns.medians(times)["b_ms"] == pytest.approx(2) and turns.medians(times)["all"]["b"] == [2, 2]


def test_no_number_of_turns_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["turns", "--rounds", "0"])
    with pytest.raises(InputError, match="must be positive"):
        turns.parse(turns.arguments("Measures."))

import sys

import numpy as np
import pytest

from benchmarks.speed import detectors
from benchmarks.studies import smoothing
from ferjax.data.synthetic.clips import EXPRESSIONS
from ferjax.runtime.faces.detector import create_detector
from tools import tables

pytestmark = pytest.mark.slow


def test_detectors_are_scored_against_the_rooms_faces():
    finds_nothing = detectors.measure([create_detector("none")], 3)[0]
    assert finds_nothing["recall"] == 0 and finds_nothing["false"] == 1 and finds_nothing["overlap"] is None
    fine, coarse = detectors.measure([create_detector("haar", scale=s) for s in (1.0, 0.25)], 5)
    assert fine["recall"] > 80 > coarse["recall"] and fine["faces"] == 0 + 1 + 2 + 3 + 4
    assert (fine["smallest"], coarse["smallest"]) == (30, 120) and fine["milliseconds"] > coarse["milliseconds"]


def test_rooms_are_seen_from_three_distances():
    sides = [np.mean([box[2] for box in boxes]) for _, boxes in detectors.rooms(5) if boxes]
    assert sides[0] == pytest.approx(sides[-1] * 1.0, rel=0.5) and min(sides) < 0.6 * max(sides)
    for frame, boxes in detectors.rooms(5):
        assert frame.shape == (480, 640, 3)
        assert all(x >= 0 and x + w <= 640 and y >= 0 and y + h <= 480 for x, y, w, h in boxes)


def clip(said, true):
    """Answers ten times a second; the classifier gives 0.7 to what it says."""
    spread = np.full((len(EXPRESSIONS), len(EXPRESSIONS)), 0.05) + 0.65 * np.eye(len(EXPRESSIONS))
    return [smoothing.Answer(k / 10, 1, spread[p], t) for k, (p, t) in enumerate(zip(said, true, strict=True))]


def test_flicker_and_lag_are_those_of_the_clip():
    steady = clip([0, 0, 0, 0, 1] * 24, [0] * 120)
    changing = clip([2] * 20 + [3] * 19, [2] * 20 + [3] * 19)
    raw, smoothed = (smoothing.row("mean", n, [steady], [changing], 0) for n in (1, 10))
    assert raw["flicker"] == raw["raw"] == pytest.approx(47 / 0.2) and raw["lag"] == 0
    assert smoothed["flicker"] == 0 and smoothed["fewer"] == 47
    assert smoothed["lag"] == pytest.approx(200) and smoothed["prompt"] == 100
    late = clip([2] * 40 + [3] * 19, [2] * 38 + [3] * 21)  # seen 0.2 s late; 4.2 - 3.8 is a little more than 0.4
    assert smoothing.row("mean", 10, [steady], [late], 0)["prompt"] == 100


def test_a_change_that_the_classifier_misses_is_not_charged_to_the_window():
    missed = clip([2] * 39, [2] * 20 + [3] * 19)
    assert smoothing._lags(missed, ["fear"] * 39) == []


@pytest.mark.slow
def test_the_table_of_windows_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["smoothing", "--clips", "1", "--seconds", "6", "--results", str(tmp_path)])
    smoothing.main()
    rows = tables.load(tmp_path / "smoothing.jsonl").rows
    assert [row["window"] for row in rows] == [1, 5, 10, 20, 10, 10]
    assert rows[2]["flicker"] < rows[0]["flicker"] and rows[0]["lag"] < rows[3]["lag"]
    assert tables.render(tables.Table(smoothing.COLUMNS, rows)) in capsys.readouterr().out

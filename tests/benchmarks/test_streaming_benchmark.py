"""What reading from disk costs: the memory of a run is that of its batches, whatever the size of the set."""

import sys

import pytest

from benchmarks.speed import streaming
from ferjax import data
from ferjax.data.on_disk import DiskImages
from tools import tables

pytestmark = pytest.mark.slow

if sys.platform != "linux":
    pytest.skip("resident sets are counted by Linux", allow_module_level=True)


def test_resident_memory_does_not_grow_with_the_set(tmp_path):
    small, large = (streaming.row(tmp_path, n, 1, 64, array_record=False) for n in (2_000, 40_000))
    assert large["megabytes"] - small["megabytes"] > 85
    for where in ("process", "children"):
        assert large[where] - small[where] < 30
        assert small[where] > 30  # Python and its libraries: it was counted
    assert large["speed"] > 0


def test_a_generated_set_is_a_prepared_one_and_no_two_images_are_alike(tmp_path):
    streaming.generate(tmp_path, 70)
    faces = data.load("generated", tmp_path, resident_bytes=0)
    assert isinstance(faces.splits["train"].images, DiskImages)
    assert faces.class_counts("train").tolist() == [10] * 7
    assert faces.manifest["exact_duplicates"]["groups"] == 0


def test_the_command_keeps_a_row_for_each_set_and_number_of_workers(tmp_path, monkeypatch, capsys):
    figures = {"speed": 1234.5, "first": 0.5, "process": 300.0, "children": 0.0}
    monkeypatch.setattr(streaming, "measure_apart", lambda *_: figures)
    monkeypatch.setattr(streaming.tables, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(
        sys, "argv", ["streaming", "--counts", "28", "35", "--workers", "0", "3", "--folder", str(tmp_path)]
    )
    streaming.main()
    rows = tables.load(tmp_path / "results" / "streaming.jsonl").rows
    assert {r["command"] for r in rows} == {"python -m benchmarks.speed.streaming --counts 28 35 --workers 0 3"}
    assert [(r["set"], r["workers"]) for r in rows] == [
        (f"{count} images, array", workers) for count in (28, 35) for workers in (0, 3)
    ]
    assert "| 28 images, array | 0 | 0 | 1,234 | 0.5 | 300 | 0 |" in capsys.readouterr().out
    assert tables.render(tables.Table(streaming.COLUMNS, rows)).count("1,234") == 4

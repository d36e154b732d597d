"""Tests that the report is self-contained and reads the test split by --split test only."""

import json

import numpy as np
import pytest

from ferjax import data
from ferjax.errors import InputError
from ferjax.evaluate import predictor
from ferjax.evaluate.benchmark import tables
from ferjax.evaluate.report import models
from ferjax.evaluate.report.commands import main
from ferjax.runtime.show import page
from tests.support.html_reader import Reader
from tests.support.linear_files import exported
from tests.support.untrained_runs import DATA, write_run


def test_a_report_on_a_run_and_a_file(run, tmp_path, capsys):
    path, out = exported(tmp_path / "linear.onnx", run), tmp_path / "out"
    main(["--model", str(run / "run"), str(path), "--data-dir", str(run / "data"), "--out", str(out)])
    reader = Reader((out / "report.html").read_text())
    assert len(reader.sources) >= 12 and all(s.startswith("data:image/png;base64,") for s in reader.sources)
    words = " ".join(reader.words)
    for needed in (
        "Comparison on the same images",
        "Errors",
        "Robustness",
        "validation split",
        "Grad",
    ):
        assert needed in words
    results = json.loads((out / "report.json").read_text())
    assert [r["n"] for r in results] == [42, 42] and results[0]["split"] == "validation"
    text = (out / "report.md").read_text()
    for line in text.splitlines():
        if line.startswith("!["):
            assert (out / line.split("](")[1].rstrip(")")).exists()
    assert "report.html" in capsys.readouterr().out


def test_a_run_compressed_since_or_stopped_in_its_first_epoch_has_no_curves(tmp_path):
    faces = data.load("synthetic_faces", data_dir=tmp_path / "data", **DATA)
    write_run(tmp_path / "run", faces, config={}, history=[], accuracy={})
    blocks = models._training(predictor.open_model(tmp_path / "run"), tmp_path / "curves.png")
    assert not any(isinstance(block, page.Figure) for block in blocks)
    assert ["epochs", "0"] in next(block for block in blocks if isinstance(block, page.Table)).rows


def test_a_report_reads_the_test_split_only_by_name(run, tmp_path, monkeypatch):
    asked, load = [], data.load

    def spy(name, data_dir=None, splits=("train", "validation"), **options):
        asked.append(tuple(splits))
        return load(name, data_dir, splits, **options)

    monkeypatch.setattr(data, "load", spy)
    arguments = ["--model", str(run / "run"), "--data-dir", str(run / "data"), "--without-robustness"]
    main([*arguments, "--out", str(tmp_path / "a")])
    assert {s for splits in asked for s in splits} == {"validation"}
    asked.clear()
    main([*arguments, "--out", str(tmp_path / "b"), "--split", "test"])
    assert {s for splits in asked for s in splits} == {"test"}


def test_models_of_other_classes_are_rejected(run, tmp_path):
    path = exported(tmp_path / "a.onnx", run, class_names=tuple(np.roll(data.EXPRESSIONS, 1)))
    with pytest.raises(InputError, match=r"a\.onnx"):
        main(["--model", str(run / "run"), str(path), "--data-dir", str(run / "data"), "--out", str(tmp_path / "out")])


def test_a_benchmark_is_included_and_other_tables_are_rejected(run, tmp_path):
    table = tmp_path / "benchmark.csv"
    row = {"file": "net.tflite", "runtime": "LiteRT", "threads": 2, "p50_ms": 1.254, "bytes": 320000}
    table.write_text(tables.csv_text([row]))
    arguments = [
        "--model",
        str(run / "run"),
        "--data-dir",
        str(run / "data"),
        "--without-robustness",
        "--out",
        str(tmp_path / "o"),
    ]
    main([*arguments, "--benchmark", str(table)])
    assert (
        "| net.tflite | LiteRT | – | 2 | – | – | 1.25 | – | – | – | – | 0.32 |"
        in (tmp_path / "o" / "report.md").read_text()
    )
    table.write_text("a,b\n1\n")
    for path in (table, tmp_path / "none.csv"):
        with pytest.raises(InputError, match="ferjax benchmark"):
            main([*arguments, "--benchmark", str(path)])

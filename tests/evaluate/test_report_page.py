"""Tests that the report is self-contained and reads the test split by --split test only."""

import html.parser
import json

import numpy as np
import pytest

from ferjax import data
from ferjax.errors import InputError
from ferjax.evaluate import predictor
from ferjax.evaluate.benchmark import tables
from ferjax.evaluate.report import models, page
from ferjax.evaluate.report.commands import main
from tests.support.linear_files import exported
from tests.support.untrained_runs import DATA, write_run


class Reader(html.parser.HTMLParser):
    """Collects tags, and checks that each one is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.words = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.sources.append(dict(attrs)["src"])
        elif tag not in ("meta", "!doctype"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_a_page_is_escaped_and_well_formed(tmp_path):
    blocks = [
        page.Heading(1, "a < b"),
        page.Text("x & y"),
        page.Table(["h|1", "n"], [["<b>", "-1.5"]]),
        page.Code("c<d"),
        page.Figure(tmp_path / "my run (1).png", "seen"),
    ]
    (tmp_path / "my run (1).png").write_bytes(b"x")
    page.write(blocks, tmp_path)
    reader = Reader((tmp_path / "report.html").read_text())
    assert "a < b" in reader.words and "<b>" in reader.words and "c<d" in reader.words
    text = (tmp_path / "report.md").read_text()
    assert "# a < b" in text and "| h\\|1 | n |\n| --- | --- |\n| <b> | -1.5 |" in text and "```\nc<d\n```" in text
    assert "![seen](my%20run%20%281%29.png)" in text


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

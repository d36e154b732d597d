import csv
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from ferjax import data
from ferjax.errors import InputError
from ferjax.evaluate import predictor
from ferjax.evaluate.benchmark import commands as command
from ferjax.evaluate.benchmark import facts, graphs, measuring, tables, worker
from ferjax.runtime.engine import open_engine
from tests.support import small_files
from tests.support.small_files import GRAY


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return small_files.tflite_file(folder / "m.tflite"), small_files.onnx_file(folder / "m.onnx")


def test_a_process_reports_its_start_and_times_each_pass(files):
    for path, name in zip(files, ("LiteRT", "ONNX Runtime"), strict=True):
        with measuring.Process(path, 1, "cpu", warmup=3) as process:
            report = process.report
            assert report["runtime"] == name and 0 < report["load_ms"] < 10_000 and report["first_ms"] > 0
            assert 10e6 < report["memory"] < 200e6
            times = process.times(5)
            assert len(times) == 5 and min(times) > 0 and len(process.times(2)) == 2
        assert process._process.returncode is not None


def test_opencv_costs_memory(files):
    contender = measuring.Contender(files[0], "cpu")
    with measuring.Process(files[0], 1, "cpu", warmup=3) as process:
        alone = process.report["memory"]
    assert alone + 5e6 < measuring.memory_beside_opencv(contender, threads=1, warmup=3) < 200e6


class FakeProcess:
    """Records the order of calls; a pass takes as many ms as the name of the file."""

    turns = None

    def __init__(self, path, threads, provider, *, warmup):
        self.path, self.report = path, {"load_ms": 1.0, "warmup": warmup}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def times(self, passes):
        self.turns.append((self.path, passes))
        return [float(self.path) + i / passes for i in range(passes)]


def test_files_alternate_in_a_rotating_order(monkeypatch):
    monkeypatch.setattr(measuring, "Process", FakeProcess)
    monkeypatch.setattr(FakeProcess, "turns", [])
    chosen = [measuring.Contender(name, "cpu") for name in ("10", "20", "30")]
    rows = measuring.measure(chosen, threads=1, passes=25)
    order = [path for path, _ in FakeProcess.turns]
    assert order[:9] == ["10", "20", "30", "20", "30", "10", "30", "10", "20"] and len(order) == 30
    sizes = {name: [size for path, size in FakeProcess.turns if path == name] for name in ("10", "20", "30")}
    assert all(sum(s) == 25 and len(s) == 10 and max(s) - min(s) <= 1 for s in sizes.values())
    for name, row in zip((10, 20, 30), rows, strict=True):
        times = np.concatenate([np.arange(size) / size for size in sizes["10"]]) + name
        wanted = dict(zip(("p50_ms", "p95_ms", "p99_ms"), np.percentile(times, (50, 95, 99)), strict=True))
        assert {k: row[k] for k in wanted} == pytest.approx(wanted) and row["warmup"] == 100


def test_a_missing_provider_prints_one_note(files, capsys):
    chosen = measuring.contenders([*files, files[1]], ["cpu", "coreml"])
    assert [(c.path.suffix, c.provider) for c in chosen] == [(".tflite", "cpu"), (".onnx", "cpu"), (".onnx", "cpu")]
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 2
    assert ".tflite" in notes[0] and "'coreml'" in notes[1] and "cpu" in notes[1]
    with pytest.raises(InputError, match="coreml"):
        measuring.contenders(files, ["coreml"])
    with pytest.raises(InputError, match=r"'cudo'.*'cuda'"):
        measuring.contenders(files, ["cudo"])


def test_a_broken_file_is_rejected_before_the_measurement(files, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x3a\x02\x0a\x00")
    with pytest.raises(InputError, match=r"broken\.onnx"):
        measuring.contenders([files[0], broken], ["cpu"])
    with pytest.raises(InputError, match="at least 1, got 0 and 100"):
        measuring.measure([], threads=1, passes=0)


def test_a_worker_that_exits_is_reported(files, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InputError, match=r"m\.tflite.*exit code 1"):
        measuring.Process(files[0], 1, "cpu", warmup=1).__enter__()


def test_examples_fit_the_input(tmp_path, files):
    batch = worker.example(open_engine(files[1], threads=1, provider="cpu"), "m")
    assert batch.dtype == np.float32 and batch.shape == (1, 6, 5, 1) and -2 <= batch.min() < batch.max() <= 2
    int8 = open_engine(small_files.tflite_file(tmp_path / "i.tflite", int8=True), threads=1, provider="cpu")
    batch = worker.example(int8, "i")
    assert batch.dtype == np.int8 and batch.min() < -100 and batch.max() > 80
    with pytest.raises(InputError, match=r"\(1, -1, 5, 1\)"):
        worker.example(int8._replace(input=int8.input._replace(shape=(1, -1, 5, 1))), "free")


def test_node_counts_before_and_after_the_optimiser(files, tmp_path):
    assert graphs.node_counts(files[0]) == (2, 1)  # XNNPACK takes reshape and matrix product together
    nodes = [helper.make_node("Identity", ["image"], ["same"]), helper.make_node("Relu", ["same"], ["once"])]
    nodes += [helper.make_node("Relu", ["image"], ["unused"]), helper.make_node("Neg", ["once"], ["logits"])]
    image, logits = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("image", "logits"))
    graph = helper.make_graph(nodes, "g", [image], [logits])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    assert graphs.node_counts(path) == (4, 2)


OPTIONS = {"size": 24, "train": 14, "validation": 35, "test": 7}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A file for rendered faces, its data folder, and the accuracy it must have."""
    folder = tmp_path_factory.mktemp("trained")
    faces = data.load("synthetic_faces", folder, ("validation",), **OPTIONS)
    spec = GRAY.replace(
        class_names=faces.class_names,
        input_size=(24, 24),
        mean=faces.mean,
        std=faces.std,
        dataset="synthetic_faces",
        dataset_args=OPTIONS,
        architecture="resnet20",
        macs=0,
    )
    split = faces.splits["validation"]
    right = small_files.expected_logits(spec, split.images).argmax(1) == split.labels
    return small_files.onnx_file(folder / "trained.onnx", spec), folder, right


def test_accuracy_is_that_of_the_validation_split(trained, files, capsys):
    path, folder, right = trained
    specs = {path: facts.read_spec(path), files[0]: None}
    (row,) = facts.score(specs, str(folder), None).values()
    assert row["accuracy"] == right.mean() and row["images"] == 35
    assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]
    (row,) = facts.score(specs, str(folder), 3).values()
    assert row["accuracy"] == pytest.approx(right[[0, 17, 34]].mean()) and row["images"] == 3
    other = specs[path].replace(dataset="fer2013", dataset_args={})
    assert facts.score({path: other, files[0]: other}, str(folder), None) == {}
    assert capsys.readouterr().err.count("no accuracy for") == 1
    smaller = specs[path].replace(input_size=(8, 8))
    assert facts.score({path: smaller}, str(folder), None) == {}
    assert "(24, 24, 1)" in capsys.readouterr().err


def test_a_bgr_file_gets_bgr_images(tmp_path):
    spec = small_files.RGB.replace(color_order="bgr")
    path, images = small_files.onnx_file(tmp_path / "m.onnx", spec), small_files.images(spec, 50)
    wanted = small_files.expected_logits(spec, images[..., ::-1])
    np.testing.assert_allclose(predictor.open_model(path).logits(images), wanted, atol=1e-5)
    assert facts.accuracy(path, images, wanted.argmax(1))["accuracy"] == 1


def test_macs_are_stored_or_counted_with_jax(trained, monkeypatch):
    spec = facts.read_spec(trained[0])
    # Stem and six convolutions on 24x24; then two stages of equal work: half as wide first, five more, the shortcut.
    first = 24**2 * 9 * (16 + 6 * 16 * 16)
    later = 12**2 * (9 * 16 * 32 + 5 * 9 * 32 * 32 + 16 * 32)
    macs = first + 2 * later + 64 * 7
    assert facts.macs(spec) == macs
    assert facts.macs(spec.replace(macs=7)) == 7
    assert facts.macs(spec.replace(architecture="own")) is None
    monkeypatch.setitem(sys.modules, "ferjax.models.costs", None)
    monkeypatch.setitem(sys.modules, "ferjax.models", None)
    assert facts.macs(spec) is None


def test_without_matplotlib_there_is_no_plot_but_a_note(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tables, "markdown", lambda *_: "")
    monkeypatch.setattr(tables, "csv_text", lambda *_: "")
    monkeypatch.delattr("ferjax.evaluate.report", raising=False)
    monkeypatch.setitem(sys.modules, "ferjax.evaluate.report", None)
    assert command.save([{"file": "a.tflite", "accuracy": 0.5}], tmp_path, "x") == ["benchmark.csv", "benchmark.md"]
    assert "pip install matplotlib" in capsys.readouterr().err


def test_the_command_writes_table_csv_markdown_and_plot(trained, tmp_path, capsys):
    path, folder, right = trained
    reference = small_files.tflite_file(tmp_path / "reference.tflite", embed=False)
    out = tmp_path / "out"
    arguments = [str(path), str(reference), "--passes", "20", "--data-dir", str(folder), "--out", str(out)]
    with pytest.raises(InputError, match="--passes must be at least 1, got 0"):
        command.main([*arguments, "--passes", "0"])
    command.main(arguments)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("file") and len(shown) == 7 and "reference.tflite" in shown[3]
    assert sorted(os.listdir(out)) == ["benchmark.csv", "benchmark.md", "size_accuracy.png"]
    with open(out / "benchmark.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    fastest = min(rows, key=lambda row: float(row["p50_ms"]))
    assert shown[5].startswith(f"fastest here: {fastest['file']}, ") and f" {fastest['threads']} thread" in shown[5]
    assert [(r["file"], r["threads"]) for r in rows] == [(f, t) for f in (path.name, reference.name) for t in "12"]
    for row in rows:
        assert 0 < float(row["p50_ms"]) <= float(row["p95_ms"]) <= float(row["p99_ms"])
        assert float(row["memory_opencv"]) > float(row["memory"]) and int(row["nodes"]) >= int(row["nodes_optimised"])
    assert float(rows[0]["accuracy"]) == right.mean() and int(rows[0]["bytes"]) == path.stat().st_size
    assert rows[2]["accuracy"] == rows[2]["parameters"] == rows[2]["macs"] == ""
    page = (out / "benchmark.md").read_text()
    assert f"`ferjax benchmark {' '.join(arguments)}`" in page and "| reference.tflite |" in page
    with Image.open(out / "size_accuracy.png") as image:
        image.load()


def test_files_of_one_name_are_listed_by_path_and_no_accuracy_means_no_plot(tmp_path, capsys):
    paths = []
    for name in "ab":
        (tmp_path / name).mkdir()
        paths.append(small_files.onnx_file(tmp_path / name / "m.onnx", embed=False))
    rows = command.benchmark(paths, passes=2)
    assert [row["file"] for row in rows] == [str(paths[0])] * 2 + [str(paths[1])] * 2
    assert command.save(rows, tmp_path / "out", "x") == ["benchmark.csv", "benchmark.md"]
    assert "no size_accuracy.png" in capsys.readouterr().err


def test_the_command_needs_no_jax(files):
    script = (
        "import sys; sys.modules['jax'] = None; from ferjax.evaluate.benchmark import commands; "
        "commands.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", script, str(files[1]), "--passes", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("m.onnx") == 3, done.stderr


def test_a_table_with_an_invalid_number_is_rejected(tmp_path):
    path = tmp_path / "b.csv"
    path.write_text(tables.csv_text([{"file": "1", "p50_ms": 1.25}]))
    assert tables.read_csv(path)[0]["p50_ms"] == 1.25
    path.write_text(tables.csv_text([{"file": "1", "p50_ms": "1,25"}]))
    with pytest.raises(InputError, match=r"b\.csv .*p50_ms is '1,25'"):
        tables.read_csv(path)


def test_cells_are_readable_or_a_dash():
    row = {"file": "m", "p50_ms": 0.0123, "p95_ms": 12.345, "p99_ms": 345.6, "bytes": 331_000, "memory": 61_400_000}
    row |= {"parameters": 272_000, "nodes": 30, "nodes_optimised": 3, "accuracy": 0.6389}
    row |= {"accuracy_low": 0.6231, "accuracy_high": 0.6545}
    header, _, cells = (line.strip("| ").split(" | ") for line in tables.markdown([row], "x").splitlines()[2:5])
    shown = dict(zip(header, cells, strict=True))
    assert {k: v for k, v in shown.items() if v != "–"} == {
        "file": "m",
        "p50 ms": "0.012",
        "p95 ms": "12.35",
        "p99 ms": "346",
        "size MB": "0.33",
        "memory MB": "61",
        "parameters M": "0.27",
        "nodes": "30 → 3",
        "accuracy (95 %)": "63.9% (62.3% to 65.5%)",
    }
    narrow, wide = tables.screen([row, row | {"file": "longer"}]).splitlines()[1:]
    assert narrow.index("0.012") == wide.index("0.012")
    assert "0.0123" in tables.csv_text([row])

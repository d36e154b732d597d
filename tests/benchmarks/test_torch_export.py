import sys
import types

import pytest

import benchmarks.speed
from benchmarks.speed import torch_export
from ferjax.errors import InputError
from ferjax.evaluate.benchmark import measuring
from tests.support import small_files
from tests.support.small_files import GRAY
from tools import tables

pytestmark = pytest.mark.slow

MEDIANS = {"torch.onnx": 2.0, "float.onnx": 2.1, "half.onnx": 0.1, "int8.onnx": 0.8, "int8.tflite": 0.5}


@pytest.fixture
def folder(tmp_path):
    """Files of one network, and a reference row that carries no spec."""
    exports = tmp_path / "exports"
    exports.mkdir()
    for name, quantization in (("float", "none"), ("half", "float16"), ("int8", "int8")):
        small_files.onnx_file(exports / f"{name}.onnx", GRAY.replace(quantization=quantization))
    small_files.tflite_file(exports / "int8.tflite", GRAY.replace(quantization="int8"))
    small_files.onnx_file(exports / "other.onnx", embed=False)
    return exports


@pytest.fixture
def no_torch(monkeypatch):
    """A file in place of PyTorch's export, and medians in place of the clock."""
    monkeypatch.setattr(
        torch_export, "export_torch", lambda network, spec, path: small_files.onnx_file(path.with_name("torch.onnx"))
    )
    monkeypatch.setattr(
        measuring,
        "measure",
        lambda chosen, threads, passes: [{"p50_ms": MEDIANS[c.path.name] / threads} for c in chosen],
    )


def test_a_row_compares_with_pytorchs_file(folder, no_torch, tmp_path):
    (network, files), *more = torch_export.by_network([folder]).items()
    assert network == "linear" and not more and len(files) == 4
    reference = torch_export.export_torch(network, GRAY, tmp_path / "x.onnx")
    row = torch_export.measure(network, files, reference, 2, 10)
    assert (row["torch"], row["onnx"], row["int8"], row["fastest"]) == (1.0, 1.05, 0.25, "int8.tflite")
    assert row["onnx_over_torch"] == pytest.approx(1.05) and row["torch_over_int8"] == pytest.approx(4)
    alone = {p: s for p, s in files.items() if s.quantization == "none"}
    assert torch_export.measure(network, alone, reference, 1, 10)["torch_over_int8"] is None


def test_the_command_saves_a_row_for_each_number_of_threads(folder, no_torch, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    real = tables.importlib.metadata.version
    monkeypatch.setattr(tables.importlib.metadata, "version", lambda p: "2" if p == "torch" else real(p))
    monkeypatch.setattr(sys, "argv", ["torch_export", str(folder)])
    torch_export.main()
    assert "| linear | 2 | 1.000 | 1.050 | int8.tflite | 0.250 | 4.00 |" in capsys.readouterr().out
    rows = tables.load(tmp_path / "results" / "export_latency.jsonl").rows
    assert [row["name"] for row in rows] == ["linear, 1", "linear, 2"]
    assert rows[0]["all"] == {k: v for k, v in MEDIANS.items() if k != "torch.onnx"}


def test_pytorchs_network_has_the_arguments_of_ours(monkeypatch, tmp_path):
    made, export_torch = [], torch_export.export_torch

    def create(name, classes, *, stem_stride=2):
        made.append((name, classes, stem_stride))
        weight = types.SimpleNamespace(numel=lambda: GRAY.parameters)
        network = types.SimpleNamespace(parameters=lambda: [weight])
        network.eval = lambda: network
        return network

    onnx = types.SimpleNamespace(export=lambda *_, **__: None)
    stands_in = types.SimpleNamespace(manual_seed=lambda seed: None, zeros=lambda *shape: shape, onnx=onnx)
    networks = types.SimpleNamespace(create=create, list_models=lambda: ["linear"])
    monkeypatch.setitem(sys.modules, "torch", stands_in)
    monkeypatch.setitem(sys.modules, "benchmarks.speed.torch_models", networks)
    monkeypatch.setattr(benchmarks.speed, "torch_models", networks, raising=False)
    for arguments in ({}, {"stem_stride": 1}):
        export_torch("linear", GRAY.replace(architecture_args=arguments), tmp_path / "torch.onnx")
    assert made == [("linear", 3, 2), ("linear", 3, 1)]
    with pytest.raises(InputError, match="PyTorch's linear has no widths: export one without"):
        export_torch("linear", GRAY.replace(architecture_args={"widths": (1, 2)}), tmp_path / "torch.onnx")


def test_folders_without_what_is_compared_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no exported file in .*; run python export\.py first"):
        torch_export.by_network([tmp_path])
    small_files.tflite_file(tmp_path / "m.tflite")
    with pytest.raises(InputError, match=r"linear lacks its float32 \.onnx file"):
        torch_export.by_network([tmp_path])

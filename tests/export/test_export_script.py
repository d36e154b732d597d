"""Tests the export command."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from ferjax import data, errors, runtime
from ferjax.export import commands as script
from ferjax.export import formats, pipeline, tflite
from ferjax.weights import checkpoint, single_file
from tests.support import ROOT
from tests.support.untrained_runs import DATA, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of an untrained network, and its data."""
    folder = tmp_path_factory.mktemp("export")
    faces = data.load("synthetic_faces", data_dir=folder / "data", **DATA)
    write_run(folder / "run", faces)
    return folder


def command(run, *arguments):
    return ["--model", run / "run", "--data-dir", run / "data", *arguments]


def main(run, *arguments):
    script.main([str(a) for a in command(run, *arguments)])


@pytest.fixture(scope="module")
def exported(run):
    main(run, "--out", run / "out", "--quantization", "none", "weight-only")
    return run / "out"


def test_weights_in_a_file_are_exported_as_their_run(run, exported):
    single_file.save(run / "w.safetensors", checkpoint.read(run / "run")[0])
    arguments = ["--model", run / "w.safetensors", "--data-dir", run / "data", "--out", run / "from_file"]
    script.main([str(a) for a in [*arguments, "--format", "tflite", "--quantization", "none"]])
    ours, theirs = ((folder / "baseline_cnn5.tflite").read_bytes() for folder in (run / "from_file", exported))
    assert ours == theirs


def test_files_have_their_spec_and_accuracy(run, exported):
    record = json.loads((exported / "export.json").read_text())
    names = ["baseline_cnn5.tflite", "baseline_cnn5_weight-only.tflite", "baseline_cnn5.onnx"]
    assert [f["file"] for f in record["files"]] == [*names, "baseline_cnn5_weight-only.onnx"]
    assert {p.name for p in exported.iterdir()} == {
        "export.json",
        *(f["file"] for f in record["files"]),
        *(f"{f['file']}.md" for f in record["files"]),
    }
    faces = data.load("synthetic_faces", data_dir=run / "data", **DATA)
    for entry in record["files"]:
        path = exported / entry["file"]
        model = runtime.load(path)
        assert entry["bytes"] == path.stat().st_size and entry["images"] == 70 and not entry["faults"]
        assert model.spec.quantization == entry["quantization"] and model.spec.macs > 0
        oldest = {".tflite": "TensorFlow Lite 2.", ".onnx": "ONNX Runtime 1."}[path.suffix]
        assert model.spec.least_runtime.startswith(oldest)
        assert f"{model.spec.least_runtime} or newer" in path.with_name(f"{path.name}.md").read_text("utf-8")
        assert model.spec.params_sha256 == record["spec"]["params_sha256"]
        assert model.spec.accuracy == {"validation": entry["accuracy"]}
        validation = faces.splits["validation"]
        right = model.logits(validation.images).argmax(1) == validation.labels
        assert right.mean() == pytest.approx(entry["accuracy"])


def test_it_prints_the_recommended_file_and_the_next_command(run, capsys):
    main(run, "--out", run / "one", "--format", "tflite", "--quantization", "none")
    said = capsys.readouterr().out
    assert "max |Δp|" in said and "passes" in said
    assert f"ship {run / 'one' / 'baseline_cnn5.tflite'}" in said
    assert f"next: ferjax benchmark {run / 'one'}/*.tflite" in said


def test_an_export_is_replaced_with_overwrite_only(run, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ("--out", out, "--format", "tflite", "--quantization", "none")
    main(run, *arguments)
    (out / "note").write_text("mine")
    with pytest.raises(errors.InputError, match="--overwrite"):
        main(run, *arguments)
    with pytest.raises(errors.InputError, match="contains note"):
        main(run, *arguments, "--overwrite")
    (out / "note").rename(out / "mine.tflite")
    with pytest.raises(errors.InputError, match=r"contains mine\.tflite"):
        main(run, *arguments, "--overwrite")
    (out / "mine.tflite").unlink()  # still there
    main(run, *arguments, "--overwrite")
    assert sorted(p.name for p in out.iterdir()) == ["baseline_cnn5.tflite", "baseline_cnn5.tflite.md", "export.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_no_export_is_never_replaced(run, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(errors.InputError, match="not an export"):
        main(run, "--out", tmp_path, "--overwrite")
    assert (tmp_path / "thesis.tex").exists()


def spoiled(source):
    """Converts with one wrong layer."""
    network = source.network
    params = {k: dict(v) for k, v in network.variables["params"].items()}
    kernel = np.array(params["conv2"]["conv"]["kernel"])
    kernel[..., 0] *= -3
    params["conv2"]["conv"] = {**params["conv2"]["conv"], "kernel": kernel}
    wrong = network._replace(variables={**network.variables, "params": params})
    return tflite.float32(dataclasses.replace(source, network=wrong))


def test_a_file_that_fails_is_removed_and_its_layer_named(run, tmp_path, monkeypatch):
    rows = (formats.Format("tflite", "none", {formats.CONVOLUTIONAL: spoiled}, formats.EXACT),)
    monkeypatch.setattr(formats, "FORMATS", rows)
    with pytest.raises(errors.InputError, match=r"probabilities differ by .*; first deviating layer: stage2") as error:
        main(run, "--out", tmp_path / "out")
    assert "stage1" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_what_passes_is_kept_beside_what_fails(run, tmp_path, monkeypatch, capsys):
    rows = (
        formats.Format("tflite", "none", {formats.CONVOLUTIONAL: tflite.float32}, formats.EXACT),
        formats.Format("tflite", "float16", {formats.CONVOLUTIONAL: spoiled}, formats.HALF),
    )
    monkeypatch.setattr(formats, "FORMATS", rows)
    main(run, "--out", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "baseline_cnn5.tflite",
        "baseline_cnn5.tflite.md",
        "export.json",
    ]
    said = capsys.readouterr()
    assert "removed" in said.out and "removed baseline_cnn5_float16.tflite" in said.err


def test_a_form_for_newer_runtimes_is_made_if_the_first_fails(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        formats, "FORMATS", (formats.Format("tflite", "dynamic", {formats.CONVOLUTIONAL: spoiled}, formats.EXACT),)
    )
    monkeypatch.setitem(formats.NEWER, spoiled, tflite.float32)
    main(run, "--out", tmp_path / "out")
    (entry,) = json.loads((tmp_path / "out" / "export.json").read_text())["files"]
    assert entry["agreement"] == 1 and not entry["faults"]
    assert (tmp_path / "out" / "baseline_cnn5_dynamic.tflite").exists()


def overflowing(source):
    """Converts to a file with non-finite logits."""
    network = source.network
    params = {k: dict(v) for k, v in network.variables["params"].items()}
    params["conv2"]["conv"] = {k: np.full_like(v, np.inf) for k, v in params["conv2"]["conv"].items()}
    wrong = network._replace(variables={**network.variables, "params": params})
    return tflite.float32(dataclasses.replace(source, network=wrong))


def test_a_file_with_non_finite_logits_does_not_affect_the_others(run, tmp_path, monkeypatch, capsys):
    rows = (
        formats.Format("tflite", "none", {formats.CONVOLUTIONAL: tflite.float32}, formats.EXACT),
        formats.Format("tflite", "float16", {formats.CONVOLUTIONAL: overflowing}, formats.HALF),
    )
    monkeypatch.setattr(formats, "FORMATS", rows)
    main(run, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "baseline_cnn5.tflite").exists()
    assert "float16.tflite: the logits are not finite; first deviating layer: stage2" in capsys.readouterr().err
    entry = json.loads((tmp_path / "out" / "export.json").read_text())["files"][1]
    assert entry["faults"] and entry["max_difference"] is None


def test_the_working_directory_is_not_replaced(run, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(errors.InputError, match=r"--out \. must not be or contain"):
        main(run, "--out", ".")


def test_the_fastest_ships_and_of_equals_the_smallest():
    def one(name, milliseconds, size):
        return pipeline.Exported(name, formats.FORMATS[0], size, None, [], "", milliseconds)

    results = [one("slow", 2.0, 10), one("fast", 1.0, 90), one("as fast", 1.04, 80), one("refused", None, 1)]
    assert pipeline.best(results).file == "as fast"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--quantization", "int9"], "'int9'.*'int8'"),
        (["--format", "tflight"], "'tflight'.*'tflite'"),
        (["--images", "10"], "at least 512.*got 10"),
        (["--images", "-1"], "at least 512.*got -1"),
        (["--format", "onnx", "--quantization", "dynamic"], "baseline_cnn5 supports only"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, said, run, tmp_path):
    with pytest.raises(errors.InputError, match=said):
        main(run, "--out", tmp_path / "out", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_data_of_another_size_cannot_calibrate(run, tmp_path, monkeypatch):
    load = data.load
    monkeypatch.setattr(data, "load", lambda *a, **k: load(*a, **{**k, "size": 28}))
    with pytest.raises(errors.InputError, match=r"takes images of shape \(24, 24, 1\)"):
        main(run, "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_half_written_checkpoint_is_one_line_and_exit_2(run, tmp_path):
    shutil.copytree(run / "run", tmp_path / "run")
    for kind in checkpoint.KINDS:  # a run with one intact checkpoint is exported from it
        largest = max((tmp_path / "run" / kind).rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
        largest.write_bytes(largest.read_bytes()[:100])
    command = [sys.executable, "export.py", "--model", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (
        done.stderr.strip().splitlines()[-1].startswith("ferjax: error: ") and "no readable checkpoint" in done.stderr
    )
    assert not (tmp_path / "out").exists()

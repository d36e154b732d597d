"""Tests `ferjax compress`, and that its results can be trained, evaluated and exported."""

import json

import jax
import numpy as np
import pytest

from ferjax import data, models, runtime
from ferjax.compress import budget, pipeline
from ferjax.compress.commands import main
from ferjax.errors import InputError
from ferjax.evaluate import inference, scoring
from ferjax.export import commands as export_script
from ferjax.export.conversion import normalize
from ferjax.prune import slim
from ferjax.train import experiment
from ferjax.weights import Trained, checkpoint, single_file
from tests.support.small_files import run_onnx_as_written
from tests.support.untrained_runs import DATA, write_run

MODEL = {"name": "baseline_cnn5", "widths": [16, 24]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of an untrained network with confident predictions, and its data."""
    folder = tmp_path_factory.mktemp("compress")
    faces = data.load("synthetic_faces", data_dir=folder / "data", **DATA)
    write_run(folder / "run", faces, model=MODEL, gain=40, config={}, history=[])
    return folder


def command(run, out, *arguments, model="run"):
    main([str(a) for a in ("--model", run / model, "--out", out, "--data-dir", run / "data", *arguments)])
    return checkpoint.read(out)[0]


def export(run, model, out, *arguments):
    options = ["--model", model, "--out", out, "--data-dir", run / "data", *arguments]
    export_script.main([str(option) for option in options])
    return {entry["file"]: entry for entry in json.loads((out / "export.json").read_text())["files"]}


@pytest.fixture(scope="module")
def rounded(run):
    command(run, run / "rounded", "--bits", "8")
    return run / "rounded"


def test_a_file_of_weights_is_compressed_as_its_run_is(run, tmp_path):
    spec, variables = checkpoint.read(run / "run")[0]
    single_file.save(run / "w.safetensors", Trained(spec, variables))
    results = [command(run, tmp_path / name, "--parameters", "0.6", model=name) for name in ("run", "w.safetensors")]
    (small, arrays), (same, again) = results
    assert same == small and small.parameters < spec.parameters
    jax.tree.map(np.testing.assert_array_equal, again, arrays)


@pytest.mark.slow
def test_what_is_rounded_exports_as_integers_alone(run, rounded, tmp_path):
    spec, variables = checkpoint.read(rounded)[0]
    assert spec.quantization == "qat" and spec.architecture_args["folded"] and "ranges" in variables
    files = export(run, rounded, tmp_path / "files")
    assert set(files) == {"baseline_cnn5_qat.tflite", "baseline_cnn5_qat.onnx"}
    images = data.load("synthetic_faces", data_dir=run / "data", **DATA).splits["validation"].images
    logits = inference.logits(Trained(spec, variables), images)
    for name, entry in files.items():
        # the mean over the last feature map is the only floating-point operation
        assert entry["float_operations"].keys() <= {"SUM", "MUL", "ReduceSum", "Mul", "GlobalAveragePool"}
        assert entry["agreement"] >= 0.995 and not entry["faults"]
        found = runtime.load(tmp_path / "files" / name)
        assert found.spec.quantization == "qat"
        step = 1.01 * np.diff(np.unique(logits)).min()  # the files answer on training's grid, a step beside it at most
        pixels = normalize(spec, images)
        answers = (
            found.logits(images) if name.endswith("tflite") else run_onnx_as_written(tmp_path / "files" / name, pixels)
        )
        assert np.abs(answers - logits).max() <= step
    with pytest.raises(InputError, match=r"int8.*8-bit weights.*qat"):
        export(run, rounded, tmp_path / "no", "--quantization", "int8")
    with pytest.raises(InputError, match=r"qat.*8-bit weights.*--config.quant.bits=8"):
        export(run, run / "run", tmp_path / "no", "--quantization", "qat")
    plain = export(run, run / "run", tmp_path / "plain", "--quantization", "none", "int8")
    assert plain["baseline_cnn5.onnx"]["float_operations"]["Conv"] == 2
    assert plain["baseline_cnn5.tflite"]["float_operations"]["FULLY_CONNECTED"] == 1
    assert plain["baseline_cnn5_int8.tflite"]["float_operations"] == {}
    assert plain["baseline_cnn5_int8.onnx"]["float_operations"] == {}


def test_channels_that_were_pruned_are_removed_and_every_command_takes_the_rest(run, tmp_path, capsys):
    options = ("--sparsity", "0.5", "--structure", "filter", "--distribution", "uniform", "--keep", "^head/")
    pruned, slimmed = (
        command(run, tmp_path / name, *options, *more) for name, more in (("p", ()), ("s b", ("--dead", "--fold")))
    )
    assert slimmed[0].architecture_args["widths"] == [8, 16]  # 12 of 24 remain, rounded up to a multiple of 8
    images = data.load("synthetic_faces", data_dir=run / "data", **DATA).splits["validation"].images
    logits = [inference.logits(network, images) for network in (pruned, slimmed)]
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-4)
    said = capsys.readouterr().out
    assert "3×3×16×24" in said and "3×3×8×16" in said and "next: ferjax train --config compress/finetune" in said
    assert f"'--config.init.workdir={tmp_path / 's b'}'\n" in said and f"--out '{tmp_path / 's b'}-files'\n" in said
    record = json.loads((tmp_path / "s b" / "compress.json").read_text())
    before, after = record["before"], record["after"]
    assert before["parameters"] == before["nonzeros"] + 40 + 7  # shifts and biases begin at zero
    assert after["macs"] < 0.5 * before["macs"] and after["nonzeros"] < after["parameters"] < before["parameters"]
    assert record["ratio"] == pytest.approx(before["parameters"] / after["nonzeros"])
    scored = scoring.evaluate(tmp_path / "s b", data_dir=run / "data")
    assert scored["accuracy"] == after["accuracy"] == slimmed[0].accuracy["validation"]
    made = {
        "data": {"name": "synthetic_faces", **DATA},
        "init": {"workdir": str(tmp_path / "s b"), "network": True},
        "optim": {"name": "adam", "learning_rate": 1e-3},
        "fit": {"epochs": 1, "batch_size": 35},
    }
    experiment.train(made, workdir=tmp_path / "on", data_dir=run / "data", progress=False)
    assert checkpoint.read(tmp_path / "on")[0].spec.architecture_args == slimmed[0].architecture_args


def test_whole_filters_leave_the_classes_alone(run, tmp_path):
    _, variables = command(run, tmp_path / "p", "--sparsity", "0.5", "--structure", "filter")
    head = variables["params"]["head"]["out"]["kernel"]
    assert (head != 0).any(0).all() and (variables["params"]["conv1"]["conv"]["kernel"] == 0).all((0, 1, 2)).any()


def test_channels_are_scored_by_the_networks_own_order_of_classes(run, tmp_path, monkeypatch):
    spec, variables = checkpoint.read(run / "run")[0]
    single_file.save(tmp_path / "w.safetensors", Trained(spec.replace(class_names=spec.class_names[::-1]), variables))
    seen = []
    monkeypatch.setattr(pipeline, "gradients", lambda network, images, labels: seen.append((images, labels)))
    command(run, tmp_path / "out", "--macs", "0.6", "--score", "gradient_weight", model=tmp_path / "w.safetensors")
    train = data.load("synthetic_faces", data_dir=run / "data", **DATA).splits["train"]
    ((images, labels),) = seen
    np.testing.assert_array_equal(images, train.images)
    np.testing.assert_array_equal(labels, 6 - train.labels)


def test_what_cannot_be_written_whole_is_not_there(run, tmp_path, monkeypatch):
    save = checkpoint.save

    def fails(workdir, kind, *arguments, **more):
        if kind == "best":
            raise InputError("the disk is full")
        save(workdir, kind, *arguments, **more)

    monkeypatch.setattr(checkpoint, "save", fails)
    with pytest.raises(InputError, match="the disk is full"):
        command(run, tmp_path / "out", "--macs", "0.6", "--score", "magnitude")
    assert list(tmp_path.iterdir()) == []


def test_a_size_and_folding_go_together(run, tmp_path):
    spec, variables = command(run, tmp_path / "out", "--target-bytes", "1000000", "--fold")
    assert spec.architecture_args["folded"] and "batch_stats" not in variables


def test_a_network_that_rounds_has_a_latency(run, rounded):
    network = checkpoint.read(rounded)[0]
    assert budget.latency(network.spec)(network.module) > 0


def test_a_limit_on_work_or_size_is_kept(run, tmp_path):
    dense = models.create(**{k: v for k, v in MODEL.items() if k != "name"}, name=MODEL["name"])
    for option, price in (("--macs", slim.macs((24, 24, 1))), ("--parameters", slim.parameters((24, 24, 1)))):
        network = command(run, tmp_path / option, option, "0.6", "--score", "magnitude")
        assert price(network.module) <= 0.6 * price(dense)


def test_a_latency_is_measured(run):
    spec = checkpoint.read(run / "run")[0].spec
    milliseconds = budget.latency(spec)
    times = [milliseconds(models.create("baseline_cnn5", widths=widths)) for widths in ((8, 8), (128, 256))]
    assert 0 < times[0] < times[1]


@pytest.mark.slow
def test_a_size_of_the_file_decides_on_widths_and_bits(run, tmp_path):
    spec, variables = checkpoint.read(run / "run")[0]
    floats = budget.file_bytes(Trained(spec, variables))
    spec, _ = command(run, tmp_path / "generous", "--target-bytes", floats)
    assert spec.quantization == "none" and spec.architecture_args["widths"] == [16, 24]  # it fits as it is
    (file,) = export(
        run, tmp_path / "generous", tmp_path / "files", "--format", "tflite", "--quantization", "none"
    ).values()
    assert floats - 60 < file["bytes"] <= floats  # what was priced is what is shipped
    with pytest.raises(InputError, match=r"does not fit into 3,000 bytes: the smallest file has ([\d,]+)") as error:
        command(run, tmp_path / "tiny", "--target-bytes", "3000")
    nearest = int(str(error.value).split("smallest file has ")[1].split()[0].replace(",", ""))
    spec, variables = command(run, tmp_path / "between", "--target-bytes", (floats + nearest) // 2)
    assert nearest < budget.file_bytes(Trained(spec, variables)) <= (floats + nearest) // 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--sparsity, --dead, --macs, "),
        (["--bits", "7"], "--bits must be 8 or 4"),
        (["--bits", "8", "--target-bytes", "90000"], "--target-bytes .*--bits"),
        (["--sparsity", "1.5"], r"sparsity must be in \[0, 1\), got 1\.5"),
        (["--sparsity", "0.5", "--keep", "hed/"], "the rule 'hed/' matches no parameter"),
        (["--sparsity", "0.5", "--score", "magnitud"], "'magnitud'.*'magnitude'"),
        (["--macs", "nan"], "--macs must be positive, got nan"),
        (["--macs", "10"], r"cannot be slimmed to 10: its minimum is \d+"),
    ],
)
def test_invalid_arguments_are_rejected_and_nothing_is_written(run, tmp_path, arguments, said):
    with pytest.raises(InputError, match=said):
        command(run, tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="choose another --out"):
        command(run, tmp_path / "full", "--fold")


def test_options_of_pruning_require_a_sparsity():
    for key, value in (("keep", ("head",)), ("structure", "filter"), ("distribution", "uniform")):
        with pytest.raises(InputError, match=f"--{key} requires --sparsity"):
            pipeline._check(pipeline.Steps(macs=0.5, **{key: value}))
    pipeline._check(pipeline.Steps(macs=0.5, score="magnitude"))

"""The row of a trained model in the results: what is scored, what is counted, what is said."""

import numpy as np
import pytest

from benchmarks.studies import accuracy
from ferjax import data
from ferjax.errors import InputError
from ferjax.weights import checkpoint
from tests.support import small_files
from tests.support.untrained_runs import DATA, write_run, write_timed_run
from tools import tables

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("accuracy")
    faces = data.load("synthetic_faces", data_dir=folder / "data", **DATA)
    spec = write_timed_run(folder / "seed0", faces)
    write_timed_run(folder / "seed1", faces, accuracy=0.54)
    small_files.onnx_file(folder / "net.onnx", spec.replace(quantization="qat"))
    return folder


def row(made, *names, **more):
    return accuracy.row([made / name for name in names], data_dir=made / "data", **more)


def test_a_run_is_scored_with_its_intervals(made):
    found = row(made, "seed0")
    confusion = np.array(found["confusion"])
    assert found["n"] == confusion.sum() == 70
    assert found["accuracy"] == pytest.approx(100 * np.trace(confusion) / 70)
    assert found["low"] <= found["accuracy"] <= found["high"] and found["high"] - found["low"] > 5
    assert found["own"] is None and found["bytes"] is None and found["paper"] is None and found["mean"] is None
    assert found["name"] == "test, baseline_cnn5, none (labels only), float32"
    assert (found["how"], found["quantization"]) == ("none (labels only)", "float32")
    assert (found["epochs"], found["best_epoch"], found["minutes"], found["seed"]) == ("3", 2, 1.5, 4)


def test_the_file_is_scored_where_there_is_one_and_seeds_are_counted(made):
    found = row(made, "seed0", "seed1", file=made / "net.onnx")
    spec = checkpoint.read(made / "seed0")[0].spec
    split = data.load("synthetic_faces", data_dir=made / "data", **DATA).splits["validation"]
    right = small_files.expected_logits(spec, split.images).argmax(1) == split.labels
    assert found["accuracy"] == pytest.approx(100 * right.mean())
    assert found["bytes"] == (made / "net.onnx").stat().st_size and found["quantization"] == "int8 (QAT)"
    assert found["mean"] == pytest.approx(52) and found["spread"] == pytest.approx(8**0.5) and found["seeds"] == 2
    assert found["name"] == "test, baseline_cnn5, none (labels only), int8 (QAT)"
    assert row(made, "seed0", how="three")["how"] == "three"


def test_what_does_not_belong_together_is_refused(made, tmp_path):
    other = small_files.onnx_file(tmp_path / "other.onnx")
    with pytest.raises(InputError, match="was exported from"):
        row(made, "seed0", file=other)
    faces = data.load("synthetic_faces", data_dir=made / "data", **DATA)
    write_run(tmp_path / "else", faces, architecture="resnet20", accuracy={"validation": 0.1})
    with pytest.raises(InputError, match="no seeds of one"):
        row(made, "seed0", tmp_path / "else")
    write_timed_run(tmp_path / "untimed", faces)
    (tmp_path / "untimed" / "timing.jsonl").unlink()
    with pytest.raises(InputError, match="training time is unknown"):
        accuracy.row([tmp_path / "untimed"], data_dir=made / "data")


def test_epochs_count_those_of_the_start_and_say_what_is_missing(made, tmp_path):
    faces = data.load("synthetic_faces", data_dir=made / "data", **DATA)
    write_timed_run(tmp_path / "on", faces, epochs=2, init={"workdir": str(made / "seed0")})
    assert accuracy.epochs(tmp_path / "on") == "3 + 2 of 3"
    write_timed_run(tmp_path / "lost", faces, init={"workdir": str(tmp_path / "gone")})
    assert accuracy.epochs(tmp_path / "lost") == "? + 3"


@pytest.mark.parametrize(
    "loss, workdirs, said",
    [
        ({"alpha": None}, (), "none (labels only)"),
        ({"alpha": 0.0}, ("t",), "none (labels only)"),
        ({"alpha": 0.7}, ("runs/t",), "t"),
        ({"alpha": None}, ("runs/t", "u.safetensors"), "t, u"),
        ({"alpha": 0.0, "method": "decoupled"}, ("t",), "t"),
        ({}, (), "none (labels only)"),
    ],
)
def test_the_teachers_are_read_from_the_configuration(loss, workdirs, said):
    assert accuracy.teachers({"loss": loss, "teacher": {"workdirs": workdirs}}) == said


def test_the_table_has_dashes_for_what_an_earlier_row_lacks(made, tmp_path, capsys):
    earlier = {"name": "configs/a.py", "network": "a", "parameters": 9, "accuracy": 60.0, "own": 59.0, "macro_f1": 0.5}
    earlier |= {"epochs": 15, "minutes": 5.0, "seed": 0}
    tables.save("synthetic_faces", [("network", "{network}")], [earlier], command="c", packages=(), results=tmp_path)
    arguments = ["--model", made / "seed0", "--file", made / "net.onnx", "--data-dir", made / "data"]
    accuracy.main([str(a) for a in (*arguments, "--command", "python train.py", "--passes", 20, "--results", tmp_path)])
    head, _, first, second, *_ = capsys.readouterr().out.splitlines()
    assert head.count(" | ") == len(accuracy.COLUMNS) - 1
    assert first == "| a | – | 15 | – | – | 59.00 | 0.500 |"
    assert second.startswith("| baseline_cnn5 | none (labels only) | 3 | int8 (QAT), ")
    saved = tables.load(tmp_path / "synthetic_faces.jsonl").rows[1]
    assert 0 < saved["p50"] <= saved["p95"] and saved["command"] == "python train.py"


def test_the_papers_figures_are_those_of_the_configurations():
    assert accuracy.PAPERS == {"resnet18": 68.3, "microexpnet": 71.2, "mini_xception": 67.0}

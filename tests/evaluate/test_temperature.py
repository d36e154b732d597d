"""Tests the calibration command."""

import json

import numpy as np
import pytest

from ferjax import runtime, spec
from ferjax.errors import InputError
from ferjax.evaluate import calibration, grad_cam, predictor, scoring, temperature
from ferjax.weights import checkpoint
from tests.support.linear_files import exported


def overconfident(n=2000, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return 6 * (rng.normal(size=(n, classes)) + np.eye(classes)[labels]), labels


def test_halves_divide_every_class():
    labels = np.repeat([0, 1, 2], [10, 7, 4])
    first, second = temperature.halves(labels)
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(21))
    np.testing.assert_array_equal(np.bincount(labels[first]), [5, 3, 2])


def test_what_is_reported_was_not_fitted():
    logits, labels = overconfident()
    result = temperature.calibrate(logits, labels)
    fit, rest = temperature.halves(labels)
    assert result["temperature"] == calibration.fit_temperature(logits[fit], labels[fit]) > 1.5
    after = calibration.softmax(logits[rest], result["temperature"])
    assert result["after"]["brier"] == calibration.brier(after, labels[rest]) < result["before"]["brier"]
    assert result["after"]["ece"] < 0.5 * result["before"]["ece"]


def test_a_threshold_reaches_the_accuracy_on_its_half():
    logits, labels = overconfident(n=40000)
    result = temperature.calibrate(logits, labels, accuracy=0.8)
    assert result["abstention"]["accuracy"] == pytest.approx(0.8, abs=0.02)
    assert 0.02 < result["abstention"]["coverage"] < 1
    with pytest.raises(InputError, match=r"0\.5.*0\.000"):
        temperature.calibrate(-np.eye(4)[labels], labels, accuracy=0.5)  # never right


def test_a_threshold_stays_where_none_is_asked_for(run, tmp_path, capsys):
    path = exported(tmp_path / "linear.onnx", run)
    spec.embed(path, spec.read(path).replace(abstention_threshold=0.3))
    command = ["--model", str(path), "--data-dir", str(run / "data")]
    temperature.main(command)
    assert spec.read(path).abstention_threshold == 0.3 and "abstention threshold 0.300" in capsys.readouterr().out
    temperature.main([*command, "--accuracy", "0"])
    assert spec.read(path).abstention_threshold == 0


def test_the_command_stores_it_in_a_run_and_in_a_file(run, tmp_path, capsys):
    path = exported(tmp_path / "linear.onnx", run)
    plain = predictor.open_model(run / "run")
    temperature.main(
        ["--model", str(run / "run"), str(path), "--data-dir", str(run / "data"), "--out", str(tmp_path / "out")]
    )
    found = json.loads((tmp_path / "out" / "calibration.json").read_text())
    stored = checkpoint.read(run / "run")[0].spec
    assert stored.temperature == found[str(run / "run")]["temperature"] != 1
    assert spec.read(path).temperature == runtime.load(path).spec.temperature == found[str(path)]["temperature"]
    assert (tmp_path / "out" / "reliability_1.png").stat().st_size > 5000 and "temperature" in capsys.readouterr().out
    result = scoring.evaluate(run / "run", data_dir=run / "data")
    assert result["calibration"]["temperature"] == stored.temperature
    images = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 1), np.uint8)
    np.testing.assert_array_equal(plain.logits(images), predictor.open_model(run / "run").logits(images))
    # another best epoch has other variables, so the temperature does not apply
    notes = json.loads((run / "run" / "calibration.json").read_text())
    (run / "run" / "calibration.json").write_text(json.dumps({**notes, "params_sha256": "0"}))
    assert checkpoint.read(run / "run")[0].spec.temperature == 1
    (run / "run" / "calibration.json").write_text("{")
    with pytest.raises(InputError, match=r"calibration\.json is damaged"):
        checkpoint.read(run / "run")
    (run / "run" / "calibration.json").unlink()


def test_a_model_that_cannot_be_opened_leaves_the_others_alone(run, tmp_path):
    path = exported(tmp_path / "linear.onnx", run)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"typo\.onnx"):
        temperature.main(["--model", str(path), str(tmp_path / "typo.onnx"), "--data-dir", str(run / "data")])
    assert path.read_bytes() == before


def test_changed_data_print_a_note(run, capsys):
    own = predictor.open_model(run / "run").spec
    for changed in (False, True):
        theirs = own.replace(dataset_sha256="0" * 64) if changed else own
        predictor.load_split(theirs, "validation", data_dir=run / "data")
        assert ("has changed since the model was trained" in capsys.readouterr().err) == changed


def test_a_negative_seed_is_rejected(run):
    for command, more in ((temperature, ()), (grad_cam, ("--out", "unused"))):
        with pytest.raises(InputError, match="--seed must be 0 or more, got -1"):
            command.main(["--model", str(run / "run"), "--seed", "-1", *more])


def test_averaging_over_views_is_reported_separately(run, tmp_path, capsys):
    out = tmp_path / "out"
    scoring.main(["--model", str(run / "run"), "--data-dir", str(run / "data"), "--out", str(out), "--tta", "flip"])
    saved = json.loads((out / "metrics.json").read_text())
    opened = predictor.open_model(run / "run")
    faces = predictor.load_split(opened.spec, "validation", data_dir=run / "data")
    both = [
        calibration.softmax(opened.logits(np.ascontiguousarray(v))) for v in (faces.images, faces.images[:, :, ::-1])
    ]
    expected = (np.mean(both, axis=0).argmax(1) == faces.labels).mean()
    assert saved["test_time_average"]["accuracy"][0] == pytest.approx(expected)
    assert saved["accuracy"] == (both[0].argmax(1) == faces.labels).mean()
    assert "averaged over views (flip)" in capsys.readouterr().out

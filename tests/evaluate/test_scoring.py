"""Tests the evaluation of checkpoints and files, comparisons, robustness and Grad-CAM."""

import functools
import json

import jax
import numpy as np
import pytest

from ferjax import data, models
from ferjax.data import manifest, store, subsets
from ferjax.errors import InputError
from ferjax.evaluate import corruptions, intervals, metrics, open_set, predictor, scoring, temperature
from ferjax.evaluate import grad_cam as evaluate_grad_cam
from ferjax.train import experiment
from ferjax.weights import Trained, checkpoint, single_file
from tests.support import quick, small_files, tiny_networks
from tests.support.experiments import SMALL, config
from tests.support.linear_files import exported

DATA = SMALL["data"] | {"validation": 42}  # what the run of conftest.py learned from


def test_a_file_and_a_checkpoint_take_the_same_path(run, tmp_path):
    path = exported(tmp_path / "linear.onnx", run)
    result = scoring.evaluate(path, data_dir=run / "data")
    faces = data.load(data_dir=run / "data", **DATA).splits["validation"]
    opened = predictor.open_model(path)
    expected = small_files.expected_logits(opened.spec, faces.images)
    np.testing.assert_allclose(opened.logits(faces.images), expected, atol=1e-3)
    assert result["accuracy"] == metrics.accuracy(metrics.confusion(faces.labels, expected.argmax(1), 7))
    assert result["step"] is None and result["n"] == 42
    low, high = result["intervals"]["accuracy"][1:]
    assert low <= result["accuracy"] <= high and set(result["calibration"]) >= {"ece", "brier", "nll"}


def test_a_class_may_have_any_name_in_a_sheet(run, tmp_path):
    scored = predictor.open_model(run / "run")
    faces = predictor.load_split(scored.spec, "validation", data_dir=run / "data")
    spec, variables = checkpoint.read(run / "run")[0]
    named = spec.replace(class_names=tuple(f"{name}/x" for name in spec.class_names))
    found = evaluate_grad_cam.write_sheets(
        Trained(named, variables), faces, np.array(faces.labels), tmp_path, samples=1, seed=0
    )
    assert {path.name for path in found["sheets"][:-1]} == {f"gradcam_{name}_x.png" for name in spec.class_names}


def test_weights_in_a_file_are_scored_explained_and_calibrated_as_their_run(run, tmp_path):
    spec, variables = checkpoint.read(run / "run")[0]
    path = tmp_path / "w.safetensors"
    single_file.save(path, Trained(spec, variables))
    ours, theirs = (scoring.evaluate(model, data_dir=run / "data") for model in (path, run / "run"))
    assert ours.pop("step") is None and theirs.pop("step") > 0
    assert {**ours, "model": ""} == {**theirs, "model": ""}
    for model, out in ((path, tmp_path / "ours"), (run / "run", tmp_path / "theirs")):
        evaluate_grad_cam.main(
            ["--model", str(model), "--data-dir", str(run / "data"), "--out", str(out), "--samples", "2"]
        )
    assert (tmp_path / "ours" / "regions.json").read_text() == (tmp_path / "theirs" / "regions.json").read_text()
    temperature.main(["--model", str(path), "--data-dir", str(run / "data")])
    found, kept = single_file.load(path)
    assert found.temperature != 1 and found == spec.replace(
        temperature=found.temperature, abstention_threshold=found.abstention_threshold
    )
    jax.tree.map(np.testing.assert_array_equal, kept, variables)


def test_classes_are_matched_by_name(run, tmp_path):
    names = data.EXPRESSIONS
    turned = tuple(reversed(names))
    straight = scoring.evaluate(exported(tmp_path / "a.onnx", run), data_dir=run / "data")
    other = scoring.evaluate(exported(tmp_path / "b.onnx", run, class_names=turned), data_dir=run / "data")
    # The same network under other names: its confusion, read by name, has its columns turned round.
    by_name = np.array(other["confusion"])[::-1]
    np.testing.assert_array_equal(by_name, np.array(straight["confusion"]))
    with pytest.raises(InputError, match="surprise"):
        scoring.evaluate(
            exported(tmp_path / "c.onnx", run, class_names=(*names[:-1], "contempt")), data_dir=run / "data"
        )


def test_a_class_that_the_data_lacks_prints_a_note(run, tmp_path, capsys):
    path = exported(tmp_path / "a.onnx", run, class_names=(*data.EXPRESSIONS, "contempt"))
    result = scoring.evaluate(path, data_dir=run / "data")
    assert "lacks contempt" in capsys.readouterr().err and result["per_class"]["contempt"]["support"] == 0


def test_models_of_other_images_are_not_compared(run, tmp_path, capsys):
    (spec, variables), meta = checkpoint.read(run / "run")
    other = spec.replace(dataset_args={**spec.dataset_args, "seed": 1})
    checkpoint.save(tmp_path / "other", "best", 1, variables, {**meta, "spec": other.to_json()}, keep=1)
    models = ["--model", str(run / "run"), str(tmp_path / "other")]
    scoring.main([*models, "--data-dir", str(run / "data"), "--robustness", "--out", str(tmp_path / "out")])
    output = capsys.readouterr()
    assert "not compared" in output.err and "McNemar" not in output.out
    assert "mean corruption error" not in output.out and not (tmp_path / "out" / "comparison.json").exists()
    with pytest.raises(InputError, match="--full requires --robustness"):
        scoring.main([*models, "--full"])


def test_the_command_compares_models(run, tmp_path, capsys):
    path, out = exported(tmp_path / "linear.onnx", run), tmp_path / "out"
    scoring.main(["--model", str(run / "run"), str(path), "--data-dir", str(run / "data"), "--out", str(out)])
    text = capsys.readouterr().out
    (pair,) = json.loads((out / "comparison.json").read_text())
    saved = [json.loads((out / name / "metrics.json").read_text()) for name in ("0_run", "1_linear")]
    assert pair["difference"]["accuracy"][0] == pytest.approx(saved[1]["accuracy"] - saved[0]["accuracy"])
    assert pair["first_only"] - pair["second_only"] == round(42 * (saved[0]["accuracy"] - saved[1]["accuracy"]))
    assert "McNemar" in text and str(path) in text
    with pytest.raises(InputError, match="a twice"):
        scoring.main(["--model", "a", "a"])


def test_robustness_repeats_itself_and_is_drawn(run, tmp_path, capsys):
    path, out = exported(tmp_path / "linear.onnx", run), tmp_path / "out"
    scoring.main(["--model", str(path), "--data-dir", str(run / "data"), "--out", str(out), "--robustness"])
    found = json.loads((out / "metrics.json").read_text())["robustness"]
    assert set(found["accuracy"]) == set(corruptions.KINDS) and found["n"] == 42
    assert (out / "robustness.png").stat().st_size > 5000 and "low_light" in capsys.readouterr().out
    faces = data.load(data_dir=run / "data", **DATA).splits["validation"]
    model = predictor.open_model(path)
    hazy = model.logits(corruptions.corrupt(faces.images, "fog", 4)).argmax(1)
    assert found["accuracy"]["fog"][3] == (hazy == faces.labels).mean()
    scoring.main(["--model", str(path), "--data-dir", str(run / "data"), "--out", str(out)])
    assert sorted(p.name for p in out.iterdir()) == [
        "confusion.png",
        "metrics.json",
    ]  # no picture of another evaluation
    with pytest.raises(InputError, match=r"--out .*metrics\.json must be a folder"):
        scoring.main(["--model", "nowhere", "--out", str(out / "metrics.json")])


def test_the_robustness_subset_keeps_the_classes_shares():
    labels = np.repeat([0, 1, 2], [4001, 1500, 499])
    chosen = subsets.stratified(labels, 1000)
    assert len(chosen) == 1000 == len(set(chosen.tolist())) and (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(np.bincount(labels[chosen]), [667, 250, 83])
    np.testing.assert_array_equal(subsets.stratified(labels[:50], 1000), np.arange(50))


def test_intervals_narrow_with_the_number_of_images():
    counts = np.array([[6, 4], [3, 7]])
    few, many = (intervals.bootstrap(k * counts)["accuracy"] for k in (1, 100))
    assert many.high - many.low < (few.high - few.low) / 5


@pytest.mark.parametrize(
    ("name", "kwargs"), [("resnet20", {"depths": [1, 1, 1]}), ("deit_attention_free", {"patch": 8, "grid": [3, 3]})]
)
def test_grad_cam_is_its_definition(name, kwargs):
    module = models.create(name, num_classes=3, **kwargs)
    x = np.random.default_rng(0).normal(size=(2, 24, 24, 1)).astype(np.float32)
    variables = tiny_networks.variables(module, x.shape[1:])
    answer = quick.jit(functools.partial(module.apply, train=False))
    inside = quick.jit(functools.partial(module.apply, train=False, mutable=["intermediates"]))
    kernel = np.random.default_rng(1).normal(size=variables["params"]["head"]["out"]["kernel"].shape)
    variables["params"]["head"]["out"]["kernel"] = kernel.astype(np.float32)
    maps, logits = evaluate_grad_cam.make_grad_cam(module, (24, 24, 1))(variables, x, np.array([2, 0]))
    np.testing.assert_allclose(logits, answer(variables, x), atol=1e-5)
    for i, chosen in enumerate((2, 0)):
        seen = inside(variables, x[i : i + 1])[1]["intermediates"]
        features = np.asarray(seen["features"][0], np.float64)
        # central differences, one value of the map after the other
        slopes = np.zeros_like(features)

        @jax.jit
        def score(shift, i=i, chosen=chosen):
            probed = {**variables, "perturbations": {"features": shift}}
            return module.apply(probed, x[i : i + 1], train=False)[0, chosen]

        picked = np.random.default_rng(2).choice(features.size, 60, replace=False)
        for at in picked:
            step = np.zeros(features.shape, np.float32)
            step.flat[at] = 1e-2
            slopes.flat[at] = (float(score(step)) - float(score(-step))) / 2e-2
        exact = quick.jit(jax.grad(score))(np.zeros(features.shape, np.float32))
        np.testing.assert_allclose(np.asarray(exact).flat[picked], slopes.flat[picked], atol=2e-3)
        side = 6 if name == "resnet20" else 3
        grid = (1, side, side, features.shape[-1])
        weights = np.asarray(exact, np.float64).reshape(grid).mean((1, 2))[0]  # eq. 24
        heat = np.maximum((features.reshape(grid)[0] * weights).sum(-1), 0)  # eq. 25
        np.testing.assert_allclose(maps[i], jax.image.resize(heat, (24, 24), "bilinear"), atol=1e-5)


def test_regions_share_out_the_heat():
    flat = evaluate_grad_cam.region_shares(np.ones((1, 48, 48)))[0]
    areas = [(b - t) * (r - l) for t, b, l, r in evaluate_grad_cam.REGIONS.values()]
    np.testing.assert_allclose(flat, areas, atol=1e-9)
    mouth = np.zeros((1, 50, 50))
    mouth[0, 36:42, 20:30] = 3.0
    shares = dict(zip(evaluate_grad_cam.REGIONS, evaluate_grad_cam.region_shares(mouth)[0], strict=True))
    assert shares["mouth"] == pytest.approx(1.0) and sum(shares.values()) == pytest.approx(1.0)


def test_explanations_are_drawn(run, tmp_path, capsys):
    evaluate_grad_cam.main(
        ["--model", str(run / "run"), "--data-dir", str(run / "data"), "--out", str(tmp_path), "--samples", "3"]
    )
    found = json.loads((tmp_path / "regions.json").read_text())
    assert found["shares"] and all(sum(row.values()) == pytest.approx(1) for row in found["shares"].values())
    for name in found["shares"]:
        assert (tmp_path / f"gradcam_{name}.png").exists()
    assert (tmp_path / "perturbed.png").exists() and "mouth" in capsys.readouterr().out


@pytest.mark.slow
def test_out_of_distribution_images_are_detected_by_confidence(run, tmp_path, capsys):
    path, out = exported(tmp_path / "linear.onnx", run), tmp_path / "out"
    scoring.main(["--model", str(path), "--data-dir", str(run / "data"), "--out", str(out), "--open-set"])
    found = json.loads((out / "metrics.json").read_text())["open_set"]
    assert {"non_faces", "drawn_faces"} <= found.keys() and "faces against drawn faces" in capsys.readouterr().out
    # a model that is sure of faces only, and one that is sure of everything
    textures = open_set.non_faces(30, (24, 24, 1))
    np.testing.assert_array_equal(textures[:10], open_set.non_faces(10, (24, 24, 1)))
    faces = np.full((20, 24, 24, 1), 7, np.uint8)
    sure = open_set.measure(lambda x: 9.0 * (x == 7).all((1, 2, 3))[:, None] * np.eye(3)[:1], faces, temperature=1.0)
    assert sure["non_faces"]["auroc"] == 1 and sure["faces"] > 0.99
    small = open_set.measure(lambda x: np.tile([9.0, 0, 0], (len(x), 1)), faces[:, :16, :16], temperature=1.0)
    assert "non_faces" in small and "drawn_faces" not in small  # none can be drawn in 16 pixels
    always = open_set.measure(lambda x: np.tile([9.0, 0, 0], (len(x), 1)), faces, temperature=1.0)
    assert always["non_faces"]["auroc"] == always["drawn_faces"]["auroc"] == 0.5


def test_groups_of_people_are_scored_apart(run, tmp_path):
    opened = predictor.open_model(exported(tmp_path / "linear.onnx", run))
    labels = np.array([0, 0, 1, 1, 2, 2], np.int32)
    logits = np.eye(7)[[0, 1, 1, 1, 2, 0]]
    columns = {"gender": np.array([0, 0, 0, 1, 1, -1], np.int32)}
    faces = data.Split(np.zeros((6, 24, 24, 1), np.uint8), labels, [""] * 6, columns)
    result = scoring.score(opened, faces, logits, dataset="rafdb", split="test")
    assert {k: (g["value"], g["n"]) for k, g in result["groups"]["gender"].items()} == {
        "male": (pytest.approx(2 / 3), 3),
        "female": (1.0, 2),
    }


def test_votes_are_scored_in_the_order_of_the_models_classes(run, tmp_path):
    opened = predictor.open_model(exported(tmp_path / "linear.onnx", run))
    names = opened.spec.class_names[::-1]
    votes = np.eye(7, dtype=np.float32) * 0.8 + 0.2 / 7
    images = np.random.default_rng(0).integers(0, 256, (14, 24, 24, 1), np.uint8)
    with store.staging(tmp_path, "reversed") as staged:
        for split, some in (("train", images[:7]), ("test", images[7:])):
            with store.SplitWriter(staged / split, (24, 24, 1)) as writer:
                for label in range(7):
                    writer.add(some[label], label, "", {"votes": votes[label]})
        manifest.complete(staged, "reversed", names)
    faces = predictor.load_split(opened.spec, "test", dataset="reversed", data_dir=tmp_path)
    logits = np.log(votes[:, ::-1])
    result = scoring.score(opened, faces, logits, dataset="reversed", split="test")
    assert result["votes"]["kl"] == pytest.approx(0, abs=1e-6) and result["accuracy"] == 1


def test_several_models_have_corruption_errors_relative_to_the_first(run, tmp_path):
    out = tmp_path / "out"
    files = [str(exported(tmp_path / f"{name}.onnx", run)) for name in "ab"]
    scoring.main(["--model", *files, "--data-dir", str(run / "data"), "--out", str(out), "--robustness"])
    second = json.loads((out / "1_b" / "metrics.json").read_text())["robustness"]
    assert second["mean_corruption_error"] == pytest.approx(1) and second["relative_to"] == files[0]


def test_without_errors_of_the_first_model_there_is_no_relative_error(run, tmp_path, capsys, monkeypatch):
    files = [str(exported(tmp_path / f"{name}.onnx", run)) for name in "ab"]
    right = {"n": 1, "clean": 1.0, "accuracy": {"blur": [1.0, 1.0]}}
    monkeypatch.setattr(scoring.robustness, "measure", lambda *_, **__: dict(right))
    monkeypatch.setattr(scoring.robustness, "table", str)
    monkeypatch.setattr(scoring.report, "plot_robustness", lambda *_: None)
    scoring.main(["--model", *files, "--data-dir", str(run / "data"), "--out", str(tmp_path / "out"), "--robustness"])
    second = json.loads((tmp_path / "out" / "1_b" / "metrics.json").read_text())
    assert second["robustness"] == right
    assert f"no mean corruption error relative to {files[0]}" in capsys.readouterr().err


def test_a_class_left_out_of_training_is_unknown(tmp_path, capsys):
    settings = {**config(fit__epochs=1), "data": {**DATA, "without": "happy"}}
    experiment.train(settings, workdir=tmp_path / "run", data_dir=tmp_path / "data", progress=False)
    where = ["--model", str(tmp_path / "run"), "--data-dir", str(tmp_path / "data")]
    scoring.main([*where, "--open-set", "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["open_set"]["happy"]["n"] == 6 and found["n"] == 36 and "happy" not in found["per_class"]
    assert "faces against happy" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["small", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", models.list_models())
def test_grad_cam_fits_every_network(name, size):
    if size == "small":
        module, _, shape = tiny_networks.create(name)
    else:
        module, shape = models.create(name), models.default_input_shape(name)
    x = jax.ShapeDtypeStruct((2, *shape), np.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), x)
    grad_cam = evaluate_grad_cam.make_grad_cam(module, shape)
    maps, logits = jax.eval_shape(grad_cam, variables, x, jax.ShapeDtypeStruct((2,), np.int32))
    assert maps.shape == (2, *shape[:2]) and logits.shape == (2, 7)

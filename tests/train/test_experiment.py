"""From a configuration to a checkpoint and its evaluation, on a small network and the embedded faces."""

import errno
import json
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from PIL import Image

from ferjax import data, models
from ferjax.data.commands import prepare as prepare_command
from ferjax.data.synthetic.rendering import render_faces
from ferjax.errors import InputError
from ferjax.evaluate import inference, predictor, scoring
from ferjax.train import config as train_config
from ferjax.train import experiment, objective, run_folder
from ferjax.weights import Trained, checkpoint
from tests.support.experiments import SMALL, config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    result = experiment.train(config(), workdir=folder / "run", data_dir=folder / "data", name="small", progress=False)
    return folder, result


def test_a_run_leaves_checkpoints_configuration_curves_and_contract(trained):
    folder, result = trained
    assert len(result.history) == 2
    assert json.loads((folder / "run" / "config.json").read_text()) == config()
    assert (folder / "run" / "curves.png").stat().st_size > 5000
    (spec, variables), meta = checkpoint.read(folder / "run")
    assert spec.class_names == data.EXPRESSIONS and spec.input_shape == (24, 24, 1)
    assert spec.architecture == "baseline_cnn5" and spec.architecture_args["widths"] == [4, 8]
    assert spec.dataset == "synthetic_faces" and spec.dataset_args["train"] == 48 and len(spec.dataset_sha256) == 64
    assert spec.source_run == "small" and meta["config"] == config()
    assert spec.parameters == sum(leaf.size for leaf in _leaves(variables["params"]))
    assert spec.params_sha256 == checkpoint.fingerprint(variables)


def test_evaluation_repeats_the_accuracy_of_the_best_epoch(trained):
    folder, result = trained
    scored = scoring.evaluate(folder / "run", data_dir=folder / "data")
    assert scored["accuracy"] == result.best["validation_accuracy"] and scored["n"] == 21
    assert scored["macro_f1"] == pytest.approx(result.best["validation_macro_f1"])
    assert scored["split"] == "validation" and scored["step"] == result.best["step"]
    assert np.sum(scored["confusion"]) == 21


def test_a_run_starts_where_another_ended(trained, tmp_path, capsys):
    folder, result = trained
    resting = {**config(optim__learning_rate=1e-30, fit__epochs=1), "init": {"workdir": str(folder / "run")}}
    again = experiment.train(resting, workdir=tmp_path / "run", data_dir=folder / "data", progress=False)
    variables = checkpoint.read(tmp_path / "run")[0].variables
    np.testing.assert_array_equal(_leaves(variables["params"])[0], _leaves(result.variables["params"])[0])
    assert "start: " in capsys.readouterr().out
    assert len(again.history) == 1


def test_the_command_prints_and_saves_what_was_measured(trained, capsys):
    folder, _ = trained
    out = folder / "evaluation"
    arguments = ["--model", str(folder / "run"), "--data-dir", str(folder / "data"), "--out", str(out)]
    scoring.main([*arguments, "--split", "test"])
    saved = json.loads((out / "metrics.json").read_text())
    assert {"accuracy", "macro_f1", "weighted_f1", "per_class", "confusion", "n"} <= saved.keys()
    assert saved["n"] == 14 and saved["split"] == "test"
    assert (out / "confusion.png").stat().st_size > 5000
    assert "happy" in capsys.readouterr().out


def test_training_never_reads_the_test_split(tmp_path, monkeypatch):
    asked = []

    def spy(name, data_dir=None, splits=("train", "validation"), **options):
        asked.append(tuple(splits))
        return load(name, data_dir, splits, **options)

    load = data.load
    monkeypatch.setattr(data, "load", spy)
    experiment.train(config(fit__epochs=1), workdir=tmp_path / "run", data_dir=tmp_path / "data", progress=False)
    assert asked == [("train", "validation")]


def test_images_with_a_twin_in_training_are_counted_apart(trained, monkeypatch):
    folder, _ = trained
    load = data.load

    def with_twins(*args, **kwargs):
        faces = load(*args, **kwargs)
        split = faces.splits["validation"]
        twins = np.arange(len(split.labels)) < 5
        faces.splits["validation"] = split._replace(columns={**split.columns, "twin_in_train": twins})
        return faces

    monkeypatch.setattr(data, "load", with_twins)
    scored = scoring.evaluate(folder / "run", data_dir=folder / "data")
    assert scored["without_twins"]["n"] == 16 and 0 <= scored["without_twins"]["accuracy"] <= 1


def test_the_loss_of_a_configuration_weighs_classes_by_the_papers_formula(trained):
    folder, _ = trained
    faces = data.load(data_dir=folder / "data", **SMALL["data"])
    weighted = objective.make_loss(faces=faces, class_weighted=True)
    plain = objective.make_loss(faces=faces)
    logits, targets = np.zeros((7, 7), np.float32), np.eye(7, dtype=np.float32)
    counts = faces.class_counts("train")
    np.testing.assert_allclose(
        weighted(logits, targets) / plain(logits, targets), counts.sum() / (7 * counts), rtol=1e-5
    )


def test_a_workdir_of_another_experiment_is_refused(trained):
    folder, _ = trained
    with pytest.raises(InputError, match=r"another experiment: fit\.epochs is 2 there and 3 here \(1 differ\)"):
        experiment.train(config(fit__epochs=3), workdir=folder / "run", data_dir=folder / "data", progress=False)
    with pytest.raises(InputError, match=r"no config\.json"):
        (folder / "odd" / "last").mkdir(parents=True)
        train_config.claim(folder / "odd", config())


def test_a_run_is_not_continued_on_other_data(tmp_path):
    made = {**config(fit__epochs=1, fit__batch_size=8), "data": {"name": "mine"}}
    options = {"workdir": tmp_path / "run", "data_dir": tmp_path / "data", "progress": False}

    def prepare(name, count):
        for label in (3, 5):
            folder = tmp_path / name / data.EXPRESSIONS[label]
            folder.mkdir(parents=True, exist_ok=True)
            for i, face in enumerate(render_faces([label] * count, seed=label, size=24)):
                Image.fromarray(face[..., 0]).save(folder / f"{i}.png")
        arguments = ["--source", str(tmp_path / name), "--name", "mine", "--channels", "1"]
        prepare_command(["folder", *arguments, "--data-dir", str(tmp_path / "data")])

    prepare("many", 24)
    first = experiment.train(made, **options)
    prepare("few", 12)
    with pytest.raises(InputError, match=r"holds a run on other data: mine has SHA-256 \w{12}… there and \w{12}… here"):
        experiment.train(made, **options)
    assert checkpoint.read(tmp_path / "run", "last")[1]["history"] == first.history
    prepare("many", 24)
    assert experiment.train(made, **options).history == first.history


def test_one_process_at_a_time_trains_in_a_folder(trained, tmp_path):
    run = tmp_path / "run"
    keep = f"import pathlib, time; from ferjax.train import run_folder; run = pathlib.Path({str(run)!r})\n"
    keep += "with run_folder.locked(run):\n    print('mine', flush=True)\n    time.sleep(600)"
    unfinished = run / "last" / "000000009.orbax-checkpoint-tmp-0"
    with subprocess.Popen([sys.executable, "-c", keep], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "mine\n"
            train_config.claim(run, config())
            unfinished.mkdir(parents=True)
            with pytest.raises(InputError, match=f"another process is training in {run}"):
                experiment.train(config(), workdir=run, data_dir=trained[0] / "data", progress=False)
            assert unfinished.exists()
        finally:
            other.kill()
    result = experiment.train(config(), workdir=run, data_dir=trained[0] / "data", progress=False)
    assert len(result.history) == 2 and not unfinished.exists()


def test_where_nothing_can_be_locked_runs_are_trained_as_before(tmp_path, monkeypatch):
    def unable(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    with run_folder.locked(tmp_path):
        with pytest.raises(run_folder.InUse), run_folder.locked(tmp_path):
            pass
        for module in (types.SimpleNamespace(flock=unable, LOCK_EX=2, LOCK_NB=4), None):
            monkeypatch.setattr(run_folder, "fcntl", module)
            with run_folder.locked(tmp_path):
                pass


def test_how_images_are_read_is_no_part_of_the_experiment(trained):
    folder, result = trained
    elsewhere = config(data__resident_bytes=1, data__workers=0)
    again = experiment.train(elsewhere, workdir=folder / "run", data_dir=folder / "data", progress=False)
    assert again.history == result.history
    spec = checkpoint.read(folder / "run")[0].spec
    assert not {"resident_bytes", "workers"} & spec.dataset_args.keys()


def test_the_step_is_compiled_as_its_networks_ask(trained, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(models, "compiler_options", lambda *modules: asked.extend(modules) or {"xla_faster": True})
    options = {"data_dir": trained[0] / "data", "progress": False}
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_faster"):
        experiment.train(config(), workdir=tmp_path / "alone", **options)
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_faster"):
        experiment.distill(config(), workdir=tmp_path / "taught", teachers=[trained[0] / "run"], **options)
    assert [type(module).__name__ for module in asked] == ["BaselineCNN"] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fit__epoch": 3}, r"key in config\.fit 'epoch'. Did you mean 'epochs'"),
        ({"augment__flipp": 1}, "Did you mean 'flip'"),
        ({"model__name": "resnet2"}, "Did you mean 'resnet20'"),
        ({"model__width": [4]}, "Did you mean 'widths'"),
        ({"data__name": "synthetic_face"}, "synthetic_face"),
        ({"model__widths": 5}, r"widths of baseline_cnn5 must be whole numbers of 1 or more such as .*, got 5"),
        ({"model__num_classes": 8}, r"config\.model\.num_classes cannot be set"),
        ({"data__data_dir": "/x"}, r"config\.data\.data_dir cannot be set"),
        ({"optim__steps_per_epoch": 9}, r"config\.optim\.steps_per_epoch cannot be set"),
        ({"fit__workdir": "/x"}, r"key in config\.fit 'workdir'"),
        ({"fit__ema_decay": 1.0}, r"fit\.ema_decay must be in \[0, 1\), got 1\.0"),
        ({"fit__ema_decay": -0.1}, r"fit\.ema_decay must be in \[0, 1\), got -0\.1"),
        ({"model__dtype": "float23"}, r"unknown model\.dtype 'float23'. Did you mean 'float32'"),
        ({"fit__batch_size": 0}, r"fit\.batch_size must be 1 or more, got 0"),
        ({"fit__eval_batch_size": 0}, r"fit\.eval_batch_size must be 1 or more, got 0"),
        ({"fit__steps_per_dispatch": -1}, r"fit\.steps_per_dispatch must be 0 or more, got -1"),
        ({"fit__patience": -1}, r"fit\.patience must be 0 or more"),
        ({"fit__batch_size": 49}, r"fit\.batch_size must be at most .* 48; got 49"),
        ({"optim__decay_only": (1,)}, r"config\.optim\.decay_only must be a sequence of strings, got \(1,\)"),
        ({"augment__crop": 0.9}, r"config\.augment\.crop must be a sequence of numbers, got 0\.9"),
        ({"augment__crop": ("a", "b")}, r"config\.augment\.crop must be a sequence of numbers, got \('a', 'b'\)"),
        ({"data__splits": ("train",)}, r"config\.data\.splits cannot be set"),
    ],
)
def test_mistakes_in_a_configuration_are_named(trained, tmp_path, changes, message):
    folder, _ = trained
    with pytest.raises(InputError, match=message):
        experiment.train(config(**changes), workdir=tmp_path / "run", data_dir=folder / "data", progress=False)


def test_a_start_that_fails_leaves_its_folder_free(trained, tmp_path, capsys):
    options = {"workdir": tmp_path / "run", "data_dir": trained[0] / "data", "progress": False}
    with pytest.raises(InputError, match="got 49"):
        experiment.train(config(fit__batch_size=49), **options)
    result = experiment.train({**config(fit__epochs=1), "teacher": {"stored_views": 4}}, **options)
    assert len(result.history) == 1
    assert "teacher.stored_views is ignored" in capsys.readouterr().out


def test_what_cannot_be_evaluated_is_named(trained):
    folder, _ = trained
    run = folder / "run"
    with pytest.raises(InputError, match="Did you mean 'validation'"):
        scoring.evaluate(run, split="validaton", data_dir=folder / "data")
    spec, variables = checkpoint.read(run)[0]
    faces = data.load(data_dir=folder / "data", **SMALL["data"])
    with pytest.raises(InputError, match="has angry"):
        predictor.check_fit(spec.replace(class_names=tuple("abcdefg")), faces)
    with pytest.raises(InputError, match=r"takes images of shape \(48, 48, 1\)"):
        predictor.check_fit(spec.replace(input_size=(48, 48)), faces)
    _leaves(variables["params"]["head"])[0][:] = np.nan
    with pytest.raises(InputError, match="non-finite logits for 21 of 21"):
        inference.logits(Trained(spec, variables), faces.splits["validation"].images)


def _leaves(tree):
    return [leaf for value in tree.values() for leaf in (_leaves(value) if isinstance(value, dict) else [value])]


def test_a_folder_of_ones_own_trains_and_its_class_names_are_in_the_checkpoint(tmp_path):
    for name, label in (("grin", 3), ("gloom", 5)):
        (tmp_path / "album" / name).mkdir(parents=True)
        for i, face in enumerate(render_faces([label] * 24, seed=label, size=32)):
            Image.fromarray(face[..., 0]).save(tmp_path / "album" / name / f"{i}.png")
    arguments = ["--source", str(tmp_path / "album"), "--name", "mine", "--size", "24", "--channels", "1"]
    prepare_command(["folder", *arguments, "--data-dir", str(tmp_path / "data")])
    made = {**config(fit__epochs=1), "data": {"name": "mine"}}
    experiment.train(made, workdir=tmp_path / "run", data_dir=tmp_path / "data", progress=False)
    spec, variables = checkpoint.read(tmp_path / "run")[0]
    assert spec.class_names == ("gloom", "grin") and spec.dataset == "mine"
    assert all(np.isfinite(leaf).all() for leaf in _leaves(variables))

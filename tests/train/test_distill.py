"""Tests teachers that are loaded from runs, and students that are distilled from them."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax import augment, models
from ferjax.__main__ import main
from ferjax.errors import InputError
from ferjax.train import config as train_config
from ferjax.train import experiment
from ferjax.train import teacher as train_teacher
from ferjax.weights import Trained, checkpoint, single_file
from tests.support.experiments import SMALL
from tests.support.teaching import config, distill


def test_teachers_are_named_one_by_one_or_with_commas_between(tmp_path):
    swept = tmp_path / "net-crop=(1.0, 1.0)"
    swept.mkdir()
    assert train_teacher.paths([str(swept), "a,b", "c,"]) == [str(swept), "a", "b", "c"]


def test_a_file_of_weights_teaches_as_its_run_does(teachers, tmp_path):
    spec, variables = checkpoint.read(teachers / "a")[0]
    single_file.save(tmp_path / "a.safetensors", Trained(spec, variables))
    images = np.random.default_rng(0).random((4, *spec.input_shape), np.float32)
    answers = []
    for source in (teachers / "a", tmp_path / "a.safetensors"):
        teacher = train_teacher.load([source], spec=spec)
        answers.append(np.asarray(teacher.apply(teacher.variables, {"images": images}).logits))
    assert np.ptp(answers[0]) > 0
    np.testing.assert_array_equal(*answers)


# -- teachers from runs -----------------------------------------------------------------------------------------------


def test_an_ensemble_answers_with_the_mean_of_its_logits_in_the_students_order(teachers):
    spec, variables = checkpoint.read(teachers / "a")[0]
    other, weights = checkpoint.read(teachers / "b")[0]
    names = tuple(reversed(spec.class_names))
    made = train_teacher.load(
        [teachers / "a", teachers / "b"], spec=spec.replace(class_names=names), taps=("features",)
    )
    images = np.random.default_rng(0).random((5, 24, 24, 1), np.float32)
    answer = jax.jit(made.apply)(made.variables, {"images": images})
    each = [
        models.create(s.architecture, **s.architecture_args).apply(v, (images - s.mean) / s.std, train=False)
        for s, v in ((spec, variables), (other, weights))
    ]
    np.testing.assert_allclose(answer.logits, (each[0] + each[1])[:, ::-1] / 2, atol=1e-5)
    assert set(answer.taps) == {"0/features", "1/features"} and answer.taps["0/features"].shape[0] == 5


def test_a_teacher_whose_spec_states_its_precision_computes_in_the_students(teachers, tmp_path):
    spec, variables = checkpoint.read(teachers / "a")[0]
    stated = spec.replace(architecture_args={**spec.architecture_args, "dtype": "bfloat16"})
    checkpoint.save(tmp_path / "run", "best", 1, variables, {"spec": stated.to_json()}, keep=1)
    example = {"images": jnp.array(np.random.default_rng(0).random((3, 24, 24, 1), np.float32))}
    own, other = (train_teacher.load([path], spec=spec) for path in (teachers / "a", tmp_path / "run"))
    np.testing.assert_array_equal(
        own.apply(own.variables, example).logits, other.apply(other.variables, example).logits
    )


def test_a_teacher_of_other_images_is_refused_or_given_them_resized(teachers):
    spec, variables = checkpoint.read(teachers / "a")[0]
    large = spec.replace(input_size=(48, 48), color_order="rgb", mean=spec.mean * 3, std=spec.std * 3)
    with pytest.raises(InputError, match=r"24×24×1.* 48×48×3.*teacher\.resize=True"):
        train_teacher.load([teachers / "a"], spec=large)
    made = train_teacher.load([teachers / "a"], spec=large, resize=True)
    grey = np.random.default_rng(0).random((5, 24, 24, 1), np.float32)
    doubled = grey.repeat(2, 1).repeat(2, 2).repeat(3, 3)
    answer = made.apply(made.variables, {"images": jnp.array(doubled)})
    shrunk = np.asarray(jax.image.resize(doubled[..., :1], (5, 24, 24, 1), "linear"))
    expected = models.create(spec.architecture, **spec.architecture_args).apply(
        variables, (shrunk - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32), train=False
    )
    np.testing.assert_allclose(answer.logits, expected, atol=1e-3)


def test_a_teacher_has_the_modules_that_run_in_the_step(teachers):
    spec, both = checkpoint.read(teachers / "a")[0].spec, [teachers / "a", teachers / "b"]
    running, stored = (train_teacher.load(both, spec=spec, stored_views=views).modules for views in (0, 2))
    assert [type(module).__name__ for module in running] == ["BaselineCNN", "BaselineCNN"] and stored == ()


@pytest.mark.parametrize("kind", ["flip", "ten"])
def test_a_teachers_answer_is_the_mean_over_the_views_asked_for(teachers, kind):
    spec = checkpoint.read(teachers / "a")[0].spec
    images = jnp.array(np.random.default_rng(0).random((3, 24, 24, 1), np.float32))
    both = [teachers / "a", teachers / "b"]
    plain, made = train_teacher.load(both, spec=spec), train_teacher.load(both, spec=spec, tta=kind)
    each = [plain.apply(plain.variables, {"images": v}).logits for v in augment.views(images, kind=kind)]
    answer = made.apply(made.variables, {"images": images}).logits
    np.testing.assert_allclose(answer, np.mean(each, 0), atol=1e-5)
    assert np.abs(answer - each[0]).max() > 1e-3


def test_what_is_learned_inside_a_teacher_is_of_the_image_itself(teachers):
    spec = checkpoint.read(teachers / "a")[0].spec
    images = {"images": jnp.array(np.random.default_rng(0).random((3, 24, 24, 1), np.float32))}
    plain, made = (train_teacher.load([teachers / "a"], spec=spec, taps=("features",), tta=k) for k in ("one", "flip"))
    found, wanted = (t.apply(t.variables, images).taps["0/features"] for t in (made, plain))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    with pytest.raises(InputError, match=r"teacher\.tta.*'ten'"):
        train_teacher.load([teachers / "a"], spec=spec, taps=("features",), tta="ten")
    with pytest.raises(InputError, match=r"unknown teacher\.tta 'flipp'\. Did you mean 'flip'"):
        train_teacher.load([teachers / "a"], spec=spec, tta="flipp")


TWO_HEADS = {"name": "deit_tiny_distilled", "depth": 1, "width": 8, "heads": 1, "patch": 8, "grid": [3, 3]}


@pytest.mark.parametrize(
    "model",
    [pytest.param(SMALL["model"], id="one head"), pytest.param(TWO_HEADS, id="two heads", marks=pytest.mark.slow)],
)
def test_without_a_share_for_the_teacher_it_is_plain_training_to_the_bit(teachers, tmp_path, model):
    made = config(augment__rotate=10.0) | {"model": dict(model)}
    plain = experiment.train(made, workdir=tmp_path / "plain", data_dir=teachers / "data", progress=False)
    made["loss"]["alpha"] = 0.0
    taught = distill(teachers, tmp_path / "taught", made, ("a", "b"))
    chex.assert_trees_all_equal(plain.variables, taught.variables)
    for own, other in zip(plain.history, taught.history, strict=True):
        assert {k: v for k, v in other.items() if k != "teacher_agreement"} == own


@pytest.mark.slow
def test_a_student_learns_from_a_teacher_alone(tmp_path):
    """The labels have no share: what the student knows of the validation faces, it has from the teacher."""
    made = config(data__train=1050, data__validation=140, fit__epochs=12, fit__batch_size=32, loss__label_smoothing=0.0)
    made["model"] = {"name": "baseline_cnn5", "widths": [8, 16, 32], "head_dropout": 0.0}
    made["optim"] = {"name": "adamw", "learning_rate": 5e-3, "weight_decay": 0.01}
    experiment.train(made, workdir=tmp_path / "teacher", data_dir=tmp_path / "data", progress=False)
    made["model"]["widths"] = [8, 16, 24]
    made["loss"] = {"alpha": 1.0, "temperature": 2.0}
    made["fit"]["epochs"] = 12
    result = distill(tmp_path, tmp_path / "student", made, ["teacher"])
    assert result.best["validation_accuracy"] > 0.35  # 0.14 by chance
    assert result.history[-1]["teacher_agreement"] > result.history[0]["teacher_agreement"] + 0.1
    (spec, variables), meta = checkpoint.read(tmp_path / "student")
    assert spec.params_sha256 == checkpoint.fingerprint(variables)
    assert meta["config"]["teacher"]["sha256"] == [checkpoint.read(tmp_path / "teacher")[0].spec.params_sha256]


def test_features_of_named_intermediates_come_together(teachers, tmp_path):
    made = config(loss__features=["stage2:stage1", "features:features"], loss__feature_weight=2.0, fit__epochs=1)
    assert np.isfinite(distill(teachers, tmp_path / "run", made, ("a", "b")).history[0]["train_loss"])
    made["loss"]["features"] = ["stage9:stage1"]
    with pytest.raises(InputError, match="intermediate of the network 'stage9'"):
        distill(teachers, tmp_path / "other", made)


def test_a_network_with_a_distillation_token_trains_both_heads(teachers, tmp_path):
    made = config(fit__epochs=1)
    made["model"] = dict(TWO_HEADS)
    made["loss"] |= {"method": "hard", "alpha": 0.5}
    result = distill(teachers, tmp_path / "run", made)
    start = experiment.init_variables(models.create(**made["model"]), (24, 24, 1), seed=1)
    for head in ("head", "head_dist"):
        moved = result.variables["params"][head]["out"]["kernel"] - start["params"][head]["out"]["kernel"]
        assert np.abs(moved).max() > 1e-4, head


# -- the front door ---------------------------------------------------------------------------------------------------


def test_what_cannot_teach_is_named_and_leaves_nothing(teachers, tmp_path):
    def refused(message, made=None, names=("a",)):
        with pytest.raises(InputError, match=message):
            distill(teachers, tmp_path / "run", made or config(), names)
        assert not (tmp_path / "run").exists()

    refused("--teacher", names=())
    refused("is not a folder", names=("c",))
    refused(r"24×24×1.* 32×32×1", config(data__size=32))
    refused(r"alpha must be in \[0, 1\], got 2", config(loss__alpha=2))
    refused("rule 'nothing' matches no parameter", config(optim__stages=[[1, ["head"]], [None, ["nothing"]]]))
    spec = checkpoint.read(teachers / "a")[0].spec
    with pytest.raises(InputError, match=r"angry, .*grin, gloom"):
        train_teacher.load([teachers / "a"], spec=spec.replace(class_names=("grin", "gloom")))
    checkpoint.save(tmp_path / "bare", "best", 1, {"params": {"x": np.zeros(1)}}, {}, keep=1)
    with pytest.raises(InputError, match="has no spec"):
        train_teacher.load([tmp_path / "bare"], spec=spec)
    with pytest.raises(InputError, match=r"teacher\.workdirs"):
        experiment.train(config(teacher__workdirs=["a"]), workdir=tmp_path / "run", data_dir=teachers / "data")


def test_another_teacher_is_another_experiment(teachers, tmp_path, stopped):
    made = config(fit__epochs=1)
    with pytest.raises(KeyboardInterrupt):
        distill(teachers, tmp_path / "run", made)
    with pytest.raises(InputError, match=r"another experiment: teacher\."):
        distill(teachers, tmp_path / "run", made, ("b",))


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "configs/baseline_cnn3.py:demo"], "--teacher"),
        (["--config", "configs/baseline_cnn3.py:demo", "--teacher", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(tmp_path, arguments, said, capsys):
    small = [f"--config.data.{split}=7" for split in ("train", "validation", "test")]
    with pytest.raises(SystemExit) as stopped:
        main(["distill", *arguments, *small, "--workdir", str(tmp_path / "run")])
    last = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and last.startswith("ferjax: error: ") and said in last
    assert not (tmp_path / "run").exists()


def test_a_run_of_an_older_ferjax_goes_on(teachers, tmp_path, stopped):
    """A configuration stored without a key that has a default since is the same experiment."""
    made = config(fit__epochs=1)
    with pytest.raises(KeyboardInterrupt):
        experiment.train(made, workdir=tmp_path / "run", data_dir=teachers / "data", progress=False)
    newer = config(fit__epochs=1, fit__sampling="shuffled", loss__alpha=None, augment__erase_area=(0.02, 0.15))
    train_config.claim(tmp_path / "run", newer)
    with pytest.raises(InputError, match=r"fit\.sampling is shuffled there and balanced here"):
        train_config.claim(tmp_path / "run", config(fit__epochs=1, fit__sampling="balanced"))
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == made

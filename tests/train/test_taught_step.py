"""The train step with a teacher: what the teacher sees, the written-out gradient, resume to the bit."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ferjax import augment, losses
from ferjax.train import feed
from ferjax.train.state import init_state
from ferjax.train.step import Outputs, Teacher, make_train_step
from ferjax.weights import checkpoint
from tests.support import tiny, tiny_runs
from tests.support.resuming import Stop, files, stop_after


def tiny_teacher(variables, example):
    """Sees the images in 0..1 as augmented, and normalises its own way."""
    x = example["images"] * 4.0 - 1.0
    return Outputs(tiny.apply_fn(variables, x, train=False), {})


def taught_loss(student, targets, taught):
    return losses.distillation(student.logits, targets, taught.logits, alpha=0.6, temperature=2.0)


def task(variables=None, **more):
    return tiny.task(loss=taught_loss, teacher=Teacher(tiny_teacher, variables or tiny.variables(seed=9)), **more)


def make_step(**more):
    tx = optax.sgd(0.5)
    return jax.jit(make_train_step(task(**more), tx)), init_state(tiny.variables(), tx)


def test_the_teacher_sees_the_augmented_images_and_the_gradient_is_that_of_the_written_loss(strict_dtypes):
    step, state = make_step(augment=augment.create(flip=1.0))
    batch, wise = tiny.faces(8), tiny.variables(seed=9)
    new, sums = step(state, batch, wise)
    mirrored = (batch["images"][:, :, ::-1] / 255).astype(np.float32)
    taught = np.asarray(tiny.apply_fn(wise, mirrored * 4 - 1, train=False))
    _, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))
    targets = np.eye(3, dtype=np.float32)[batch["labels"]]

    def written(params):
        logits, _ = tiny.apply_fn(
            {"params": params, **state.collections},
            jnp.array((mirrored - 0.5) / 0.25),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        log_p, log_q = jax.nn.log_softmax(taught / 2), jax.nn.log_softmax(logits / 2)
        soft = 4 * (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
        hard = -(targets * jax.nn.log_softmax(logits)).sum(-1)
        return (0.4 * hard + 0.6 * soft).mean(), logits

    (loss, logits), grads = jax.value_and_grad(written, has_aux=True)(state.params)
    chex.assert_trees_all_close(
        new.params, optax.apply_updates(state.params, jax.tree.map(lambda g: -0.5 * g, grads)), atol=1e-6
    )
    np.testing.assert_allclose(float(sums.loss) / 8, float(loss), rtol=1e-5)
    assert int(sums.agreed) == (np.asarray(logits).argmax(1) == taught.argmax(1)).sum()


@pytest.mark.parametrize("clean", [True, False])
def test_a_camera_is_the_students_and_the_teacher_shares_its_geometry(clean):
    """The camera turns images to negatives; the teacher sees positives if it is to see clean images."""
    seen = []

    def teach(variables, example):
        seen.append(example.get("clean", example["images"]))
        return Outputs(jnp.zeros((8, 3)), {})

    def apply(variables, x, **more):
        seen.append(x * 0.25 + 0.5)
        return tiny.apply_fn(variables, x, **more)

    made = tiny.task(
        loss=taught_loss,
        teacher=Teacher(teach, (), clean=clean),
        augment=augment.create(flip=1.0),
        camera=lambda key, images: 1 - images,
    )
    tx, batch = optax.sgd(0.5), tiny.faces(8)
    make_train_step(made._replace(apply=apply), tx)(init_state(tiny.variables(), tx), batch, ())
    mirrored = batch["images"][:, :, ::-1] / 255
    taught, student = (np.asarray(jax.lax.stop_gradient(images)) for images in seen)
    np.testing.assert_allclose(taught, mirrored if clean else 1 - mirrored, atol=1e-6)
    np.testing.assert_allclose(student, 1 - mirrored, atol=1e-6)


@pytest.mark.parametrize("saves", [2, 9])
def test_a_run_with_a_teacher_stopped_at_any_save_resumes_to_the_bit(tmp_path, monkeypatch, saves):
    settings = {"task": task(augment=augment.create(flip=0.5, erase=0.5)), "epochs": 3}
    tiny_runs.fit(tmp_path / "whole", **settings)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(checkpoint, "save", stop_after(checkpoint.save, saves))
        tiny_runs.fit(tmp_path / "cut", checkpoint_minutes=0.0, **settings)
    tiny_runs.fit(tmp_path / "cut", **settings)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_it_compiles_once_and_leaves_the_teacher_alone(tmp_path, monkeypatch):
    runs, make = [], feed.make_resident_steps

    def remember(*args, **kwargs):
        runs.append(make(*args, **kwargs))
        return runs[-1]

    monkeypatch.setattr(feed, "make_resident_steps", remember)
    wise = jax.tree.map(jnp.array, tiny.variables(seed=9))
    before = jax.tree.map(np.array, wise)
    result = tiny_runs.fit(tmp_path, task=task(wise), epochs=3)
    assert runs[0]._cache_size() == 1
    chex.assert_trees_all_equal(jax.tree.map(np.array, wise), before)
    assert all(0 <= row["teacher_agreement"] <= 1 for row in result.history)
    _, arrays, _ = next(checkpoint._good(tmp_path, "last"))
    assert not [name for name in arrays if "teacher" in name]

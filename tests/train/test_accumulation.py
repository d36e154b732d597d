"""Micro-batches add up to the batch; only where examples see each other, a micro-batch stands for a batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ferjax.train import feed
from ferjax.train.state import TrainState, init_state
from ferjax.train.step import Outputs, Teacher, make_train_step
from tests.support import tiny

SCANS = {"scan": jax.lax.scan, "unrolled": feed.unrolled_scan}


def plain_apply(variables, x, *, train, mutable=False, rngs=None):
    """`tiny.apply_fn` without what the examples of a batch share, and without chance."""
    flat = x.reshape(len(x), -1)
    logits = flat @ variables["params"]["kernel"] + variables["params"]["bias"][None]
    return (logits, {"batch_stats": variables["batch_stats"]}) if mutable is not False else logits


def one_step(apply_fn, *, batch, variables=None, teacher=None, **more):
    """Returns the state and the sums after one step of plain gradient descent."""
    task = tiny.task(apply=apply_fn)
    if teacher is not None:
        task = task._replace(
            loss=lambda outputs, targets, taught: tiny.loss_fn(outputs.logits, targets), teacher=Teacher(teacher, ())
        )
    tx = optax.sgd(0.1)
    step, state = make_train_step(task, tx, **more), init_state(variables or tiny.variables(), tx)
    return jax.jit(step)(state, batch, None)


def assert_close(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("parts", [2, 3, 12])
def test_micro_batches_add_up_to_the_batch(parts, scan):
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), tiny.variables())
        run = functools.partial(one_step, plain_apply, batch=tiny.faces(12), variables=variables)
        assert_close(run(accumulate=parts, scan=SCANS[scan]), run())


def test_a_teacher_answers_the_same():
    teacher = lambda _, example: Outputs(example["images"].reshape(len(example["images"]), -1)[:, :3], {})  # noqa: E731
    run = functools.partial(one_step, plain_apply, batch=tiny.faces(12), teacher=teacher)
    (_, one), (_, parts) = run(), run(accumulate=4)
    assert int(one.agreed) == int(parts.agreed) > 0


@pytest.mark.parametrize("scan", SCANS)
def test_statistics_are_a_micro_batchs_and_move_once_for_each(scan):
    faces = tiny.faces(6)
    state, _ = one_step(tiny.apply_fn, batch=faces, accumulate=2, scan=SCANS[scan])
    again, _ = one_step(tiny.apply_fn, batch=faces)
    x = (faces["images"].reshape(6, -1) / 255 - 0.5) / 0.25
    mean = np.zeros(x.shape[1])
    for examples in ([0, 2, 4], [1, 3, 5]):  # every device keeps examples that it has
        mean = 0.9 * mean + 0.1 * x[examples].mean(0)
    np.testing.assert_allclose(state.collections["batch_stats"]["mean"], mean, rtol=1e-5, atol=1e-6)
    assert not np.allclose(again.collections["batch_stats"]["mean"], mean)


def test_every_micro_batch_has_its_own_dropout():
    def apply_fn(variables, x, *, train, mutable=False, rngs=None):
        seen = variables["batch_stats"]["seen"]
        drawn = jax.random.bernoulli(rngs["dropout"], 0.5, (64,)).astype(jnp.float32)
        logits = x.reshape(len(x), -1) @ variables["params"]["kernel"]
        return logits, {"batch_stats": {"seen": jnp.concatenate([seen[1:], drawn[None]])}}

    variables = {"params": {"kernel": jnp.zeros((16, 3))}, "batch_stats": {"seen": jnp.zeros((3, 64))}}
    state, _ = one_step(apply_fn, batch=tiny.faces(6), variables=variables, accumulate=3)
    seen = np.asarray(state.collections["batch_stats"]["seen"])
    assert len(np.unique(seen, axis=0)) == 3


@pytest.mark.parametrize("scan", SCANS)
def test_micro_batches_take_less_memory(scan):
    width = 64

    def apply_fn(variables, x, *, train, mutable=False, rngs=None):
        x = x.reshape(len(x), -1) @ variables["params"]["first"]
        for kernel in variables["params"]["rest"]:
            x = jnp.tanh(x @ kernel)
        return x[:, : tiny.CLASSES], {}

    tx, params = optax.sgd(0.1), {"first": jnp.zeros((16, width)), "rest": [jnp.zeros((width, width))] * 4}
    faces = tiny.faces(8192)

    def temporary(parts):
        step = make_train_step(tiny.task(apply=apply_fn), tx, accumulate=parts, scan=SCANS[scan])
        state = TrainState(jnp.int32(0), params, {}, tx.init(params), ())
        return jax.jit(step).lower(state, faces).compile().memory_analysis().temp_size_in_bytes

    assert temporary(8) < 0.4 * temporary(1)

"""Tests batch normalization against flax's: variables, values, running statistics and gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.test_util import check_grads

from ferjax.models import cpu, normalization, operations
from ferjax.models.cpu import primitives

SHAPES = [(16, 5, 4, 3), (12, 3, 3, 2), (7, 2, 3, 4), (1, 4, 4, 2), (24, 6)]
SHAPES += [(16, 32, 32, 16), (20, 64, 32, 7)]  # large enough for sums in parts


def ours_and_flax(dtype=jnp.float32):
    settings = {"momentum": 0.9, "epsilon": 1e-3, "dtype": dtype}
    return normalization.BatchNorm(**settings), nn.BatchNorm(**settings)


def arrays(shape, dtype=float):
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, shape)
    params = {"scale": rng.normal(size=shape[-1]), "bias": rng.normal(size=shape[-1])}
    stats = {"mean": rng.normal(size=shape[-1]), "var": rng.uniform(1, 2, shape[-1])}
    return jax.tree.map(lambda a: jnp.array(a, dtype), (x, params, stats))


def answer(norm, x, params, stats, resting=False):
    """Returns the values, the statistics, and the gradients of x and the parameters."""

    def objective(x, params):
        variables = {"params": params, "batch_stats": stats}
        y, changed = norm.apply(variables, x, use_running_average=resting, mutable=["batch_stats"])
        return jnp.sin(y).sum(), (y, changed)

    return jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))(x, params)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("on_cpu", [False, True])
def test_values_averages_and_gradients_are_flax_s(monkeypatch, shape, on_cpu):
    monkeypatch.setattr(cpu, "wanted", lambda: on_cpu)
    with jax.enable_x64(True):
        ours, flax_s = (answer(norm, *arrays(shape)) for norm in ours_and_flax(jnp.float64))
        chex.assert_trees_all_close(ours, flax_s, rtol=1e-9, atol=1e-10)


def test_float32_stays_within_its_precision_of_float64():
    with jax.enable_x64(True):
        (_, exact_outputs), exact_gradients = answer(ours_and_flax(jnp.float64)[1], *arrays((16, 12, 12, 8)))
    (_, outputs), gradients = answer(ours_and_flax()[0], *arrays((16, 12, 12, 8), jnp.float32))
    exact = jax.tree.leaves((exact_outputs, exact_gradients))
    for ours, right in zip(jax.tree.leaves((outputs, gradients)), exact, strict=True):
        np.testing.assert_allclose(ours, right, rtol=1e-5, atol=1e-5 * np.abs(right).max())


def test_running_averages_are_used_and_kept():
    values = arrays(SHAPES[0], jnp.float32)
    ours, flax_s = (answer(norm, *values, resting=True) for norm in ours_and_flax())
    chex.assert_trees_all_equal(ours, flax_s)
    chex.assert_trees_all_equal(ours[0][1][1]["batch_stats"], values[2])


@pytest.mark.parametrize("shape", [(3, 5, 4, 7), (2, 130), (1, 1, 1, 1)])
def test_channel_sums_are_sums(shape):
    with jax.enable_x64(True):
        x = jnp.array(np.random.default_rng(0).normal(size=shape))
        np.testing.assert_allclose(primitives.channel_sums(x), x.sum(tuple(range(x.ndim - 1))), rtol=1e-12, atol=1e-13)


def test_variables_start_as_flax_s():
    x = jnp.ones((8, 2, 2, 3))
    ours, flax_s = (norm.init(jax.random.key(0), x, use_running_average=False) for norm in ours_and_flax())
    chex.assert_trees_all_equal(ours, flax_s)


def test_a_large_mean_does_not_spoil_the_variance():
    x = 1e4 + jnp.tile(jnp.array([-1.0, 1.0]), 512).reshape(16, 8, 8, 1)
    _, _, var = operations.CPU.batch_norm(x, jnp.ones(1), jnp.zeros(1), 1e-5)
    np.testing.assert_allclose(var, 1.0, rtol=1e-6)


@pytest.mark.parametrize("form", [operations.XLA, operations.CPU], ids=["xla", "cpu"])
def test_gradients_reach_the_mean_and_the_variance_too(form):
    with jax.enable_x64(True):
        x, params, _ = arrays((8, 3, 2))
        check_grads(lambda *a: form.batch_norm(*a, 1e-3), (x, params["scale"], params["bias"]), order=1, modes=["rev"])

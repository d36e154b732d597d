"""Tests max pooling against flax's: values and gradients, including ties."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax.models import operations


@pytest.mark.parametrize(("window", "stride"), [(3, 2), (2, 2), (3, 1)])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("size", [(8, 7), (5, 3)])
def test_values_and_gradients_equal_flax_including_ties(window, stride, padding, size):
    with jax.enable_x64(True):
        # integers of a small range: most windows contain their maximum more than once
        x = jnp.array(np.random.default_rng(0).integers(-3, 3, (2, *size, 3)), jnp.float64)

        def both(pool):
            def objective(x):
                y = pool(x, window, stride, padding)
                weights = jnp.arange(1.0, y.size + 1).reshape(y.shape)
                return (y * weights).sum(), y

            return jax.jit(jax.grad(objective, has_aux=True))(x)

        chex.assert_trees_all_equal(both(operations.CPU.max_pool), both(operations.XLA.max_pool))


def test_without_a_gradient_it_is_one_operation():
    program = jax.jit(lambda x: operations.CPU.max_pool(x, 3, 2, "SAME")).lower(jnp.ones((2, 6, 6, 3))).as_text()
    assert program.count("stablehlo.reduce_window") == 1
    assert "stablehlo.maximum" in program and "stablehlo.slice" not in program


@pytest.mark.parametrize("form", [operations.XLA, operations.CPU], ids=["xla", "cpu"])
def test_bfloat16_is_kept(form):
    x = jnp.arange(64, dtype=jnp.bfloat16).reshape(1, 8, 8, 1)
    gradient = jax.grad(lambda x: form.max_pool(x, 2, 2, "VALID").sum())(x)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(gradient[0, :2, :2, 0], float), [[0, 0], [0, 1]])

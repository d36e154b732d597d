"""Depthwise convolution as shifts against XLA's own: values and both gradients, in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax.models.depthwise import depthwise_conv, depthwise_shifts


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 6), (7, 5), (2, 3)])
def test_shifts_are_the_convolution_and_so_are_their_gradients(side, stride, size):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, kernel = jnp.array(rng.normal(size=(11, *size, 3))), jnp.array(rng.normal(size=(side, side, 1, 3)))
        results = [
            jax.value_and_grad(lambda x, k, f=f: jnp.sin(f(x, k, stride)).sum(), (0, 1))(x, kernel)
            for f in (depthwise_shifts, depthwise_conv)
        ]
        chex.assert_trees_all_close(*results, rtol=1e-9, atol=1e-10)

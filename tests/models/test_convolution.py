"""The convolutions written for CPUs against XLA's own: values and both gradients, in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ferjax.cli import InputError
from ferjax.models import convolution


def values_and_gradients(function, *shapes):
    rng = np.random.default_rng(0)
    arrays = [jnp.array(rng.normal(size=shape)) for shape in shapes]
    return jax.value_and_grad(lambda x, k: jnp.sin(function(x, k)).sum(), (0, 1))(*arrays)


def plain(stride, pad, groups):
    def convolve(x, kernel):
        names = ("NHWC", "HWIO", "NHWC")
        padding = ((pad, pad), (pad, pad))
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=names, feature_group_count=groups
        )

    return convolve


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 6), (7, 5), (2, 3), (1, 1)])
def test_shifts_are_the_convolution_and_so_are_their_gradients(side, stride, size):
    with jax.enable_x64(True):
        shapes = (11, *size, 3), (side, side, 1, 3)
        shifts = values_and_gradients(lambda x, k: convolution.depthwise_shifts(x, k, stride), *shapes)
        chex.assert_trees_all_close(
            shifts, values_and_gradients(plain(stride, side // 2, 3), *shapes), rtol=1e-9, atol=1e-10
        )


@pytest.mark.parametrize("stride", [1, 2])
def test_the_pointwise_kernel_gradient_is_the_convolution_s(stride):
    with jax.enable_x64(True):
        shapes = (5, 7, 6, 4), (1, 1, 4, 3)
        product = values_and_gradients(lambda x, k: convolution.pointwise(x, k, (stride, stride), "VALID"), *shapes)
        chex.assert_trees_all_close(product, values_and_gradients(plain(stride, 0, 1), *shapes), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pad", [0, 1, 2])
@pytest.mark.parametrize("size", [(26, 25), (10, 11), (6, 7)])  # the last by XLA's own gradient
def test_the_windowed_kernel_gradient_is_the_convolution_s(side, stride, pad, size):
    with jax.enable_x64(True):
        shapes = (6, *size, 16), (side, side, 16, 3)
        ends = ((pad, pad), (pad, pad))
        product = values_and_gradients(lambda x, k: convolution.windowed(x, k, (stride, stride), ends), *shapes)
        chex.assert_trees_all_close(product, values_and_gradients(plain(stride, pad, 1), *shapes), rtol=1e-9, atol=1e-9)


def test_the_windowed_kernel_gradient_sums_half_precision_in_float32():
    rng = np.random.default_rng(0)
    x, dy = (jnp.array(rng.normal(size=(8, 12, 12, c)), jnp.bfloat16) for c in (16, 4))
    half = convolution._kernel_product(x, dy, 3, 1, 1)
    exact = convolution._kernel_product(x.astype(jnp.float32), dy.astype(jnp.float32), 3, 1, 1)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, exact, rtol=1e-4, atol=1e-3)


def test_an_unknown_implementation_is_refused():
    with pytest.raises(InputError, match="shift"):
        convolution.depthwise("shift")

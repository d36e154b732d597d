"""Tests the CPU forms of the convolutions against XLA's: values and both gradients, in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from ferjax import models
from ferjax.errors import InputError
from ferjax.models import cpu, operations
from ferjax.models.cpu import convolution, depthwise, primitives


def values_and_gradients(function, *shapes):
    rng = np.random.default_rng(0)
    arrays = [jnp.array(rng.normal(size=shape)) for shape in shapes]
    return jax.jit(jax.value_and_grad(lambda x, k: jnp.sin(function(x, k)).sum(), (0, 1)))(*arrays)


def around(pad):
    return pad if isinstance(pad, str) else ((pad, pad), (pad, pad))


def plain(stride, pad, groups):
    def convolve(x, kernel):
        names = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), around(pad), dimension_numbers=names, feature_group_count=groups
        )

    return convolve


MORE_SIZES = [(6, 6), (7, 5), (4, 5), (3, 3), (2, 2), (1, 2), (1, 1)]


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["half", "SAME"])
@pytest.mark.parametrize("size", [(7, 4), (2, 3), *(pytest.param(size, marks=pytest.mark.slow) for size in MORE_SIZES)])
def test_shifts_are_the_convolution_and_so_are_their_gradients(side, stride, padding, size):
    pad = side // 2 if padding == "half" else padding
    with jax.enable_x64(True):
        shapes = (11, *size, 3), (side, side, 1, 3)
        shifts = values_and_gradients(lambda x, k: depthwise.convolve(x, k, (stride, stride), around(pad)), *shapes)
        chex.assert_trees_all_close(shifts, values_and_gradients(plain(stride, pad, 3), *shapes), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(7, 6), (8, 5), (1, 2)])
def test_pointwise_products_are_the_convolution_and_so_are_their_gradients(stride, size):
    with jax.enable_x64(True):
        shapes = (5, *size, 4), (1, 1, 4, 3)
        product = values_and_gradients(lambda x, k: convolution.pointwise(x, k, stride), *shapes)
        chex.assert_trees_all_close(product, values_and_gradients(plain(stride, 0, 1), *shapes), rtol=1e-9, atol=1e-10)


def test_a_pointwise_convolution_without_gradient_is_one_operation():
    arrays = jnp.ones((2, 6, 6, 4)), jnp.ones((1, 1, 4, 3))
    program = jax.jit(lambda x, k: convolution.pointwise(x, k, 2)).lower(*arrays).as_text()
    assert program.count("stablehlo.convolution") == 1
    assert "dot_general" not in program and "stablehlo.slice" not in program


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("function", "size", "kernel"),
    [
        (convolution.convolve, (11, 10), (1, 1, 16, 8)),
        (depthwise.convolve, (11, 10), (5, 5, 1, 16)),
        (depthwise.convolve, (3, 4), (5, 5, 1, 16)),
    ],
)
def test_half_precision_stays_and_is_summed_in_float32(function, size, kernel, stride):
    rng = np.random.default_rng(0)
    half = [jnp.array(rng.normal(size=shape), jnp.bfloat16) for shape in ((16, *size, 16), kernel)]
    exact = [a.astype(jnp.float32) for a in half]

    @jax.jit
    def answer(arrays):
        y, gradients = jax.vjp(lambda x, k: function(x, k, (stride, stride), "SAME"), *arrays)
        return y, *gradients(jnp.ones_like(y))

    for ours, right in zip(answer(half), answer(exact), strict=True):
        assert ours.dtype == jnp.bfloat16
        scale = np.abs(right).max()
        np.testing.assert_allclose(ours.astype(jnp.float32), right, rtol=2**-7, atol=2**-8 * scale)


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pad", [0, 1, 2, "SAME"])
@pytest.mark.parametrize("size", [(26, 25), (10, 11), (6, 7), (5, 5)])  # then XLA's own gradient, unfolded windows
def test_the_windowed_kernel_gradient_is_the_convolution_s(side, stride, pad, size):
    with jax.enable_x64(True):
        shapes = (6, *size, 16), (side, side, 16, 3)
        product = values_and_gradients(lambda x, k: convolution.convolve(x, k, (stride, stride), around(pad)), *shapes)
        chex.assert_trees_all_close(product, values_and_gradients(plain(stride, pad, 1), *shapes), rtol=1e-9, atol=1e-9)


def test_the_windowed_kernel_gradient_sums_half_precision_in_float32():
    rng = np.random.default_rng(0)
    x, dy = (jnp.array(rng.normal(size=(8, 12, 12, c)), jnp.bfloat16) for c in (16, 4))
    half = convolution._kernel_product(x, dy, 3, 1, ((1, 1), (1, 1)))
    exact = convolution._kernel_product(x.astype(jnp.float32), dy.astype(jnp.float32), 3, 1, ((1, 1), (1, 1)))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, exact, rtol=1e-4, atol=1e-3)


def test_computed_once_changes_neither_values_nor_gradients():
    x = jnp.array([[0.0, -0.0, 1e-38, -3.5], [jnp.inf, -jnp.inf, jnp.nan, 1e38]])
    options = {"xla_backend_optimization_level": 1}  # without passes, LLVM keeps the division, which flushes 1e-38
    np.testing.assert_array_equal(jax.jit(primitives.computed_once, compiler_options=options)(x), x)
    once, transpose = jax.vjp(jax.jit(primitives.computed_once), x)
    np.testing.assert_array_equal(np.signbit(once), np.signbit(x))
    np.testing.assert_array_equal(transpose(x)[0], x)


@pytest.mark.parametrize(("on_cpu", "form"), [(False, operations.XLA), (True, operations.CPU)], ids=["xla", "cpu"])
def test_one_switch_chooses_the_form(monkeypatch, on_cpu, form):
    monkeypatch.setattr(cpu, "wanted", lambda: on_cpu)
    assert operations.chosen() is form
    assert operations.depthwise("auto") is form.depthwise
    assert operations.depthwise("conv") is operations.XLA.depthwise
    assert operations.depthwise("shifts") is operations.CPU.depthwise
    assert bool(models.compiler_options(models.create("mini_xception"))) is on_cpu


@pytest.mark.parametrize("form", [operations.XLA, operations.CPU], ids=["xla", "cpu"])
@pytest.mark.parametrize(("side", "pad"), [(1, 0), (1, 1), (3, 1), (1, "SAME"), (3, "SAME")])
def test_both_forms_equal_the_convolution_of_flax(form, side, pad):
    layer = nn.Conv(4, (side, side), (2, 2), around(pad), use_bias=False, conv_general_dilated=form.convolve)
    with jax.enable_x64(True):
        x = jnp.array(np.random.default_rng(0).normal(size=(2, 7, 6, 3)))
        kernel = jnp.array(np.random.default_rng(1).normal(size=(side, side, 3, 4)))
        y = layer.apply({"params": {"kernel": kernel}}, x)
        np.testing.assert_allclose(y, plain(2, pad, 1)(x, kernel), rtol=1e-12)


def test_an_unknown_implementation_raises():
    with pytest.raises(InputError, match="shift"):
        operations.depthwise("shift")

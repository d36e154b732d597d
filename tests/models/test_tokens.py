"""Tests both forms of the transformers' operations against flax's: values and gradients, in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ferjax import models
from ferjax.models import cpu, operations
from tests.support import quick, tiny_networks

EPSILON = 1e-6


def arrays(*shapes, dtype=float):
    rng = np.random.default_rng(0)
    return [jnp.array(rng.normal(1.0, 2.0, size=shape), dtype) for shape in shapes]


def values_and_gradients(function, inputs):
    places = tuple(range(len(inputs)))
    return jax.jit(jax.value_and_grad(lambda *inputs: jnp.sin(function(*inputs)).sum(), places))(*inputs)


def flax_normalize(x, scale, bias):
    norm = nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, dtype=x.dtype)
    return norm.apply({"params": {"scale": scale, "bias": bias}}, x)


both_forms = pytest.mark.parametrize("form", [operations.XLA, operations.CPU], ids=["xla", "cpu"])


@both_forms
@pytest.mark.parametrize("leading", [(), (5,), (2, 7), (2, 3, 5)])
def test_a_layer_norm_is_flax_s_and_so_are_its_gradients(form, leading):
    with jax.enable_x64(True):
        inputs = arrays((*leading, 6), (6,), (6,))
        ours = values_and_gradients(lambda *inputs: form.layer_norm(*inputs, EPSILON), inputs)
        chex.assert_trees_all_close(ours, values_and_gradients(flax_normalize, inputs), rtol=1e-9, atol=1e-10)


@both_forms
@pytest.mark.parametrize("leading", [(), (5,), (2, 7)])
def test_a_linear_layer_is_a_product_and_so_are_its_gradients(form, leading):
    with jax.enable_x64(True):
        inputs = arrays((*leading, 6), (6, 4))
        ours = values_and_gradients(form.linear, inputs)
        chex.assert_trees_all_close(ours, values_and_gradients(jnp.matmul, inputs), rtol=1e-9, atol=1e-10)


@both_forms
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_stored_changes_neither_values_nor_gradients(form, dtype):
    values = [0.0, -1.5, jnp.inf, -jnp.inf, jnp.nan, 0.1, 7e9]
    x = jnp.array(values, dtype)[:, None] * jnp.ones((1, 3), dtype)
    answer, gradient = jax.jit(lambda x, dy: (lambda y, pull: (y, *pull(dy)))(*jax.vjp(form.stored, x)))(x, x[::-1])
    np.testing.assert_array_equal(answer.astype(jnp.float32), x.astype(jnp.float32))
    np.testing.assert_array_equal(gradient.astype(jnp.float32), x[::-1].astype(jnp.float32))
    assert answer.dtype == gradient.dtype == dtype


def test_half_precision_is_summed_in_float32():
    half = arrays((4, 50, 16), (16, 24), dtype=jnp.bfloat16)

    def gradients(inputs):
        y, pull = jax.vjp(operations.CPU.linear, *inputs)
        return pull(jnp.ones_like(y))

    for ours, right in zip(gradients(half), gradients([a.astype(jnp.float32) for a in half]), strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(jnp.float32), right, rtol=1 / 128)


@pytest.mark.parametrize("name", ["deit_tiny", "deit_tiny_distilled", "deit_attention_free"])
def test_a_transformer_has_the_gradients_of_the_plain_form(monkeypatch, name):
    options = {"depth": 2, "width": 12, "patch": 8, "grid": (2, 2)}
    module = models.create(name, **options, **({} if "free" in name else {"heads": 3}))
    with jax.enable_x64(True):
        module = module.clone(dtype=jnp.float64)
        (x,) = arrays((3, 24, 16, 1))
        variables = tiny_networks.variables(module, x.shape[1:], dtype=np.float64)

        def gradients():
            return quick.jit(jax.grad(lambda v: jnp.sin(3 * module.apply(v, x, train=True)).sum()))(variables)

        ours = gradients()
        monkeypatch.setattr(cpu, "wanted", lambda: False)
        chex.assert_trees_all_close(ours, gradients(), rtol=1e-5, atol=1e-6)


def test_without_gradient_the_program_is_unchanged():
    def program(function, *inputs):
        return jax.jit(function).lower(*inputs).as_text()

    (x, scale, bias) = arrays((2, 5, 6), (6,), (6,), dtype=jnp.float32)
    assert "divide" not in program(operations.CPU.stored, x)
    ours, plain = (
        program(lambda *inputs: operations.CPU.layer_norm(*inputs, EPSILON), x, scale, bias),
        program(flax_normalize, x, scale, bias),
    )
    for operation in ("divide", "subtract", "multiply", "rsqrt", "add", "reduce("):
        assert ours.count(f"stablehlo.{operation}") == plain.count(f"stablehlo.{operation}"), operation

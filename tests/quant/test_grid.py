import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ferjax import quant
from ferjax.errors import InputError

pytestmark = pytest.mark.usefixtures("strict_dtypes")

numbers = st.floats(-50, 50, width=32).filter(lambda v: v == 0 or abs(v) > 1e-3)
vectors = hnp.arrays(np.float32, (16,), elements=numbers)
ends = st.floats(0.0625, 30, width=32)
activation = jax.jit(lambda x, low, high: quant.fake_quant(x, quant.activation_grid(low, high)))
weight = {b: jax.jit(lambda w, b=b: quant.fake_quant(w, quant.weight_grid(w, bits=b))) for b in (4, 8)}
slope = jax.jit(jax.grad(lambda x, low, high: activation(x, low, high).sum()))


def grid_of(low, high):
    return jax.tree.map(np.asarray, quant.activation_grid(jnp.float32(low), jnp.float32(high)))


@settings(max_examples=60, deadline=None)
@given(x=vectors, low=ends, high=ends)
def test_activations_land_on_the_grid_nearest(x, low, high):
    low, grid = -low, grid_of(-low, high)
    y = np.asarray(activation(x, np.float32(low), np.float32(high)))
    np.testing.assert_array_equal(activation(y, np.float32(low), np.float32(high)), y)  # idempotent
    order = np.argsort(x, kind="stable")
    assert (np.diff(y[order]) >= 0).all()  # monotone
    q = y / grid.scale + grid.zero_point
    assert np.abs(q - np.round(q)).max() < 1e-3 and q.round().min() >= -128 and q.round().max() <= 127
    least, most = ((np.float64(end) - grid.zero_point) * grid.scale for end in (grid.low, grid.high))
    inside = (x >= least) & (x <= most)
    assert np.abs(y - x)[inside].max(initial=0) <= 0.5001 * grid.scale  # at most half a step
    np.testing.assert_allclose(y[x < least], least, rtol=1e-5)
    np.testing.assert_allclose(y[x > most], most, rtol=1e-5)
    # 1 where the nearest whole number is on the grid, 0 where it had to be clipped
    far = (x < least - 0.51 * grid.scale) | (x > most + 0.51 * grid.scale)
    gradient = np.asarray(slope(x, np.float32(low), np.float32(high)))
    assert (gradient[inside] == 1).all() and (gradient[far] == 0).all()


@settings(max_examples=40, deadline=None)
@given(w=hnp.arrays(np.float32, (3, 5), elements=numbers), bits=st.sampled_from([4, 8]))
def test_weights_are_symmetric_per_channel_and_narrow(w, bits):
    top = 2 ** (bits - 1) - 1
    y = np.asarray(weight[bits](w))
    np.testing.assert_array_equal(weight[bits](-w), -y)
    largest = np.abs(w).max(0)
    np.testing.assert_allclose(np.abs(y).max(0), largest, rtol=1e-6)
    assert (np.abs(y - w) <= 0.5001 * largest / top).all()
    np.testing.assert_allclose(weight[bits](y), y, rtol=1e-6)
    assert (np.asarray(jax.grad(lambda w: quant.fake_quant(w, quant.weight_grid(w, bits=bits)).sum())(w)) == 1).all()


def test_zero_is_on_every_grid():
    for low, high in ((0.0, 6.0), (-1.0, 0.0), (-0.3, 2.0), (0.5, 2.0), (-2.0, -0.5), (0.0, 0.0)):
        grid = quant.activation_grid(jnp.float32(low), jnp.float32(high))
        assert float(quant.fake_quant(jnp.float32(0), grid)) == 0
        assert -128 <= float(grid.zero_point) <= 127
        assert float(quant.quantize(jnp.float32(0), grid)) == float(grid.zero_point)


def test_a_grid_by_hand():
    # -1 … 2 in 255 steps: scale 3/255, zero point -128 + 85 = -43; 0.5 is 42.5 steps, to 42; 9 clips to 127
    grid = quant.activation_grid(jnp.float32(-1), jnp.float32(2))
    np.testing.assert_allclose(grid.scale, 3 / 255)
    assert float(grid.zero_point) == -43
    x = jnp.array([-1, 0.25, 1.0, 9.0], jnp.float32)
    np.testing.assert_array_equal(quant.quantize(x, grid), [-128, 21 - 43, 85 - 43, 127])
    np.testing.assert_allclose(quant.fake_quant(x, grid), [-1, 21 * 3 / 255, 1, 2], rtol=1e-6)


def test_the_mark_has_the_values_of_fake_quant():
    rng = np.random.default_rng(0)
    x, w = (jnp.array(rng.normal(size=s), jnp.float32) for s in ((5, 4), (3, 3, 2, 4)))
    for value, grid in ((x, quant.activation_grid(jnp.float32(-1), jnp.float32(2))), (w, quant.weight_grid(w))):
        np.testing.assert_array_equal(quant.mark(value, grid), quant.fake_quant(value, grid))
    grid = quant.weight_grid(w)
    (equation,) = jax.make_jaxpr(lambda w: quant.mark(w, grid))(w).eqns
    attributes = {name: leaves[0] for name, leaves, _ in equation.params["attributes"]}
    assert equation.params["name"] == "quant.fake_quant"
    assert set(attributes) == {"scale", "zero_point", "dtype", "narrow_range", "quantization_dimension"}
    assert attributes["dtype"] == "i8" and attributes["narrow_range"] and attributes["quantization_dimension"] == 3


def test_rules_say_which_kernels_are_rounded():
    params = {n: {"kernel": jnp.array([[0.3, 1.0], [1.0, 0.31]]), "bias": jnp.array([0.3, 0.31])} for n in ("a", "b")}
    rounded = quant.fake_quant_weights(params, bits=4, rules=["^a/kernel"])
    # 0.3 is 2.1 sevenths, 0.31 is 2.17
    np.testing.assert_allclose(rounded["a"]["kernel"], [[2 / 7, 1], [1, 2 / 7]], rtol=1e-6)
    chex.assert_trees_all_equal(rounded["b"], params["b"])
    chex.assert_trees_all_equal(rounded["a"]["bias"], params["a"]["bias"])
    with pytest.raises(InputError, match="the rule 'stem' matches no parameter"):
        quant.fake_quant_weights(params, rules=["stem"])


def test_valverdes_figure_6():
    weights = jnp.array([[1.15, 11.05, -1.75], [-6.78, -4.89, -0.66], [2.35, 0.46, 8.92]], jnp.float32)
    integers, scale = quant.uniform_quantize(weights)
    np.testing.assert_array_equal(integers, [[13, 127, -20], [-78, -56, -8], [27, 5, 103]])
    np.testing.assert_allclose(scale, 127 / 11.05, rtol=1e-6)
    np.testing.assert_allclose(integers / scale, weights, atol=0.5 / float(scale) + 1e-6)
    assert float(jnp.abs(quant.uniform_quantize(weights, bits=4)[0]).max()) == 7


def test_folding_by_hand():
    # g = 3 / sqrt(3.99 + 0.01) = 1.5; kernel 2 · 1.5; bias (0.5 - 1) · 1.5 + 0.25
    variables = {
        "params": {
            "a": {"conv": {"kernel": jnp.full((1, 1, 1, 1), 2.0), "bias": jnp.array([0.5])}, "bn": {}},
            "b": {"kernel": jnp.ones((2, 2))},
        },
        "batch_stats": {"a": {"bn": {"mean": jnp.array([1.0]), "var": jnp.array([3.99])}}},
    }
    variables["params"]["a"]["bn"] = {"scale": jnp.array([3.0]), "bias": jnp.array([0.25])}
    folded = quant.fold_batch_norm(variables, {"a": 0.01})
    assert set(folded) == {"params"} and set(folded["params"]["a"]) == {"conv"}
    np.testing.assert_allclose(folded["params"]["a"]["conv"]["kernel"].item(), 3, rtol=1e-6)
    np.testing.assert_allclose(folded["params"]["a"]["conv"]["bias"].item(), -0.5, rtol=1e-6)


@pytest.mark.parametrize("use", [quant.weight_grid, quant.uniform_quantize])
def test_unsupported_bits_raise(use):
    with pytest.raises(InputError, match="bits must be 4 or 8, got 7"):
        use(jnp.ones((2, 2)), bits=7)

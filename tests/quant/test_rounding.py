import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from ferjax import losses, models, quant
from ferjax.errors import InputError
from ferjax.quant import rounding as quant_rounding
from ferjax.train.state import init_state
from ferjax.train.step import Task, make_train_step
from tests.support import quick
from tests.support import tiny_networks as tiny
from tests.support.tiny import SPEC

QUICK = ("resnet18", "resemotenet", "mini_xception", "baseline_cnn3", "deit_attention_free")
QUICK_FIRST = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in tiny.SMALL]


def folded(name, dtype=jnp.float32):
    module, _, shape = tiny.create(name, dtype)
    values = tiny.variables(module, shape, dtype=dtype)
    return (module, values), quant_rounding.fold(module, values, shape), tiny.images(shape, dtype=dtype), shape


def prepared(name="baseline_cnn3"):
    """A folded network with empty ranges."""
    _, (module, variables), x, shape = folded(name)
    return module, {**variables, "ranges": quant_rounding.initial_ranges(module, shape)}, x


def run(apply, variables, x, **options):
    return quick.jit(functools.partial(apply, train=False, **options))(variables, x)


@pytest.mark.parametrize("name", QUICK_FIRST)
def test_folding_keeps_the_logits(name):
    with jax.enable_x64(True):
        before, after, x, _ = folded(name, jnp.float64)
        assert "batch_stats" not in after[1]
        logits = tiny.logits(*before, x)
        assert logits.dtype == np.float64
        np.testing.assert_allclose(tiny.logits(*after, x), logits, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(tiny.SMALL))
def test_folding_keeps_the_logits_in_float32(name):
    before, after, x, _ = folded(name)
    logits = tiny.logits(*before, x)
    assert np.abs(tiny.logits(*after, x) - logits).max() < 1e-4 * np.abs(logits).max()


@pytest.mark.parametrize("name", models.list_models())
def test_every_layer_with_a_kernel_rounds_its_output(name):
    module, _, shape = tiny.create(name)
    points = traverse_util.flatten_dict(quant_rounding.initial_ranges(module, shape))
    rounding = {path[:-2] for path in points if len(path) > 1}
    assert ("low",) in points  # the image
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    params = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), image)["params"]
    kernels = [path for path in traverse_util.flatten_dict(params) if path[-1] == "kernel"]
    assert {path[:-2] for path in kernels} <= rounding


def test_ranges_are_averages_of_what_was_seen():
    module, variables, x = prepared()
    apply = quant_rounding.make_apply(module, decay=0.75)
    _, first = run(apply, variables, x, mutable=["ranges"])
    np.testing.assert_array_equal(first["ranges"]["low"], x.min())
    np.testing.assert_array_equal(first["ranges"]["high"], x.max())
    _, second = run(apply, {**variables, **first}, 2 * x, mutable=["ranges"])
    np.testing.assert_allclose(second["ranges"]["high"], 0.75 * x.max() + 0.25 * 2 * x.max(), rtol=1e-6)
    assert float(first["ranges"]["conv1"]["q"]["low"]) == 0  # after a ReLU
    quant_rounding.check_ranges(second["ranges"])
    # evaluation keeps the ranges; logits lie on the grid of the last point
    logits = run(apply, {**variables, **second}, x)
    grid = quant.activation_grid(**second["ranges"]["head"]["q"])
    np.testing.assert_array_equal(quant.fake_quant(logits, grid), logits)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (3, 5, 7, 3), (2, 6, 6, 16), (4, 9, 12)])
def test_both_ends_of_a_batch_are_numpys(shape):
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    assert [float(v) for v in jax.jit(quant_rounding.min_max)(x)] == [x.min(), x.max()]
    x.flat[-1] = np.nan
    assert all(np.isnan(quant_rounding.min_max(x)))


def test_ranges_are_not_differentiated():
    module, variables, x = prepared()
    apply = quant_rounding.make_apply(module)

    def loss(params):
        logits, _ = apply({**variables, "params": params}, x, train=False, mutable=["ranges"])
        return logits.sum()

    reductions = [str(jax.make_jaxpr(f)(variables["params"])).count(" reduce[") for f in (loss, jax.grad(loss))]
    # two for each range; differentiated, each would be a tree of halves, six times as slow
    assert reductions == [len(jax.tree.leaves(variables["ranges"]))] * 2


def test_percentiles_exclude_outliers():
    x = jnp.arange(1000.0)
    assert [float(v) for v in quant_rounding.percentile(99)(x)] == [10, 989]
    assert [float(v) for v in quant_rounding.percentile(100)(x)] == [0, 999]
    module, variables, x = prepared()
    narrow = quant_rounding.make_apply(module, observe=quant_rounding.percentile(90))
    _, seen = run(narrow, variables, x, mutable=["ranges"])
    assert float(x.min()) < float(seen["ranges"]["low"]) < float(seen["ranges"]["high"]) < float(x.max())


def test_a_network_trains_through_its_rounding():
    module, variables, _ = prepared()
    apply = quant_rounding.make_apply(module)
    tx = optax.adam(3e-3)
    spec = SPEC.replace(class_names=tuple("abcdefg"))
    step = make_train_step(Task(apply, losses.cross_entropy, spec), tx)
    state = init_state(variables, tx)
    rng = np.random.default_rng(0)
    batch = {
        "images": rng.integers(0, 256, (8, 16, 16, 1)).astype(np.uint8),
        "labels": np.arange(8, dtype=np.int32) % 7,
    }
    step, totals = jax.jit(step), []
    for _ in range(12):
        state, sums = step(state, batch)
        totals.append(float(sums.loss))
    assert totals[-1] < 0.7 * totals[0] and float(sums.grad_norm) > 0 and int(sums.bad) == 0
    quant_rounding.check_ranges(state.collections["ranges"])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, variables["params"])
    assert all(jax.tree.leaves(moved))


def test_the_marked_network_is_the_one_that_was_trained():
    module, variables, x = prepared("resnet18")
    # Training rounds the biases too; the marked network leaves that to the converter.
    params = jax.tree_util.tree_map_with_path(lambda p, v: 0 * v if p[-1].key == "bias" else v, variables["params"])
    variables = {**variables, "params": params}
    _, ranges = run(quant_rounding.make_apply(module), variables, x, mutable=["ranges"])
    variables = {**variables, **ranges}
    with jax.enable_x64(True):  # in float32 the sums of two programs may differ, and with them what they are rounded to
        wide, x = module.clone(dtype=jnp.float64), np.float64(x)
        marked = jax.jit(quant_rounding.make_marked(wide, variables))
        trained = run(quant_rounding.make_apply(wide), variables, x)
        assert np.ptp(trained) > 0.1
        np.testing.assert_array_equal(marked(x), trained)
        program = jax.make_jaxpr(marked)(x)
    names = [str(e.params.get("name")) for e in program.jaxpr.eqns[0].params["jaxpr"].eqns]
    kernels = sum(leaf.ndim > 1 for leaf in jax.tree.leaves(variables["params"]))
    points = len(jax.tree.leaves(variables["ranges"])) // 2
    assert names.count("quant.fake_quant") == kernels + points


def test_wrong_input_is_named():
    module, variables, x = prepared()
    with pytest.raises(InputError, match=r"decay must be in \[0, 1\), got 1"):
        quant_rounding.make_apply(module, decay=1)
    with pytest.raises(InputError, match="percentile must be above 50 and at most 100, got 50"):
        quant_rounding.percentile(50)
    with pytest.raises(InputError, match="no range for the image"):
        run(quant_rounding.make_apply(module), {"params": variables["params"]}, x)
    with pytest.raises(InputError, match=r"the range of the image was never observed \(0 of \d+ were\)"):
        quant_rounding.make_marked(module, variables)

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from ferjax import models, prune
from ferjax.errors import InputError
from ferjax.prune import slim
from tests.support import quick
from tests.support import tiny_networks as tiny

RULED = [name for name in tiny.SMALL if name != "deit_attention_free"]
QUICK = ("resnet20", "resnet50", "resemotenet", "mini_xception", "deit_tiny")
QUICK_FIRST = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in RULED]


def some_channels(groups, values, seed=0):
    """Keeps a random part of each group, no two of the same share; a bottleneck's first stage stays above its stem."""
    rng = np.random.default_rng(seed)
    scores = slim.channel_scores(groups, values)
    widths = {g.name: max(g.least, int(rng.uniform(0.4, 0.9) * len(scores[g.name]))) for g in groups}
    sizes = {name: min(width, len(scores[name])) for name, width in widths.items()}
    return {n: np.sort(rng.permutation(len(scores[n]))[:size]) for n, size in sizes.items()}


def zeroed(groups, values, keep):
    """Zeroes the parameters of the makers and carriers of all channels that are not kept."""
    flat = traverse_util.flatten_dict(values["params"], sep="/")
    for group in groups:
        for path, x in flat.items():
            if path.startswith(tuple(f"{module}/" for module in (*group.makers, *group.carriers))):
                flat[path] = jnp.asarray(np.where(np.isin(np.arange(x.shape[-1]), keep[group.name]), x, 0))
    return {**values, "params": traverse_util.unflatten_dict(flat, sep="/")}


def slimmed(name, dtype):
    """Logits of the network with zeroed channels, of the cut one, and of the network before."""
    module, arguments, shape = tiny.create(name, dtype)
    values, x = tiny.variables(module, shape, dtype=dtype), tiny.images(shape, dtype=dtype)
    groups = slim.find_groups(name, arguments)
    keep = some_channels(groups, values)
    silent = zeroed(groups, values, keep)
    smaller, cut = slim.cut(name, arguments, silent, keep, image_shape=shape)
    json.dumps(smaller)
    assert sum(x.size for x in jax.tree.leaves(cut)) < 0.95 * sum(x.size for x in jax.tree.leaves(values))
    network = models.create(name, dtype=dtype, **smaller)
    return tiny.logits(module, silent, x), tiny.logits(network, cut, x), tiny.logits(module, values, x)


@pytest.mark.parametrize("name", QUICK_FIRST)
def test_cutting_silent_channels_changes_nothing(name):
    with jax.enable_x64(True):
        silent, cut, before = slimmed(name, jnp.float64)
    assert silent.dtype == np.float64 and np.abs(before - silent).max() > 1e-3
    np.testing.assert_allclose(cut, silent, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", RULED)
def test_in_float32_too(name):
    silent, cut, _ = slimmed(name, jnp.float32)
    assert np.abs(cut - silent).max() < 1e-4 * np.abs(silent).max()


@pytest.mark.parametrize("name", RULED)
def test_the_rules_cover_the_network(name):
    """Every kernel is made or read by some group, and every place states the width that its makers have."""
    module, arguments, shape = tiny.create(name)
    values, groups = tiny.variables(module, shape), slim.find_groups(name, arguments)
    scores = slim.channel_scores(groups, values)
    _, same = slim.cut(
        name, arguments, values, {g.name: np.arange(len(scores[g.name])) for g in groups}, image_shape=shape
    )
    jax.tree.map(np.testing.assert_array_equal, dict(same), dict(values))
    assert len({g.name for g in groups}) == len(groups)
    if not name.startswith("deit"):
        touched = {module for g in groups for module in (*g.makers, *g.carriers, *g.readers)}
        kernels = [k for k in prune.layer_sparsity(values["params"]) if not any(k.startswith(t) for t in touched)]
        # the rest reads the image, or belongs to channels that stay
        assert set(kernels) <= {"stem/conv/kernel", "stem1/conv/kernel"}


def test_channels_that_pruning_killed_are_found_and_removed():
    module, arguments, shape = tiny.create("resnet20")
    values = tiny.variables(module, shape)
    tx = prune.prune(0.6, structure="filter", rules=["conv1/conv/kernel$"], distribution="uniform")
    still = jax.tree.map(jnp.zeros_like, values["params"])
    steps, _ = quick.jit(lambda given, params: tx.update(given, tx.init(params), params))(still, values["params"])
    pruned = {**values, "params": optax.apply_updates(values["params"], steps)}
    groups = slim.find_groups("resnet20", arguments)
    keep = slim.keep_alive(groups, pruned)
    # 60 % of 16, 32 and 64 filters: 6, 13 and 26 remain, kept in eights
    assert {n: len(k) for n, k in keep.items()} == {
        "layer1_0.conv1": 8,
        "layer1_1.conv1": 8,
        "layer2_0.conv1": 16,
        "layer3_0.conv1": 32,
    }
    smaller, cut = slim.cut("resnet20", arguments, pruned, keep, image_shape=shape)
    assert smaller["hidden"] == [[8], [8], [16], [32]]
    x = tiny.images(shape)
    expected = tiny.logits(module, pruned, x)
    np.testing.assert_allclose(tiny.logits(models.create("resnet20", **smaller), cut, x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cost_of, share", [(slim.parameters, 0.5), (slim.macs, 0.4)])
def test_a_target_is_met_by_the_highest_scores(cost_of, share):
    module, arguments, shape = tiny.create("resnet20")
    values = tiny.variables(module, shape)
    scores = slim.channel_scores(slim.find_groups("resnet20", arguments), values)
    price = cost_of(shape)
    keep = slim.choose("resnet20", arguments, scores, cost_of=price, target=share * price(module))
    smaller, _ = slim.cut("resnet20", arguments, values, keep, image_shape=shape)
    assert 0.6 * share * price(module) < price(models.create("resnet20", **smaller)) <= share * price(module)
    assert all(len(stay) % (16 if scores[name].size >= 32 else 8) == 0 for name, stay in keep.items())
    for name, stay in keep.items():
        gone = np.setdiff1d(np.arange(len(scores[name])), stay)
        assert scores[name][stay].min() >= scores[name][gone].max()


def test_a_latency_can_be_the_cost_and_a_generous_target_changes_nothing():
    module, arguments, shape = tiny.create("baseline_cnn3")
    values = tiny.variables(module, shape)
    scores = slim.channel_scores(slim.find_groups("baseline_cnn3", arguments), values)
    milliseconds = lambda module: sum(module.widths) / 10  # noqa: E731
    assert slim.choose("baseline_cnn3", arguments, scores, cost_of=milliseconds, target=7.2) == {}
    keep = slim.choose("baseline_cnn3", arguments, scores, cost_of=milliseconds, target=4)
    assert sum(len(keep.get(f"conv{i}", range(w))) for i, w in ((1, 16), (2, 24), (3, 32))) <= 40


def test_scores_see_the_normalization_and_the_loss():
    module, arguments, shape = tiny.create("baseline_cnn5")
    values = tiny.variables(module, shape)
    groups = slim.find_groups("baseline_cnn5", arguments)
    values["params"]["conv1"]["bn"]["scale"] = values["params"]["conv1"]["bn"]["scale"].at[3].set(0.0)
    assert slim.channel_scores(groups, values)["conv1"].argmin() == 3
    # the loss Σ w² / 2 of the bias has the gradient w: the score is w² of the bias
    slopes = jax.tree.map(jnp.zeros_like, values["params"])
    slopes["conv2"]["bn"]["bias"] = values["params"]["conv2"]["bn"]["bias"]
    scores = slim.channel_scores(groups, values, slopes)
    np.testing.assert_allclose(scores["conv2"], values["params"]["conv2"]["bn"]["bias"] ** 2, rtol=1e-6)
    assert not scores["conv1"].any()


def test_wrong_input_is_named():
    module, arguments, shape = tiny.create("resnet20")
    values = tiny.variables(module, shape)
    with pytest.raises(InputError, match=r"deit_attention_free cannot be slimmed\. Accepted: resnet18, "):
        slim.find_groups("deit_attention_free", {})
    with pytest.raises(InputError, match=r"unknown group of channels 'stage9'\. Did you mean 'stage"):
        slim.cut("resnet20", arguments, values, {"stage9": np.arange(8)}, image_shape=shape)
    with pytest.raises(InputError, match=r"has shape .* the slimmed resnet20 needs"):
        slim.cut("resnet20", {}, values, {}, image_shape=shape)
    scores = slim.channel_scores(slim.find_groups("resnet20", arguments), values)
    with pytest.raises(InputError, match=r"cannot be slimmed to 10: its minimum is \d+"):
        slim.choose("resnet20", arguments, scores, cost_of=slim.parameters(shape), target=10)

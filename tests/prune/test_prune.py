import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferjax import prune
from ferjax.errors import InputError
from ferjax.prune import layers, selection

SHAPES = {"a": (3, 3, 4, 8), "b": (3, 3, 8, 12), "c": (12, 5)}
SIZES = {name: int(np.prod(shape)) for name, shape in SHAPES.items()}
TOTAL = sum(SIZES.values())


def network(seed=0):
    """Two normalized convolutions and a linear layer, under the names that the networks use."""
    rng = np.random.default_rng(seed)
    tree = {n: {"kernel": jnp.array(rng.normal(size=s), jnp.float32)} for n, s in SHAPES.items()}
    vector = lambda size: jnp.array(rng.normal(size=size), jnp.float32)  # noqa: E731
    blocks = {n: {"conv": tree[n], "bn": {"scale": vector(SHAPES[n][-1]), "bias": vector(SHAPES[n][-1])}} for n in "ab"}
    return {**blocks, "c": {"dense": {**tree["c"], "bias": vector(5)}}}


def kernels(params):
    return {"a": params["a"]["conv"]["kernel"], "b": params["b"]["conv"]["kernel"], "c": params["c"]["dense"]["kernel"]}


def zeros(params):
    return {name: int((np.asarray(w) == 0).sum()) for name, w in kernels(params).items()}


@pytest.mark.parametrize("seed", range(20))
def test_the_lowest_scores_are_pruned_and_ties_by_index(seed):
    rng, size = np.random.default_rng(seed), 40
    scores = np.abs(np.round(2 * rng.normal(size=size)) if seed % 2 else rng.normal(size=size)).astype(np.float32)
    scores[rng.integers(size)] = np.inf
    alive, pruned = rng.random(size) < 0.8, [0, size, rng.uniform(0, size)][seed % 3]
    lowest = np.argsort(np.where(alive, scores, -1), kind="stable")[: round(pruned)]
    kept = selection._largest(jnp.array(scores), jnp.array(alive), jnp.float32(pruned))
    assert np.flatnonzero(~np.asarray(kept)).tolist() == sorted(lowest.tolist())


def run(tx, params, updates=1, seed=1):
    """Returns parameters and state after updates with random gradients, and the count of zeros after each."""

    @jax.jit
    def step(params, state, grads):
        steps, state = tx.update(grads, state, params, gradients=grads)
        return optax.apply_updates(params, steps), state

    state, counts, masks = tx.init(params), [], []
    rng = np.random.default_rng(seed)
    for _ in range(updates):
        grads = jax.tree.map(lambda w: rng.normal(size=w.shape).astype(np.float32), params)
        params, state = step(params, state, grads)
        counts.append(zeros(params))
        masks.append(prune.find_masks(state))
    return params, counts, masks


def chain(*args, **kwargs):
    return optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.01, momentum=0.9), prune.prune(*args, **kwargs))


@jax.jit
def chosen(weights, masks, pruned):
    found = layers.find_layers(weights, ["."], [], structure="weight", block=None)
    scores = {name: jnp.abs(w) for name, w in weights.items()}
    return selection.select(found, [layers.Pool(tuple(found), pruned)], scores, masks, 1.0)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 99), pruned=st.lists(st.integers(0, TOTAL - 3), min_size=1, max_size=4), ties=st.booleans())
def test_masks_are_monotone_and_exact_to_one_weight(seed, pruned, ties):
    masks = {n: jnp.ones(s, bool) for n, s in SHAPES.items()}
    rng = np.random.default_rng(seed)
    for count in sorted(pruned):
        weights = {n: jnp.array(rng.normal(size=s).round(0 if ties else 6), jnp.float32) for n, s in SHAPES.items()}
        before, masks = masks, chosen(weights, masks, count)
        assert sum(int((~m).sum()) for m in masks.values()) == count
        assert all(m.any() and not (m & ~before[n]).any() for n, m in masks.items())


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.99])
def test_global_sparsity_is_exact_to_one_weight(sparsity):
    _, counts, _ = run(chain(sparsity), network())
    assert sum(counts[0].values()) == round(sparsity * TOTAL)


@pytest.mark.parametrize("sparsity", [0.3, 0.77])
def test_uniform_sparsity_is_exact_in_each_layer(sparsity):
    _, counts, _ = run(chain(sparsity, distribution="uniform"), network())
    assert counts[0] == {name: round(sparsity * size) for name, size in SIZES.items()}


def test_erdos_renyi_densities():
    # raw density sum(shape) / prod(shape): a 18/288, b 26/864, c 17/60; weighted by size 18 + 26 + 17 = 61.
    # At sparsity 0.8 there remain 242.4 weights, so ε = 242.4 / 61 = 3.9738, and c would be denser than 1 (1.126):
    # it stays whole. Then ε = (242.4 - 60) / 44 = 4.1455: a loses 288 - 18 ε = 213.4, b 864 - 26 ε = 756.2.
    _, counts, _ = run(chain(0.8, distribution="erdos_renyi_kernel"), network())
    assert counts[0] == {"a": 213, "b": 756, "c": 0}


def test_the_smallest_weights_go_and_what_remains_trains():
    start = network()
    end, _, masks = run(chain(0.5), start)
    size = {n: np.abs(w) for n, w in kernels(end).items()}
    alive = np.concatenate([size[n][size[n] > 0] for n in size])
    before = np.concatenate([np.abs(kernels(start)[n])[size[n] == 0] for n in size])
    assert before.max() < alive.min() + 0.1  # one small step lies between the two
    assert not np.array_equal(end["a"]["bn"]["scale"], start["a"]["bn"]["scale"])
    assert set(masks[0]) == {"a/conv/kernel", "b/conv/kernel", "c/dense/kernel"}


@pytest.mark.parametrize("optimizer", [functools.partial(optax.sgd, momentum=0.9), optax.adam, optax.adamw])
def test_pruned_weights_are_exactly_zero_whatever_the_optimizer_remembers(optimizer):
    tx = optax.chain(optax.add_decayed_weights(0.1), optimizer(0.1), prune.prune(0.6, begin=2))
    _, counts, _ = run(tx, network(), updates=6)
    assert [sum(c.values()) for c in counts] == [0, 0] + [round(0.6 * TOTAL)] * 4


@pytest.mark.parametrize("score, structure", [("magnitude", "weight"), ("gradient_weight", "filter")])
def test_masks_only_ever_lose_and_follow_the_cubic(score, structure):
    tx = chain(0.9, begin=2, end=10, frequency=2, score=score, structure=structure, keep=["^c/"])
    _, counts, masks = run(tx, network(), updates=13)
    for before, after in itertools.pairwise(masks):
        assert all(not np.any(after[n] & ~before[n]) for n in after)
    units = 8 + 12 if structure == "filter" else SIZES["a"] + SIZES["b"]
    done = [0, 0, 0, 0, *(x for t in (2, 4, 6) for x in (t, t)), 8, 8, 8]  # updates since `begin`, as last looked at
    expected = [round(round(0.9 * units) * (1 - (1 - t / 8) ** 3)) for t in done]
    if structure == "weight":
        assert [c["a"] + c["b"] for c in counts] == expected
    else:
        dead = [sum(int((~m[f"{n}/conv/kernel"]).all((0, 1, 2)).sum()) for n in "ab") for m in masks]
        assert dead == expected


def test_the_score_gradient_times_weight_uses_the_gradient():
    params = network()
    grads = jax.tree.map(jnp.zeros_like, params)
    grads["a"]["conv"]["kernel"] = grads["a"]["conv"]["kernel"].at[0, 0, 0].set(1.0)
    tx = chain(0.9, score="gradient_weight", rules=["^a/.*kernel"])
    state = tx.init(params)
    steps, _ = tx.update(grads, state, params, gradients=grads)
    left = np.asarray(optax.apply_updates(params, steps)["a"]["conv"]["kernel"]) != 0
    assert left.sum() == 288 - round(0.9 * 288) and left[0, 0, 0].all()
    with pytest.raises(ValueError, match="gradients=gradients"):
        tx.update(grads, state, params)


def test_a_pruned_filter_is_dead_with_its_normalization():
    end, _, masks = run(chain(0.5, structure="filter", keep=["^c/"], distribution="uniform"), network())
    for name, filters in (("a", 8), ("b", 12)):
        dead = (np.asarray(end[name]["conv"]["kernel"]) == 0).all((0, 1, 2))
        assert dead.sum() == filters // 2
        assert (np.asarray(end[name]["bn"]["scale"])[dead] == 0).all()
        assert (np.asarray(end[name]["bn"]["bias"])[dead] == 0).all()
        assert (np.asarray(end[name]["bn"]["scale"])[~dead] != 0).all()
    assert masks[0]["a/bn/bias"].shape == (8,)


def test_two_of_four_along_the_inputs():
    end, _, _ = run(chain(0.5, structure="2:4"), network())
    for kernel in kernels(end).values():
        blocks = np.asarray(kernel).reshape(-1, 4, kernel.shape[-1])
        assert ((blocks != 0).sum(1) == 2).all()


def test_a_layer_keeps_its_best_unit_however_small():
    params = network()
    params["c"]["dense"]["kernel"] = params["c"]["dense"]["kernel"] * 1e-6
    tx = prune.prune(0.95)
    state = tx.init(params)
    still = jax.tree.map(jnp.zeros_like, params)
    _, state = tx.update(still, state, params)
    left = np.asarray(prune.find_masks(state)["c/dense/kernel"])
    assert left.sum() == 1 and left.flat[np.abs(params["c"]["dense"]["kernel"]).argmax()]


def test_what_remains_is_counted():
    params = network()
    masks = {"a/conv/kernel": jnp.zeros(SHAPES["a"], bool).at[0].set(True)}
    pruned = prune.apply_masks(params, masks)
    assert prune.layer_sparsity(pruned) == {"a/conv/kernel": 2 / 3, "b/conv/kernel": 0.0, "c/dense/kernel": 0.0}
    # 1,212 weights, 16 + 24 of the normalizations, 5 biases; 192 of a's 288 are gone
    assert prune.compression_ratio(params, pruned) == 1257 / (1257 - 192)
    with pytest.raises(InputError, match="all parameters are zero"):
        prune.compression_ratio(params, jax.tree.map(jnp.zeros_like, params))


@pytest.mark.parametrize(
    "message, kwargs",
    [
        (r"sparsity must be in \[0, 1\), got 1.0", {"sparsity": 1.0}),
        (r"sparsity must be in \[0, 1\), got -0.1", {"sparsity": -0.1}),
        (r"sparsity must be in \[0, 1\), got nan", {"sparsity": float("nan")}),
        (r"0 <= begin <= end .* got begin=5, end=4, frequency=100", {"begin": 5, "end": 4}),
        (r"unknown score 'magnitud'\. Did you mean 'magnitude'", {"score": "magnitud"}),
        (r"unknown distribution 'local'\. Did you mean 'global'", {"distribution": "local"}),
        ("unknown structure 'row'", {"structure": "row"}),
        ("unknown structure '4:4'", {"structure": "4:4"}),
        ("set sparsity to 0.75", {"structure": "1:4"}),
        ("set sparsity to 0.5 and leave out `end`", {"structure": "2:4", "end": 9}),
        ("the rule 'stem' matches no parameter; parameters: a/bn/bias, ", {"rules": ["stem"]}),
        ("the rule 'stem' matches no parameter", {"keep": ["stem"]}),
        ("nothing to prune", {"rules": ["^a/"], "keep": ["^a/"]}),
        (r"a/bn/bias has shape \(8,\)", {"rules": ["^a/"], "structure": "filter"}),
        ("a/conv/kernel has 36 weights per output, not a multiple of 8", {"structure": "4:8"}),
        (
            r"prunes all of a/conv/kernel \(8 of 8 units\)",
            {"sparsity": 0.95, "structure": "filter", "distribution": "uniform"},
        ),
        ("sparsity 0.999 is too high: each of 3 layers", {"sparsity": 0.999}),
    ],
)
def test_wrong_input_is_named(message, kwargs):
    with pytest.raises(InputError, match=message):
        prune.prune(**{"sparsity": 0.5, **kwargs}).init(network())


def test_a_chain_without_pruning_has_no_masks():
    with pytest.raises(InputError, match="no pruning masks"):
        prune.find_masks(optax.adam(0.1).init(network()))


def test_strict_dtypes(strict_dtypes):
    tx = prune.prune(0.5, end=10, structure="filter", keep=["^c/"])
    params = network()
    steps, state = jax.jit(tx.update)(params, tx.init(params), params)
    assert int(state.seen) == 1 and jax.tree.structure(steps) == jax.tree.structure(params)


@pytest.mark.parametrize("structure", ["weight", "filter"])
def test_zeros_of_before_stay_and_count(structure):
    before, _, _ = run(prune.prune(0.4, structure=structure, keep=["^c/"]), network())
    had = {name: np.asarray(w) == 0 for name, w in kernels(before).items()}
    options = {"structure": structure, "keep": ["^c/"], "keep_zeros": True}
    for sparsity in (0.0, 0.6):  # nothing more, and rising from nothing over five updates
        ramp = {"begin": 0, "end": 5, "frequency": 1}
        after, _, masks = run(chain(sparsity, **ramp, **options), before, updates=8)
        assert all((np.asarray(w)[had[name]] == 0).all() for name, w in kernels(after).items())
        share = prune.masked_share({n: m for n, m in masks[-1].items() if n.endswith("kernel")})
        if structure == "weight":
            assert abs(share - max(0.4, sparsity)) < 1 / (SIZES["a"] + SIZES["b"])
        else:
            assert share == 1 - np.mean(np.concatenate([np.ravel(kernels(after)[n]) != 0 for n in "ab"]))
    assert prune.prunes(chain(0.5).init(before)) and not prune.prunes(optax.adam(1.0).init(before))

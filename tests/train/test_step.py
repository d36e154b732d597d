"""The steps: one update by hand, the average, the order of examples, exactly-once evaluation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh

from ferjax import augment, prune
from ferjax.errors import InputError
from ferjax.evaluate import inference
from ferjax.train import feed, sampling
from ferjax.train.state import Sums, init_state
from ferjax.train.step import make_train_step
from tests.support import tiny


def make_step(tx=None, augment=None, **more):
    tx = tx or optax.sgd(0.5)
    step = make_train_step(tiny.task(augment=augment), tx, **more)
    return step, init_state(tiny.variables(), tx, ema=bool(more.get("ema_decay")))


def test_one_step_is_the_update_written_out(strict_dtypes):
    step, state = make_step(seed=3)
    batch = tiny.faces(8)
    new, sums = jax.jit(step)(state, batch)

    # d CE / d logits = (softmax - one-hot) / N; the layer is linear, so the rest is one product each.
    x = (batch["images"].reshape(8, -1).astype(np.float64) / 255 - 0.5) / 0.25
    _, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(3), 0))
    kept = np.asarray(jax.random.bernoulli(dropout_key, 0.9, x.shape)) / 0.9
    mean = x.mean(0)
    features = x * kept - mean
    logits = features @ np.asarray(state.params["kernel"], np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    error = (probabilities - np.eye(3)[batch["labels"]]) / 8
    kernel = np.asarray(state.params["kernel"]) - 0.5 * features.T @ error
    np.testing.assert_allclose(new.params["kernel"], kernel, atol=1e-6)
    np.testing.assert_allclose(new.params["bias"], -0.5 * error.sum(0), atol=1e-6)
    np.testing.assert_allclose(new.collections["batch_stats"]["mean"], 0.1 * mean, atol=1e-6)
    assert int(new.step) == 1
    loss = -np.log(probabilities[np.arange(8), batch["labels"]]).sum()
    np.testing.assert_allclose(float(sums.loss), loss, rtol=1e-5)
    assert int(sums.correct) == (probabilities.argmax(1) == batch["labels"]).sum()
    assert (int(sums.examples), int(sums.steps), int(sums.bad)) == (8, 1, 0)
    gradient = np.sqrt(((features.T @ error) ** 2).sum() + (error.sum(0) ** 2).sum())
    np.testing.assert_allclose(float(sums.grad_norm), gradient, rtol=1e-5)
    np.testing.assert_allclose(float(sums.update_norm), 0.5 * gradient, rtol=1e-5)


def test_the_same_step_twice_is_the_same_and_another_seed_is_not():
    batch = tiny.faces(8)
    (step, state), (other, _) = make_step(seed=0), make_step(seed=1)
    chex.assert_trees_all_equal(jax.jit(step)(state, batch), jax.jit(step)(state, batch))
    kernels = [jax.jit(s)(state, batch)[0].params["kernel"] for s in (step, other)]
    assert not np.array_equal(*kernels)


def test_the_norm_of_a_million_values_is_exact():
    variables = tiny.variables()
    params = {**variables["params"], "unused": jnp.zeros(1_000_003)}
    tx = optax.stateless(lambda updates, params: jax.tree.map(lambda p: jnp.full_like(p, 0.1), params))
    step = make_train_step(tiny.task(), tx)
    _, sums = jax.jit(step)(init_state({**variables, "params": params}, tx), tiny.faces(8))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    np.testing.assert_allclose(float(sums.update_norm), 0.1 * np.sqrt(size), rtol=1e-6)


def test_augmentation_sees_pixels_before_normalisation():
    def look(key, batch):
        assert batch["targets"].shape == (8, 3)
        return {**batch, "images": jnp.where(batch["images"] > 1.0, jnp.nan, batch["images"] * 0.0 + 0.5)}

    step, state = make_step(augment=look)
    new, sums = jax.jit(step)(state, tiny.faces(8))
    # Every pixel is 0.5, the mean: inputs are zero, so the kernel cannot move.
    np.testing.assert_array_equal(new.params["kernel"], state.params["kernel"])
    assert int(sums.bad) == 0


def test_the_average_follows_its_formula_and_serves_evaluation():
    step, state = make_step(ema_decay=0.5)
    first, _ = jax.jit(step)(state, tiny.faces(8))
    second, _ = jax.jit(step)(first, tiny.faces(8, seed=2))
    # The warm-up keeps min(0.5, 1/10) at step 0 and min(0.5, 2/11) at step 1.
    start, one, two = (s.params["kernel"] for s in (state, first, second))
    average = 0.1 * start + 0.9 * one
    np.testing.assert_allclose(first.ema["params"]["kernel"], average, atol=1e-6)
    average = 2 / 11 * average + 9 / 11 * two
    np.testing.assert_allclose(second.variables()["params"]["kernel"], average, atol=1e-6)
    assert "mean" in second.ema["batch_stats"]


def test_a_step_that_is_not_finite_is_counted_by_its_number():
    step, state = make_step()
    state = state._replace(step=jnp.array(17, jnp.int32), params={**state.params, "bias": jnp.full(3, jnp.inf)})
    _, sums = jax.jit(step)(state, tiny.faces(8))
    assert (int(sums.bad), int(sums.first_bad)) == (1, 17)
    assert int(Sums.zero().add(sums).first_bad) == 17


@pytest.mark.parametrize("batch_size", [1, 7, 50, 64])
def test_predict_runs_each_image_exactly_once(batch_size):
    seen = []
    eval_step = inference.make_eval_step(tiny.apply_fn, mean=(0.5,), std=(0.25,))

    def spy(variables, images):
        seen.append(images.shape)
        return eval_step(variables, images)

    images = tiny.faces(50)["images"]
    logits = inference.predict(spy, tiny.variables(), images, batch_size=batch_size)
    x = (images.astype(np.float32) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(logits, x.reshape(50, -1) @ tiny.variables()["params"]["kernel"], atol=1e-5)
    assert len(set(seen)) == 1  # one shape: one compilation


def test_predict_names_an_empty_split():
    with pytest.raises(InputError, match="empty"):
        inference.predict(lambda v, x: x, {}, np.zeros((0, 4, 4, 1), np.uint8))


def test_an_epoch_takes_every_example_once_in_an_order_of_its_own():
    orders = [np.asarray(sampling.epoch_order(seed=0, epoch=e, count=50)) for e in (0, 1, 0)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(50))
    np.testing.assert_array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0], orders[1])


@pytest.mark.parametrize("scan", [pytest.param(feed.unrolled_scan, marks=pytest.mark.slow), jax.lax.scan])
def test_several_steps_per_dispatch_equal_single_steps(scan):
    step, _ = make_step(augment=augment.create(flip=0.5, rotate=5.0))
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    run = feed.make_resident_steps(step, batch_size=8, mesh=mesh, scan=scan)
    data = {k: jnp.array(v) for k, v in tiny.faces().items()}
    order = sampling.epoch_order(seed=0, epoch=0, count=50)

    def through(sizes):
        state, sums, position = make_step()[1], Sums.zero(), 0
        for steps in sizes:
            state, sums, _ = run(state, sums, data, order, jnp.array(position * 8, jnp.int32), steps=steps)
            position += steps
        return state, sums

    # Fused over several steps, XLA may round differently in the last place.
    chex.assert_trees_all_close(through([1] * 6), through([4, 2]), rtol=1e-6, atol=1e-7)
    assert int(through([4, 2])[1].examples) == 48


def test_the_steps_take_the_examples_that_the_order_names():
    batches = []

    def spy(state, batch):
        jax.debug.callback(lambda labels: batches.append(np.asarray(labels)), batch["labels"], ordered=True)
        return state, Sums.zero()

    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    run = feed.make_resident_steps(spy, batch_size=8, mesh=mesh, scan=feed.unrolled_scan)
    data = {"images": jnp.zeros((50, 4, 4, 1), jnp.uint8), "labels": jnp.arange(50, dtype=jnp.int32)}
    order = sampling.epoch_order(seed=4, epoch=0, count=50)
    _, state = make_step()
    run(state, Sums.zero(), data, order, jnp.array(16, jnp.int32), steps=2)
    jax.effects_barrier()
    np.testing.assert_array_equal(np.concatenate(batches), np.asarray(order)[16:32])


def balanced(labels, epoch=0, seed=0):
    order = sampling.balanced_order(jnp.array(labels, jnp.int32), seed=seed, epoch=epoch, num_classes=max(labels) + 1)
    return np.asarray(order)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=36, max_size=36), st.integers(0, 100))
def test_balanced_sampling_shows_classes_and_their_examples_equally_often(labels, epoch):
    labels = np.array([*labels, 0, 1, 2, 3])
    order = balanced(labels, epoch)
    assert order.shape == (40,) and order.dtype == np.int32
    assert (np.bincount(labels[order], minlength=4) == 10).all()
    for name in range(4):
        times = np.bincount(order, minlength=40)[labels == name]
        assert np.ptp(times) <= 1


def test_balanced_sampling_is_shuffled_anew_by_epoch_and_seed():
    labels = np.arange(60) % 3 // 2  # two thirds of class 0
    orders = [balanced(labels, epoch=e, seed=s) for e, s in ((0, 0), (1, 0), (0, 1), (0, 0))]
    np.testing.assert_array_equal(orders[0], orders[3])
    assert len({tuple(o) for o in orders}) == 3
    # A frequent class shows only a part in one epoch, and other examples in another.
    shown = [set(o[labels[o] == 0]) for o in orders]
    assert len(shown[0]) == 30 and shown[0] != shown[1]
    assert np.ptp(np.bincount(labels[orders[0]][:20], minlength=2)) < 14  # the classes are mixed, not in turn


def test_a_batch_may_bring_targets_of_its_own():
    step, state = make_step()
    batch = tiny.faces(8)
    votes = jax.nn.one_hot(jnp.array(batch["labels"]), 3)
    plain = jax.jit(step)(state, batch)
    chex.assert_trees_all_equal(jax.jit(step)(state, {**batch, "targets": votes}), plain)
    _, sums = jax.jit(step)(state, {**batch, "targets": jnp.full((8, 3), 1 / 3)})
    assert float(sums.loss) != float(plain[1].loss)


def test_pruning_by_the_gradient_is_told_the_gradient():
    tx = optax.chain(optax.sgd(0.1), prune.prune(0.5, score="gradient_weight", rules=("kernel",)))
    step, start = make_step(tx=tx)
    state, _ = jax.jit(step)(start, tiny.faces(12))
    kernel = np.asarray(state.params["kernel"])
    assert (kernel == 0).sum() == kernel.size // 2
    step, start = make_step(tx=optax.chain(optax.sgd(0.1), prune.prune(0.5, rules=("kernel",))))
    by_size, _ = jax.jit(step)(start, tiny.faces(12))
    assert ((np.asarray(by_size.params["kernel"]) == 0) != (kernel == 0)).any()

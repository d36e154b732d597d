"""The order of the examples: it is jax.random's, to the bit, so that runs of any age and both ways to read agree."""

import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferjax.errors import InputError
from ferjax.train import sampling


@pytest.mark.parametrize("count", [1, 2, 7, 1000, 100_000])  # from 1,626 on, two rounds of sorting
@pytest.mark.parametrize("seed, epoch", [(0, 0), (7, 3), (2**31 - 1, 1000), (-1, 2)])
def test_an_epochs_order_is_the_permutation_of_jax(count, seed, epoch):
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0x5EED), epoch)
    found = sampling.epoch_order(seed=seed, epoch=epoch, count=count)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, jax.random.permutation(key, count))


def test_orders_differ_by_epoch_and_seed_and_hold_each_example_once():
    orders = [sampling.epoch_order(seed=s, epoch=e, count=50) for s, e in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert (orders[0] == orders[3]).all()
    assert (orders[0] != orders[1]).any() and (orders[0] != orders[2]).any()


def balanced_with_jax(labels, seed, epoch, num_classes):
    """What runs were trained with before the order was computed on the host."""
    count = len(labels)
    within, among = jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0xBA1A), epoch))
    shuffled = jax.random.permutation(within, count).astype(jnp.int32)
    by_class = shuffled[jnp.argsort(labels[shuffled], stable=True)]
    sizes = jnp.bincount(labels, length=num_classes).astype(jnp.int32)
    starts = jnp.cumsum(sizes) - sizes
    places = jax.random.permutation(among, count).astype(jnp.int32)
    wanted, turn = places % num_classes, places // num_classes
    return by_class[starts[wanted] + turn % sizes[wanted]]


@pytest.mark.parametrize("seed, epoch", [(0, 0), (5, 2)])
def test_a_balanced_order_is_what_it_was_on_the_device(seed, epoch):
    labels = np.random.default_rng(3).choice(4, 301, p=[0.7, 0.2, 0.07, 0.03]).astype(np.int32)
    found = sampling.balanced_order(labels, seed=seed, epoch=epoch, num_classes=4)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, balanced_with_jax(jnp.asarray(labels), seed, epoch, 4))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.integers(0, 99))
def test_balanced_classes_are_equally_frequent_and_take_their_examples_in_turn(sizes, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    order = sampling.balanced_order(labels, seed=seed, epoch=0, num_classes=len(sizes))
    assert len(order) == len(labels)
    assert np.ptp(np.bincount(labels[order], minlength=len(sizes))) <= 1
    for c in range(len(sizes)):
        assert np.ptp(np.bincount(order[labels[order] == c], minlength=len(labels))[labels == c]) <= 1


def test_samplings_that_cannot_be_are_named():
    labels = np.array([0, 0, 2], np.int32)
    with pytest.raises(InputError, match="Did you mean 'balanced'"):
        sampling.sampler("balance", labels, "abc", seed=0)
    with pytest.raises(InputError, match="none of b"):
        sampling.sampler("balanced", labels, "abc", seed=0)


@pytest.mark.parametrize("name", sampling.SAMPLINGS)
def test_a_sampler_gives_the_same_orders_in_another_process(name):
    order_of = sampling.sampler(name, np.arange(30) % 3, "abc", seed=4)
    again = pickle.loads(pickle.dumps(order_of))
    for epoch in (0, 5):
        np.testing.assert_array_equal(again(epoch), order_of(epoch))
    assert (order_of(0) != order_of(5)).any()


def test_an_order_is_made_without_jax():
    code = "import sys, ferjax.train.sampling; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""Tests the plain convolutional networks."""

import functools

import jax
import jax.numpy as jnp
import pytest

from ferjax import models
from ferjax.errors import InputError


@pytest.mark.parametrize(("name", "least"), [("baseline_cnn5", 32), ("baseline_cnn3", 4)])
def test_too_small_images_raise(name, least):
    network = models.create(name)
    run = functools.partial(network.init, train=False)
    assert jax.eval_shape(run, jax.random.key(0), jnp.zeros((1, least, least, 1)))
    with pytest.raises(InputError, match=rf"at least {least}x{least} pixels, got {least}x{least - 1}"):
        jax.eval_shape(run, jax.random.key(0), jnp.zeros((1, least, least - 1, 1)))

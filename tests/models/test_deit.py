"""Tests the transformers: tokens, the two heads of the distilled form, other image sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax import models
from ferjax.errors import InputError
from ferjax.models.deit import resize_positions
from tests.support import quick, tiny_networks

SMALL = {"depth": 1, "width": 12, "heads": 3, "patch": 8, "grid": (2, 3)}


def prepare(name, shape, **kwargs):
    module = models.create(name, **kwargs)
    x = jnp.array(np.random.default_rng(0).normal(size=(2, *shape)), jnp.float32)
    variables = tiny_networks.variables(module, shape)
    return module, variables, x


def apply(module, variables, x):
    return quick.jit(functools.partial(module.apply, train=False))(variables, x)


def test_distilled_logits_are_the_mean_of_both_heads():
    module, variables, x = prepare("deit_tiny_distilled", (16, 24, 1), **SMALL)
    params = dict(variables["params"])

    def logits(**biases):
        moved = {k: {"out": {**params[k]["out"], "bias": params[k]["out"]["bias"] + v}} for k, v in biases.items()}
        return np.asarray(apply(module, {"params": {**params, **moved}}, x))

    none = logits()
    np.testing.assert_allclose(logits(head=1.0), none + 0.5, atol=1e-6)
    np.testing.assert_allclose(logits(head_dist=1.0), none + 0.5, atol=1e-6)


def test_a_plain_transformer_has_one_token_and_one_head():
    _, variables, _ = prepare("deit_tiny", (16, 24, 1), **SMALL)
    assert variables["params"]["pos_embed"].shape == (1, 1 + 6, 12)
    assert "head_dist" not in variables["params"] and "dist_token" not in variables["params"]


def test_positions_of_another_grid_are_interpolated():
    # A plane over the grid stays one inside, at the rescaled coordinates of the patches' centers.
    rows, columns = np.mgrid[0:8, 0:8] + 0.5
    plane = np.stack([3 * rows - columns, rows + 2 * columns], -1).reshape(1, 64, 2)
    prefix = np.full((1, 1, 2), 7.0)
    new = np.asarray(resize_positions(jnp.array(np.concatenate([prefix, plane], 1)), (8, 8), (12, 12)))
    np.testing.assert_array_equal(new[:, :1], prefix)
    y, x = (np.mgrid[0:12, 0:12] + 0.5) * 8 / 12
    wanted = np.stack([3 * y - x, y + 2 * x], -1)
    inner = slice(3, -3)
    np.testing.assert_allclose(new[0, 1:].reshape(12, 12, 2)[inner, inner], wanted[inner, inner], atol=1e-4)
    same = resize_positions(jnp.array(plane, jnp.float32), (8, 8), (8, 8))
    np.testing.assert_array_equal(same, plane.astype(np.float32))


def test_an_image_larger_than_the_grid_is_taken():
    module, variables, _ = prepare("deit_tiny", (16, 24, 1), **SMALL)
    larger = jnp.array(np.random.default_rng(1).normal(size=(1, 32, 48, 1)), jnp.float32)
    assert apply(module, variables, larger).shape == (1, 7)
    with pytest.raises(InputError, match="patch size 8, got 20x24"):
        module.apply(variables, jnp.zeros((1, 20, 24, 1)), train=False)


def test_without_attention_logits_depend_on_every_patch():
    module, variables, x = prepare("deit_attention_free", (48, 48, 1), grid=(3, 3))
    # the initial kernel of the head is near zero
    params = {**variables["params"]}
    kernel = np.random.default_rng(2).normal(size=params["head"]["out"]["kernel"].shape)
    params["head"] = {"out": {**params["head"]["out"], "kernel": jnp.array(kernel, jnp.float32)}}
    gradient = quick.jit(jax.grad(lambda x: module.apply({"params": params}, x, train=False)[:, 0].sum()))(x)
    moved = np.abs(np.asarray(gradient)).reshape(2, 3, 16, 3, 16).max((2, 4))
    assert (moved > 1e-6).all()


def test_the_distilled_form_reads_its_second_token():
    module, variables, x = prepare("deit_tiny_distilled", (16, 24, 1), **SMALL)
    params = {**variables["params"]}
    params["head_dist"] = {"out": {**params["head_dist"]["out"], "kernel": jnp.ones((12, 7)).at[:, 0].set(0.0)}}
    moved = {**params, "dist_token": params["dist_token"] + jnp.linspace(-1.0, 1.0, 12)[None, None]}
    before, after = (np.asarray(apply(module, {"params": p}, x)) for p in (params, moved))
    assert np.abs(after - before).max() > 1e-4

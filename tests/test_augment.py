"""Augmentations: exact cases, bounds, and that nothing leaks between images or dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferjax import augment
from ferjax.cli import InputError

KEY = jax.random.key(7)


def images(count=6, side=12, channels=1, seed=0):
    return jnp.array(np.random.default_rng(seed).uniform(0, 1, (count, side, side, channels)), jnp.float32)


def batch(**shape):
    x = images(**shape)
    return {"images": x, "targets": jax.nn.one_hot(jnp.arange(len(x)) % 3, 3)}


def test_nothing_asked_is_the_identity():
    given_batch = batch()
    out = augment.create()(KEY, given_batch)
    np.testing.assert_array_equal(out["images"], given_batch["images"])
    np.testing.assert_array_equal(out["targets"], given_batch["targets"])


def test_flip_mirrors_all_or_none_of_an_image():
    x = images(200)
    out = np.asarray(augment.random_flip(KEY, x, probability=0.5))
    mirrored = (out == np.asarray(x)[:, :, ::-1]).all((1, 2, 3))
    same = (out == np.asarray(x)).all((1, 2, 3))
    assert (mirrored ^ same).all()
    assert 70 < mirrored.sum() < 130  # binomial(200, 1/2): five standard deviations are 35
    np.testing.assert_array_equal(augment.random_flip(KEY, x, probability=1.0), x[:, :, ::-1])


def test_the_affine_map_of_nothing_is_the_identity():
    x = images(channels=3)
    out = augment.random_affine(KEY, x, degrees=0.0, translate=0.0, crop=(1.0, 1.0))
    np.testing.assert_allclose(out, x, atol=1e-6)


def test_a_quarter_turn_and_whole_pixel_shifts_are_exact():
    x = images()
    count = len(x)
    still, one = jnp.zeros((count, 2)), jnp.ones(count)
    turned = augment._sample(x, jnp.full(count, jnp.pi / 2), one, still)
    assert any(np.allclose(turned, np.rot90(x, k, (1, 2)), atol=1e-5) for k in (1, 3))
    shifted = augment._sample(x, jnp.zeros(count), one, jnp.tile(jnp.array([[2.0, -3.0]]), (count, 1)))
    np.testing.assert_allclose(shifted[:, :-2, 3:], x[:, 2:, :-3], atol=1e-5)
    assert not np.asarray(shifted[:, -2:]).any() and not np.asarray(shifted[:, :, :3]).any()  # outside is black


def test_a_larger_crop_shrinks_the_face_and_a_smaller_one_magnifies():
    x = jnp.ones((4, 12, 12, 1))
    small = np.asarray(augment.random_affine(KEY, x, degrees=0.0, translate=0.0, crop=(2.0, 2.0)))
    assert not small[:, 0].any() and (small[:, 4:8, 4:8] > 0.99).all()
    ramp = jnp.broadcast_to(jnp.arange(12.0)[None, :, None, None], (4, 12, 12, 1))
    magnified = np.asarray(augment.random_affine(KEY, ramp, degrees=0.0, translate=0.0, crop=(0.5, 0.5)))
    np.testing.assert_allclose(np.diff(magnified[:, :, 0, 0], axis=1)[:, 2:-2], 0.5, atol=1e-4)
    assert (magnified[:, 1:-1] > -1e-4).all() and (magnified[:, 2:-2, 2:-2] > 0).all()  # a crop stays inside


def test_rotation_stays_within_its_bound():
    # A point at distance 5 from the centre of a 13-pixel image moves at most 5 * 10 degrees in radians = 0.87 pixels.
    x = jnp.zeros((300, 13, 13, 1)).at[:, 1, 6].set(1.0)
    out = np.asarray(augment.random_affine(KEY, x, degrees=10.0, translate=0.0, crop=(1.0, 1.0)))[..., 0]
    columns = (out * np.arange(13)[None, None, :]).sum((1, 2)) / out.sum((1, 2))
    assert np.abs(columns - 6).max() <= 5 * np.sin(np.deg2rad(10.0)) + 0.01  # the point is spread over four pixels
    assert np.abs(columns - 6).max() > 0.6


def test_brightness_scales_and_contrast_keeps_the_mean():
    x = 0.25 + 0.5 * images(300)
    out = np.asarray(augment.random_brightness_contrast(KEY, x, brightness=0.2, contrast=0.0))
    factor = out / np.asarray(x)
    assert factor.min() >= 0.8 - 1e-5 and factor.max() <= 1.2 + 1e-5 and np.ptp(factor.mean((1, 2, 3))) > 0.3
    np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1, :1], factor.shape), rtol=1e-4)
    x = 0.4 + 0.2 * images(300)
    out = np.asarray(augment.random_brightness_contrast(KEY, x, brightness=0.0, contrast=0.2))
    np.testing.assert_allclose(out.mean((1, 2, 3)), np.asarray(x).mean((1, 2, 3)), atol=1e-5)
    stretch = out.std((1, 2, 3)) / np.asarray(x).std((1, 2, 3))
    assert stretch.min() >= 0.8 - 1e-3 and stretch.max() <= 1.2 + 1e-3


def test_erasing_fills_one_rectangle_of_the_stated_area_with_noise():
    x = jnp.full((400, 40, 40, 1), 2.0)  # outside 0..1, so that noise can be told from image
    out = np.asarray(augment.random_erase(KEY, x, probability=0.3, area=(0.02, 0.15)))[..., 0]
    erased = out != 2.0
    share = erased.mean((1, 2))
    hit = share > 0
    assert 80 < hit.sum() < 160  # binomial(400, 0.3): 120 ± 4.4 standard deviations
    # Rounding both sides moves the area by less than half a row and half a column of at most 40 pixels.
    assert share[hit].min() > 0.02 * 0.7 and share[hit].max() < 0.15 * 1.15
    for mask in erased[hit][:50]:
        rows, columns = mask.any(1), mask.any(0)
        assert mask.sum() == rows.sum() * columns.sum()  # a full rectangle
    noise = out[erased]
    assert noise.min() >= 0 and noise.max() < 1 and abs(noise.mean() - 0.5) < 0.02
    assert abs(noise.std() - 12**-0.5) < 0.02  # uniform


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([1, 3]))
def test_any_mixture_keeps_shape_dtype_and_range(seed, channels):
    whole = augment.create(flip=0.5, rotate=15, translate=0.1, crop=(0.8, 1.2), brightness=0.2, contrast=0.2, erase=0.5)
    example = batch(channels=channels)
    with jax.numpy_dtype_promotion("strict"):
        out = jax.jit(whole)(jax.random.key(seed), example)
    assert out["images"].shape == example["images"].shape and out["images"].dtype == jnp.float32
    assert float(out["images"].min()) >= -1e-6 and float(out["images"].max()) <= 1 + 1e-6
    np.testing.assert_array_equal(out["targets"], example["targets"])


def test_images_do_not_mix():
    whole = augment.create(flip=0.5, rotate=15, crop=(0.8, 1.2), brightness=0.2, erase=0.5)
    example = batch()
    changed = {**example, "images": example["images"].at[0].set(0.5)}
    np.testing.assert_array_equal(
        jax.jit(whole)(KEY, example)["images"][1:], jax.jit(whole)(KEY, changed)["images"][1:]
    )


def test_normalize_and_to_float(strict_dtypes):
    x = augment.to_float(jnp.array([[[[0, 255]]]], jnp.uint8))
    np.testing.assert_allclose(x, [[[[0.0, 1.0]]]])
    np.testing.assert_allclose(augment.normalize(x, mean=(0.5, 0.5), std=(0.25, 0.5)), [[[[-2.0, 1.0]]]])


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"flip": 1.5}, "flip"),
        ({"erase": -0.1}, "erase"),
        ({"rotate": 200}, "rotate"),
        ({"crop": (1.2, 0.8)}, "crop"),
        ({"erase_area": (0.0, 0.1)}, "erase_area"),
        ({"translate": 2}, "translate"),
    ],
)
def test_values_out_of_range_are_named(bad, named):
    with pytest.raises(InputError, match=named):
        augment.create(**bad)

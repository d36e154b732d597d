"""Augmentations: exact cases, bounds, and that nothing leaks between images or dtypes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax import augment
from ferjax.augment import geometry
from ferjax.errors import InputError
from tests.support import quick

KEY = jax.random.key(7)


def images(count=6, side=12, channels=1, seed=0):
    return jnp.array(np.random.default_rng(seed).uniform(0, 1, (count, side, side, channels)), jnp.float32)


def batch(**shape):
    x = images(**shape)
    return {"images": x, "targets": jax.nn.one_hot(jnp.arange(len(x)) % 3, 3)}


def run(function, *arrays, **settings):
    """Runs a transform as one program."""
    return quick.jit(functools.partial(function, **settings))(*arrays)


def test_nothing_asked_is_the_identity():
    given_batch = batch()
    out = augment.create()(KEY, given_batch)
    np.testing.assert_array_equal(out["images"], given_batch["images"])
    np.testing.assert_array_equal(out["targets"], given_batch["targets"])


def test_flip_mirrors_all_or_none_of_an_image():
    x = images(200)
    out = np.asarray(run(augment.random_flip, KEY, x, probability=0.5))
    mirrored = (out == np.asarray(x)[:, :, ::-1]).all((1, 2, 3))
    same = (out == np.asarray(x)).all((1, 2, 3))
    assert (mirrored ^ same).all()
    assert 70 < mirrored.sum() < 130  # binomial(200, 1/2): five standard deviations are 35
    np.testing.assert_array_equal(run(augment.random_flip, KEY, x, probability=1.0), x[:, :, ::-1])


def test_the_affine_map_of_nothing_is_the_identity():
    x = images(channels=3)
    out = run(augment.random_affine, KEY, x, degrees=0.0, translate=0.0, crop=(1.0, 1.0))
    np.testing.assert_allclose(out, x, atol=1e-6)


def test_a_quarter_turn_and_whole_pixel_shifts_are_exact():
    x = images()
    count = len(x)
    still, one = jnp.zeros((count, 2)), jnp.ones(count)
    turned = run(geometry._sample, x, jnp.full(count, jnp.pi / 2), one, still)
    assert any(np.allclose(turned, np.rot90(x, k, (1, 2)), atol=1e-5) for k in (1, 3))
    shifted = run(geometry._sample, x, jnp.zeros(count), one, jnp.tile(jnp.array([[2.0, -3.0]]), (count, 1)))
    np.testing.assert_allclose(shifted[:, :-2, 3:], x[:, 2:, :-3], atol=1e-5)
    assert not np.asarray(shifted[:, -2:]).any() and not np.asarray(shifted[:, :, :3]).any()  # outside is black


def test_a_larger_crop_shrinks_the_face_and_a_smaller_one_magnifies():
    x = jnp.ones((4, 12, 12, 1))
    small = np.asarray(run(augment.random_affine, KEY, x, degrees=0.0, translate=0.0, crop=(2.0, 2.0)))
    assert not small[:, 0].any() and (small[:, 4:8, 4:8] > 0.99).all()
    ramp = jnp.broadcast_to(jnp.arange(12.0)[None, :, None, None], (4, 12, 12, 1))
    magnified = np.asarray(run(augment.random_affine, KEY, ramp, degrees=0.0, translate=0.0, crop=(0.5, 0.5)))
    np.testing.assert_allclose(np.diff(magnified[:, :, 0, 0], axis=1)[:, 2:-2], 0.5, atol=1e-4)
    assert (magnified[:, 1:-1] > -1e-4).all() and (magnified[:, 2:-2, 2:-2] > 0).all()  # a crop stays inside


def test_rotation_stays_within_its_bound():
    # A point at distance 5 from the center of a 13-pixel image moves at most 5 * 10 degrees in radians = 0.87 pixels.
    x = jnp.zeros((300, 13, 13, 1)).at[:, 1, 6].set(1.0)
    out = np.asarray(run(augment.random_affine, KEY, x, degrees=10.0, translate=0.0, crop=(1.0, 1.0)))[..., 0]
    columns = (out * np.arange(13)[None, None, :]).sum((1, 2)) / out.sum((1, 2))
    assert np.abs(columns - 6).max() <= 5 * np.sin(np.deg2rad(10.0)) + 0.01  # the point is spread over four pixels
    assert np.abs(columns - 6).max() > 0.6


def test_brightness_scales_and_contrast_keeps_the_mean():
    x = 0.25 + 0.5 * images(300)
    out = np.asarray(run(augment.random_brightness_contrast, KEY, x, brightness=0.2, contrast=0.0))
    factor = out / np.asarray(x)
    assert factor.min() >= 0.8 - 1e-5 and factor.max() <= 1.2 + 1e-5 and np.ptp(factor.mean((1, 2, 3))) > 0.3
    np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1, :1], factor.shape), rtol=1e-4)
    x = 0.4 + 0.2 * images(300)
    out = np.asarray(run(augment.random_brightness_contrast, KEY, x, brightness=0.0, contrast=0.2))
    np.testing.assert_allclose(out.mean((1, 2, 3)), np.asarray(x).mean((1, 2, 3)), atol=1e-5)
    stretch = out.std((1, 2, 3)) / np.asarray(x).std((1, 2, 3))
    assert stretch.min() >= 0.8 - 1e-3 and stretch.max() <= 1.2 + 1e-3


def test_erasing_fills_one_rectangle_of_the_stated_area_with_noise():
    x = jnp.full((400, 40, 40, 1), 2.0)  # outside 0..1, so that noise can be told from image
    out = np.asarray(run(augment.random_erase, KEY, x, probability=0.3, area=(0.02, 0.15)))[..., 0]
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


def test_erasing_fills_with_a_color():
    x = images(60, channels=3)
    out = np.asarray(run(augment.random_erase, KEY, x, probability=1.0, area=(0.1, 0.2), fill=(0.2, 0.4, 0.6)))
    changed = (out != np.asarray(x)).any(-1)
    assert changed.any((1, 2)).all() and not changed.all((1, 2)).any()
    np.testing.assert_array_equal(out[changed], np.tile(np.float32([0.2, 0.4, 0.6]), (changed.sum(), 1)))
    one = run(augment.random_erase, KEY, x, probability=1.0, area=(0.1, 0.2), fill=(0.5,))
    np.testing.assert_array_equal(np.asarray(one)[changed], np.float32(0.5))
    with pytest.raises(InputError, match="erase_fill has 2 values for images of 3"):
        augment.create(erase=1.0, erase_fill=(0.1, 0.2))(KEY, batch(channels=3))


def test_color_keeps_the_luma_scales_the_chroma_and_turns_it():
    luma = np.array([0.299, 0.587, 0.114])
    x = 0.4 + 0.2 * images(200, side=4, channels=3)
    plain = np.asarray(x) - (np.asarray(x) @ luma)[..., None]  # what is not gray
    out = np.asarray(run(augment.random_color, KEY, x, saturation=0.5, hue=0.0))
    np.testing.assert_allclose(out @ luma, np.asarray(x) @ luma, atol=1e-4)
    chroma = out - (out @ luma)[..., None]
    factor = (chroma * plain).sum((1, 2, 3)) / (plain * plain).sum((1, 2, 3))
    np.testing.assert_allclose(chroma, factor[:, None, None, None] * plain, atol=1e-3)
    assert 0.5 - 1e-3 <= factor.min() < 0.6 and 1.4 < factor.max() <= 1.5 + 1e-3

    red = jnp.tile(jnp.array([0.6, 0.4, 0.4]), (200, 2, 2, 1))
    turned = np.asarray(run(augment.random_color, KEY, red, saturation=0.0, hue=0.5))[:, 0, 0]
    np.testing.assert_allclose(turned @ luma, 0.6 * 0.299 + 0.4 * 0.701, atol=1e-3)
    i, q = (turned @ np.array(row) for row in ((0.596, -0.274, -0.322), (0.211, -0.523, 0.312)))
    radius, angle = np.hypot(i, q), np.arctan2(q, i)
    np.testing.assert_allclose(radius, radius[0], rtol=1e-2)
    assert np.ptp(angle) > 5.5 and len(np.unique(turned.argmax(-1))) == 3  # all around the circle
    small = np.asarray(run(augment.random_color, KEY, red, saturation=0.0, hue=0.05))[:, 0, 0]
    still = np.arctan2(
        *(np.array([0.6, 0.4, 0.4]) @ np.array(r) for r in ((0.211, -0.523, 0.312), (0.596, -0.274, -0.322)))
    )
    away = np.arctan2(*(small @ np.array(r) for r in ((0.211, -0.523, 0.312), (0.596, -0.274, -0.322)))) - still
    assert 0.8 * 0.1 * np.pi < np.abs(away).max() <= 0.1 * np.pi + 1e-2  # 0.05 of a turn is 18 degrees


def test_gray_images_are_refused():
    with pytest.raises(InputError, match=r"require RGB images, got 1 channel"):
        augment.create(saturation=0.1)(KEY, batch())


def mixed(x, targets, count=150, **settings):
    """The batch mixed by many keys, and each one's share of the example, read from its targets."""
    keys = jax.random.split(KEY, count)
    given = {"images": x, "targets": targets}
    out = quick.jit(jax.vmap(lambda key: augment.random_mix(key, given, **settings)))(keys)
    return np.asarray(out["images"]), np.asarray(out["targets"])[:, 0, 0]


def test_mixup_blends_neighbors_and_their_targets_by_one_share_of_the_beta_distribution():
    x, targets = images(4), jnp.eye(4)
    out, share = mixed(x, targets, count=400, mixup=0.2, cutmix=0.0)
    part, x = share[:, None, None, None, None], np.asarray(x)
    np.testing.assert_allclose(out, part * x + (1 - part) * np.roll(x, 1, axis=0), atol=1e-6)
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)) = 0.1786; five standard errors of 400 draws are 0.106.
    assert abs(share.mean() - 0.5) < 0.106 and abs(share.var() - 0.1786) < 0.05
    one = run(augment.random_mix, KEY, {"images": jnp.array(x), "targets": targets}, mixup=0.2, cutmix=0.0)["targets"]
    np.testing.assert_allclose(one.sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(one), one[0, 0] * np.eye(4) + (1 - one[0, 0]) * np.roll(np.eye(4), 1, 0))


def test_cutmix_pastes_one_rectangle_and_shares_the_targets_by_its_area():
    x = jnp.tile(jnp.arange(4.0).reshape(4, 1, 1, 1) / 4, (1, 20, 20, 1))
    out, share = mixed(x, jnp.eye(4), cutmix=1.0, mixup=0.0)
    pasted = out[:, 1, :, :, 0] == 0.0  # image 0 shines through image 1
    assert (pasted | (out[:, 1, :, :, 0] == 0.25)).all()
    np.testing.assert_allclose(share, 1 - pasted.mean((1, 2)), atol=1e-6)
    for mask in pasted:
        rows, columns = mask.any(1), mask.any(0)
        assert mask.sum() == rows.sum() * columns.sum()
        for side in (rows, columns):
            assert not side.any() or side[side.argmax() : len(side) - side[::-1].argmax()].all()  # in one piece
    assert share.min() < 0.2 and share.max() > 0.9


def test_each_batch_uses_mixup_cutmix_or_neither():
    x = jnp.tile(jnp.arange(4.0).reshape(4, 1, 1, 1) / 4, (1, 20, 20, 1))
    out, share = mixed(x, jnp.eye(4), mixup=1.0, cutmix=1.0, probability=0.5)
    alone, flat = share == 1.0, np.ptp(out[:, 1], axis=(1, 2, 3)) == 0.0
    # 150 draws: half are left alone, a quarter is blended, a quarter pasted; five standard deviations are 31 and 27.
    assert 44 < alone.sum() < 106 and 10 < (flat & ~alone).sum() < 65 and 10 < (~flat).sum() < 65
    np.testing.assert_array_equal(out[alone][0], x)


@pytest.mark.parametrize("channels", [1, 3])
def test_any_mixture_keeps_shape_dtype_and_range_and_follows_its_key(channels):
    settings = {"flip": 0.5, "rotate": 15, "translate": 0.1, "crop": (0.8, 1.2), "brightness": 0.2, "contrast": 0.2}
    color = {"saturation": 0.4, "hue": 0.1} if channels == 3 else {}
    whole = quick.jit(augment.create(**settings, **color, erase=0.5, mixup=0.2, cutmix=1.0))
    example = batch(channels=channels)
    with jax.numpy_dtype_promotion("strict"):
        outs = [whole(jax.random.key(seed), example) for seed in (0, 1, 2, 2**31 - 1, 0)]
    for out in outs:
        assert out["images"].shape == example["images"].shape and out["images"].dtype == jnp.float32
        assert float(out["images"].min()) >= -1e-6 and float(out["images"].max()) <= 1 + 1e-6
        assert out["targets"].dtype == jnp.float32 and float(out["targets"].min()) >= 0
        np.testing.assert_allclose(out["targets"].sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(outs[0]["images"], outs[-1]["images"])
    assert not np.array_equal(outs[0]["images"], outs[1]["images"])


def test_later_transforms_do_not_change_the_random_numbers_of_earlier_ones():
    # Runs that were started before a transform existed go on as they began.
    plain = run(augment.create(flip=0.5, rotate=15.0), KEY, batch())
    erased = np.asarray(run(augment.create(flip=0.5, rotate=15.0, erase=1.0), KEY, batch())["images"])
    assert (erased == np.asarray(plain["images"])).mean() > 0.8


@pytest.mark.parametrize(("kind", "count"), [("one", 1), ("flip", 2), ("ten", 10)])
def test_views_begin_with_the_image_and_end_with_mirror_images(kind, count):
    x = images(3, side=20, channels=3)
    found = run(augment.views, x, kind=kind)
    assert found.shape == (count, *x.shape) and found.dtype == x.dtype
    if kind != "ten":
        np.testing.assert_array_equal(found[0], x)
    if count > 1:
        np.testing.assert_array_equal(found[count // 2 :], found[: count // 2, :, :, ::-1])


def test_ten_views_are_the_corners_and_the_center():
    # A ramp sampled by a crop of 18 of 20 pixels has the slope 0.9; its level says where the crop lies.
    down = jnp.broadcast_to(jnp.arange(20.0)[None, :, None, None], (1, 20, 20, 1))
    across = jnp.swapaxes(down, 1, 2)
    found = [
        np.asarray(run(augment.views, ramp, kind="ten", crop=0.9))[:5, 0, ..., 0].mean((1, 2))
        for ramp in (down, across)
    ]
    np.testing.assert_allclose(found[0], [8.5, 8.5, 10.5, 10.5, 9.5], atol=1e-4)
    np.testing.assert_allclose(found[1], [8.5, 10.5, 8.5, 10.5, 9.5], atol=1e-4)
    whole = run(augment.views, down, kind="ten", crop=1.0)
    np.testing.assert_allclose(whole[:5], jnp.stack([down] * 5), atol=1e-5)


def test_unknown_views_are_named():
    with pytest.raises(InputError, match="Did you mean 'flip'"):
        augment.views(images(), kind="flop")
    with pytest.raises(InputError, match="fraction of the side"):
        augment.views(images(), kind="ten", crop=1.1)


def test_images_do_not_mix():
    whole = augment.create(flip=0.5, rotate=15, crop=(0.8, 1.2), brightness=0.2, erase=0.5)
    example = batch()
    changed = {**example, "images": example["images"].at[0].set(0.5)}
    whole = quick.jit(whole)
    np.testing.assert_array_equal(whole(KEY, example)["images"][1:], whole(KEY, changed)["images"][1:])


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
        ({"crop": (0.9,)}, "crop must be two numbers"),
        ({"crop": ("a", "b")}, "crop must be two numbers"),
        ({"translate": 2}, "translate"),
        ({"saturation": 1.5}, "saturation"),
        ({"hue": 0.6}, "hue"),
        ({"mixup": -0.1}, "mixup"),
        ({"cutmix": float("nan")}, "cutmix"),
        ({"mix_probability": 2}, "mix_probability"),
        ({"erase_fill": (0.5, 1.5)}, r"erase_fill\[1\]"),
    ],
)
def test_values_out_of_range_are_named(bad, named):
    with pytest.raises(InputError, match=named):
        augment.create(**bad)

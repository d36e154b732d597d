"""Faults of cameras: range, identity at severity 0, one key one result, and what each fault does to simple images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax.augment import camera
from ferjax.errors import InputError
from ferjax.evaluate import corruptions
from tests.support import quick

KEY = jax.random.key(3)
FAULTS = {
    "blur": quick.jit(camera.blurred),
    "resolution": quick.jit(camera.coarse),
    "light": quick.jit(camera.lit),
    "noise": quick.jit(camera.noisy),
    "jpeg": quick.jit(camera.compressed),
}


def pictures(count=8, side=20, channels=1):
    return jnp.array(np.random.default_rng(0).uniform(0, 1, (count, side, side, channels)), jnp.float32)


@pytest.mark.parametrize("name", FAULTS)
def test_severity_0_is_the_identity_and_every_severity_stays_in_range(name):
    x = pictures(channels=3)
    severity = jnp.linspace(0.0, 1.0, len(x))
    out = np.asarray(FAULTS[name](KEY, x, severity))
    assert out.shape == x.shape and out.dtype == np.float32
    np.testing.assert_array_equal(out[0], x[0])
    assert (np.abs(out - x).max((1, 2, 3))[1:] > 0.02).all()
    assert out.min() >= -1e-5 and out.max() <= 1 + 1e-5
    np.testing.assert_array_equal(out, FAULTS[name](KEY, x, severity))  # one key, one result


@pytest.mark.parametrize("name", ["blur", "resolution", "jpeg"])
def test_a_flat_image_has_nothing_to_lose(name):
    flat = jnp.full((4, 16, 16, 1), 0.5)
    np.testing.assert_allclose(FAULTS[name](KEY, flat, jnp.ones(4)), 0.5, atol=0.003)  # JPEG: half a level


def test_defocus_spreads_a_dot_to_a_disk_and_motion_to_a_line():
    dots = jnp.zeros((40, 15, 15, 1)).at[:, 7, 7].set(1.0)
    out = np.asarray(FAULTS["blur"](KEY, dots, jnp.ones(40)))[..., 0]
    np.testing.assert_allclose(out.sum((1, 2)), 1.0, atol=1e-5)
    rows, columns = np.meshgrid(np.arange(15) - 7, np.arange(15) - 7, indexing="ij")
    moments = [[(out * a * b).sum((1, 2)) for b in (rows, columns)] for a in (rows, columns)]
    small, large = np.linalg.eigvalsh(np.array(moments).transpose(2, 0, 1)).T
    lines = small < 0.2 * large
    assert 8 < lines.sum() < 32  # binomial(40, 1/2): four standard deviations are 12.6
    # The disk's second moment is about r² / 4 with r = 3; that of 7 points from -3 to 3 is 4, plus the spread of each.
    np.testing.assert_allclose(large[~lines], 3.0**2 / 4, rtol=0.25)
    np.testing.assert_allclose(large[lines], 4.2, rtol=0.1)


def test_the_coarsest_picture_has_few_values_along_a_row():
    x = pictures(60, side=48)
    out = np.asarray(FAULTS["resolution"](KEY, x, jnp.ones(60)))
    cells = np.array([len(np.unique(np.round(image[0, :, 0], 5))) for image in out])
    blocks = cells == 9  # 0.18 of 48 pixels
    assert 12 < blocks.sum() < 48 and (cells[~blocks] > 20).all()
    np.testing.assert_allclose(out[blocks].mean((1, 2)), np.asarray(x)[blocks].mean((1, 2)), atol=0.02)


def test_noise_and_light_have_the_stated_mean_and_variance():
    gray = jnp.full((200, 24, 24, 1), 0.5)
    noise = np.asarray(FAULTS["noise"](KEY, gray, jnp.full(200, 0.5))) - 0.5
    assert abs(noise.mean()) < 0.002 and abs(noise.std() - 0.1) < 0.001
    seen = np.asarray(FAULTS["light"](KEY, gray, jnp.ones(200)))
    level, spread = seen.mean((1, 2, 3)), seen.var((1, 2, 3))
    assert level.min() < 0.05 and level.max() > 0.6 and (level < 0.5).mean() > 0.6
    middle = (level > 0.1) & (level < 0.7)  # away from the clipping
    np.testing.assert_allclose(spread[middle] / level[middle], 1 / 200, rtol=0.35)


def test_jpeg_equals_the_corruption_of_the_same_quality():
    x = np.asarray(pictures(6, side=48))
    quality = 18  # a factor of 5000 / 18 percent; severity 1 is a factor of 8
    severity = jnp.full(6, 5000 / quality / 100 / 8.0)
    pixels = np.round(x * 255).astype(np.uint8)
    expected = corruptions.corrupt(pixels, "jpeg", 3) / 255.0
    out = np.asarray(FAULTS["jpeg"](KEY, jnp.array(pixels / 255.0, jnp.float32), severity))
    assert np.abs(out - expected).mean() < 0.01  # the corruption rounds its table to integers
    assert np.abs(x - expected).mean() > 0.05


def test_each_fault_comes_to_its_share_of_the_images():
    x = pictures(400, side=8)
    only = dict.fromkeys(FAULTS, 0.0)
    for name in FAULTS:
        out = quick.jit(camera.create(probability=0.25, **(only | {name: 1.0})))(KEY, x)
        changed = np.abs(np.asarray(out) - np.asarray(x)).max((1, 2, 3)) > 0
        assert 60 < changed.sum() <= 140, name  # binomial(400, 1/4): four and a half standard deviations are 39
    every = quick.jit(camera.create(probability=1.0))(KEY, x)
    assert (np.abs(np.asarray(every) - np.asarray(x)).max((1, 2, 3)) > 0).all()


def test_faults_of_one_image_do_not_depend_on_the_others():
    x = pictures(8, channels=3)
    faults = jax.jit(camera.create(probability=1.0))
    other = x.at[4:].set(1 - x[4:])
    np.testing.assert_array_equal(faults(KEY, x)[:4], faults(KEY, other)[:4])


def test_without_faults_there_is_no_camera_and_wrong_values_are_refused():
    assert camera.create() is None
    assert camera.create(probability=0.5, **dict.fromkeys(FAULTS, 0.0)) is None
    for wrong in ({"probability": 1.5}, {"probability": 0.5, "jpeg": -0.1}):
        with pytest.raises(InputError, match=r"camera\.\w+ must be in 0\.\.1"):
            camera.create(**wrong)

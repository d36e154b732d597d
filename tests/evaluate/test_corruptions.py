"""Tests that corruptions are reproducible, grow with the severity, and have the documented effects."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ferjax import data
from ferjax.data.synthetic.rendering import render_faces
from ferjax.errors import InputError
from ferjax.evaluate import corruptions, robustness
from ferjax.train import config
from tests.support import GOLDEN, ROOT

HASHES = GOLDEN / "corruptions.json"


def faces(count=12, channels=1):
    """Returns gradients, blocks and noise; integer arithmetic only, so they are equal on all machines."""
    y, x = np.mgrid[0:48, 0:48]
    rng = np.random.default_rng(5)
    flat = [(3 * y + (2 + i) * x + 40 * ((y // 9 + x // 7 + i) % 3)) % 200 for i in range(count)]
    noisy = np.stack(flat)[..., None] + rng.integers(0, 40, (count, 48, 48, channels))
    return noisy.astype(np.uint8)


def hashes():
    kinds = {k: [corruptions.corrupt(faces(), k, s) for s in corruptions.SEVERITIES] for k in corruptions.KINDS}
    images = {
        **kinds,
        "qin": [corruptions.qin(faces())],
        "noise, colour": [corruptions.corrupt(faces(channels=3), "noise", 3)],
    }
    return {k: [hashlib.sha256(v.tobytes()).hexdigest()[:16] for v in values] for k, values in images.items()}


def test_the_pixels_match_the_committed_hashes():
    assert hashes() == json.loads(HASHES.read_text())


def test_without_simd_the_images_are_the_same():
    # NumPy ignores a name that it does not dispatch on, and the names change with its versions.
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    off = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(found), "OPENBLAS_CORETYPE": "Nehalem"}
    code = """if True:
        import json, numpy
        from tests.evaluate import test_corruptions
        assert not numpy.show_config(mode="dicts")["SIMD Extensions"].get("found")
        print(json.dumps(test_corruptions.hashes()))
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, env=off, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(HASHES.read_text())


@pytest.mark.parametrize("kind", corruptions.KINDS)
def test_a_corruption_grows_with_its_severity_and_depends_on_the_index(kind):
    images = render_faces(np.arange(14) % 7, seed=1)
    before = images.copy()
    made = [corruptions.corrupt(images, kind, s, seed=3) for s in corruptions.SEVERITIES]
    np.testing.assert_array_equal(images, before)
    assert all(m.shape == images.shape and m.dtype == np.uint8 for m in made)
    apart = [np.abs(m.astype(float) - images).mean() for m in made]
    assert apart[0] > 0.3 and apart[4] > 1.3 * apart[0]
    chosen = [9, 2, 5]
    np.testing.assert_array_equal(corruptions.corrupt(images[chosen], kind, 4, seed=3, indices=chosen), made[3][chosen])


def test_noise_depends_on_seed_and_index():
    images = np.repeat(faces(1), 2, axis=0)
    first = corruptions.corrupt(images, "noise", 2)
    assert (first[0] != first[1]).any() and (corruptions.corrupt(images, "noise", 2, seed=1) != first).any()


def test_rotation_and_scale_move_a_dot_by_the_stated_amount():
    image = np.zeros((1, 49, 49, 1), np.uint8)
    image[0, 24, 34] = 255  # ten pixels right of the middle
    turned = corruptions.corrupt(image, "rotation", 5)[0, ..., 0].astype(float)
    y, x = (np.average(v, weights=turned) - 24 for v in np.mgrid[0:49, 0:49])
    assert np.hypot(y, x) == pytest.approx(10, abs=0.1) and abs(np.degrees(np.arctan2(y, x))) == pytest.approx(
        30, abs=0.5
    )
    grown = corruptions.corrupt(image, "scale", 5)[0, ..., 0].astype(float)
    away = np.average(np.mgrid[0:49, 0:49][1], weights=grown) - 24
    assert min(abs(away / 10 - 1.55), abs(10 / away - 1.55)) < 0.05


def test_occlusions_cover_their_share():
    white = np.full((8, 50, 50, 1), 255, np.uint8)
    bars = corruptions.corrupt(white, "bar", 3)
    assert ((bars != 255).any((2, 3)).sum(1) == 10).all()
    masks = corruptions.corrupt(np.zeros_like(white), "mask", 3)
    rows = (masks > 0).any((2, 3))
    assert (rows.argmax(1) == 33).all() and rows[:, 33:].all()


def test_jpeg_keeps_a_flat_image_and_loses_detail():
    flat = np.full((1, 48, 48, 1), 128, np.uint8)
    np.testing.assert_array_equal(corruptions.corrupt(flat, "jpeg", 5), flat)
    checks = ((np.indices((1, 48, 48, 1)).sum(0) % 2) * 20 + 118).astype(np.uint8)
    assert corruptions.corrupt(checks, "jpeg", 5).std() < 0.2 * checks.std()


def test_the_kinds_of_training_are_told_from_the_others():
    augment = {"flip": 0.5, "rotate": 10.0, "crop": (1.0, 1.0), "erase": 0.0}
    camera = config.defaults()["camera"]
    assert corruptions.trained_kinds(augment, camera) == ("rotation",)
    faulty = corruptions.trained_kinds(augment, camera | {"probability": 0.2, "noise": 0.0})
    assert faulty == ("blur", "motion", "jpeg", "brightness", "pixelate", "low_light", "rotation")


def test_the_means_of_trained_and_other_kinds_are_apart():
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)
    faces = data.Split(images, np.zeros(6, np.int32), [""] * 6, {})
    dark = lambda pictures: np.stack([pictures.mean((1, 2, 3)) < 90, np.full(len(pictures), 0.5)], 1)  # noqa: E731
    found = robustness.measure(dark, faces, trained=("low_light", "noise"))
    others = [found["accuracy"][k] for k in corruptions.KINDS if k not in ("low_light", "noise")]
    assert found["trained"] == ["noise", "low_light"]
    assert found["untrained_mean"] == pytest.approx(np.mean(others))
    assert found["trained_mean"] == pytest.approx(np.mean([found["accuracy"][k] for k in found["trained"]]))
    assert found["trained_mean"] > found["untrained_mean"]  # this model calls what is dark right
    assert "low_light*" in robustness.table(found)


def test_mean_corruption_error_by_hand():
    found = corruptions.mean_corruption_error({"a": [0.1, 0.3], "b": [0.5, 0.5]}, {"a": [0.2, 0.6], "b": [0.4, 0.6]})
    assert found == pytest.approx((0.5 + 1.0) / 2)
    with pytest.raises(InputError, match="'a'"):
        corruptions.mean_corruption_error({"a": [0.1]}, {"a": [0.0]})


def test_invalid_input_is_rejected():
    with pytest.raises(InputError, match=r"'blurr'.*'blur'"):
        corruptions.corrupt(faces(), "blurr", 1)
    with pytest.raises(InputError, match="1 to 5, got 6"):
        corruptions.corrupt(faces(), "blur", 6)
    with pytest.raises(InputError, match="uint8"):
        corruptions.corrupt(faces().astype(float), "blur", 1)
    with pytest.raises(InputError, match=r"2 indices.*got 1"):
        corruptions.corrupt(faces(2), "blur", 1, indices=[1])

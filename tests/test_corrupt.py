"""Corruptions: the same pixels everywhere, heavier with the severity, and what each kind promises."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from ferjax import corrupt
from ferjax.cli import InputError
from ferjax.data.synthetic import render_faces

HASHES = pathlib.Path(__file__).parent / "golden" / "corruptions.json"


def faces(count=12, channels=1):
    """Drawn without any library's arithmetic: gradients and blocks, and noise from numpy's stable generator."""
    y, x = np.mgrid[0:48, 0:48]
    rng = np.random.default_rng(5)
    flat = [(3 * y + (2 + i) * x + 40 * ((y // 9 + x // 7 + i) % 3)) % 200 for i in range(count)]
    noisy = np.stack(flat)[..., None] + rng.integers(0, 40, (count, 48, 48, channels))
    return noisy.astype(np.uint8)


def hashes():
    kinds = {k: [corrupt.corrupt(faces(), k, s) for s in corrupt.SEVERITIES] for k in corrupt.KINDS}
    images = {**kinds, "qin": [corrupt.qin(faces())], "noise, colour": [corrupt.corrupt(faces(channels=3), "noise", 3)]}
    return {k: [hashlib.sha256(v.tobytes()).hexdigest()[:16] for v in values] for k, values in images.items()}


def test_everybody_gets_the_same_images():
    assert hashes() == json.loads(HASHES.read_text())


def test_without_simd_the_images_are_the_same():
    # NumPy ignores a name that it does not dispatch on, and the names change with its versions.
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    off = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(found), "OPENBLAS_CORETYPE": "Nehalem"}
    code = """if True:
        import json, numpy, test_corrupt
        assert not numpy.show_config(mode="dicts")["SIMD Extensions"].get("found")
        print(json.dumps(test_corrupt.hashes()))
    """
    here = pathlib.Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=here, env=off, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(HASHES.read_text())


@pytest.mark.parametrize("kind", corrupt.KINDS)
def test_a_corruption_grows_with_its_severity_and_spares_other_images(kind):
    images = render_faces(np.arange(14) % 7, seed=1)
    before = images.copy()
    made = [corrupt.corrupt(images, kind, s, seed=3) for s in corrupt.SEVERITIES]
    np.testing.assert_array_equal(images, before)
    assert all(m.shape == images.shape and m.dtype == np.uint8 for m in made)
    apart = [np.abs(m.astype(float) - images).mean() for m in made]
    assert apart[0] > 0.3 and apart[4] > 1.3 * apart[0]
    chosen = [9, 2, 5]
    np.testing.assert_array_equal(corrupt.corrupt(images[chosen], kind, 4, seed=3, indices=chosen), made[3][chosen])


def test_the_seed_and_the_number_decide():
    images = np.repeat(faces(1), 2, axis=0)
    first = corrupt.corrupt(images, "noise", 2)
    assert (first[0] != first[1]).any() and (corrupt.corrupt(images, "noise", 2, seed=1) != first).any()


def test_geometry_moves_a_dot_where_it_should():
    image = np.zeros((1, 49, 49, 1), np.uint8)
    image[0, 24, 34] = 255  # ten pixels right of the middle
    turned = corrupt.corrupt(image, "rotation", 5)[0, ..., 0].astype(float)
    y, x = (np.average(v, weights=turned) - 24 for v in np.mgrid[0:49, 0:49])
    assert np.hypot(y, x) == pytest.approx(10, abs=0.1) and abs(np.degrees(np.arctan2(y, x))) == pytest.approx(
        30, abs=0.5
    )
    grown = corrupt.corrupt(image, "scale", 5)[0, ..., 0].astype(float)
    away = np.average(np.mgrid[0:49, 0:49][1], weights=grown) - 24
    assert min(abs(away / 10 - 1.55), abs(10 / away - 1.55)) < 0.05


def test_occlusions_cover_their_share():
    white = np.full((8, 50, 50, 1), 255, np.uint8)
    bars = corrupt.corrupt(white, "bar", 3)
    assert ((bars != 255).any((2, 3)).sum(1) == 10).all()
    masks = corrupt.corrupt(np.zeros_like(white), "mask", 3)
    rows = (masks > 0).any((2, 3))
    assert (rows.argmax(1) == 33).all() and rows[:, 33:].all()


def test_jpeg_keeps_a_flat_image_and_loses_detail():
    flat = np.full((1, 48, 48, 1), 128, np.uint8)
    np.testing.assert_array_equal(corrupt.corrupt(flat, "jpeg", 5), flat)
    checks = ((np.indices((1, 48, 48, 1)).sum(0) % 2) * 20 + 118).astype(np.uint8)
    assert corrupt.corrupt(checks, "jpeg", 5).std() < 0.2 * checks.std()


def test_mean_corruption_error_by_hand():
    mean, each = corrupt.mean_corruption_error({"a": [0.1, 0.3], "b": [0.5, 0.5]}, {"a": [0.2, 0.6], "b": [0.4, 0.6]})
    assert each == pytest.approx({"a": 0.5, "b": 1.0}) and mean == pytest.approx(0.75)
    with pytest.raises(InputError, match="same corruptions"):
        corrupt.mean_corruption_error({"a": [0.1]}, {"b": [0.1]})
    with pytest.raises(InputError, match="no error for 'a'"):
        corrupt.mean_corruption_error({"a": [0.1]}, {"a": [0.0]})


def test_bad_input_is_said():
    with pytest.raises(InputError, match="Did you mean 'blur'"):
        corrupt.corrupt(faces(), "blurr", 1)
    with pytest.raises(InputError, match="1 to 5"):
        corrupt.corrupt(faces(), "blur", 6)
    with pytest.raises(InputError, match="uint8"):
        corrupt.corrupt(faces().astype(float), "blur", 1)
    with pytest.raises(InputError, match="as many indices"):
        corrupt.corrupt(faces(2), "blur", 1, indices=[1])

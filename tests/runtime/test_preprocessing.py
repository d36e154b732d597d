"""Training images, `ferjax predict` and the live loop resize a face alike."""

import numpy as np
import pytest
from PIL import Image

from ferjax.data.prepare import decoding
from ferjax.runtime import load, loop, predict, preprocessing
from tests.support.small_files import GRAY, RGB

SIZES = (20, 31, 47, 48, 49, 64, 96, 100, 150, 224, 333, 600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One colored image of each size, with structure at every scale."""
    root = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    for side in SIZES:
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        noise = rng.integers(-60, 60, (side, side, 3))
        Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)).save(root / f"{side}.png")
    return root


@pytest.mark.parametrize("name", ["resnet20", "microexpnet"])
def test_prepared_predicted_and_live_faces_have_the_same_probabilities(folder, name):
    model = load(name)
    height, _, channels = model.spec.input_shape
    live = {}
    for result in loop.stream(folder, model, detector="none"):
        (face,) = result.faces
        live[result.frame.name] = list(face.raw_probabilities.values())
    predicted = {file: list(answer.probabilities.values()) for file, answer in predict.predict_folder(model, folder)}
    assert len(live) == len(predicted) == len(SIZES)
    for file in live:
        trained = decoding.decode((folder / file).read_bytes(), height, channels).image
        wanted = model.probabilities(model.spec.from_rgb(trained)[None])[0]
        np.testing.assert_allclose(predicted[file], wanted, atol=1e-6)
        np.testing.assert_allclose(live[file], wanted, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (30, 30), (64, 64), (90, 131), (224, 224), (500, 333)])
@pytest.mark.parametrize("spec", [GRAY, RGB, RGB.replace(color_order="bgr")], ids=["gray", "rgb", "bgr"])
def test_arrays_are_fitted_as_the_training_images(spec, size):
    spec = spec.replace(input_size=(48, 48))
    rng = np.random.default_rng(0)
    for pixels in (rng.integers(0, 256, (*size, 3), np.uint8), rng.integers(0, 256, size, np.uint8)):
        trained = decoding.decode(pixels, size=48, channels=spec.channels).image
        bgr = pixels[..., ::-1] if pixels.ndim == 3 else pixels
        np.testing.assert_array_equal(preprocessing.to_input(bgr, spec), spec.from_rgb(trained))


def test_the_filter_is_a_triangle_with_antialiasing():
    """An independent reference: weights fall linearly to 0 at a distance of one result pixel, in float64."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)
    step = 200 / 48
    centers = (np.arange(48) + 0.5) * step
    weights = np.maximum(0, 1 - np.abs(np.arange(200) + 0.5 - centers[:, None]) / step)
    weights /= weights.sum(1, keepdims=True)
    found = preprocessing.to_input(pixels, GRAY.replace(input_size=(48, 48)))[..., 0]
    assert np.abs(found - weights @ pixels @ weights.T).max() < 1.1  # rounded twice

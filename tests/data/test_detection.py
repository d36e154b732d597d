import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from ferjax.data.datasets.sources import BadExample
from ferjax.data.prepare import detection
from ferjax.data.synthetic import rendering
from ferjax.errors import InputError
from ferjax.runtime import faces
from ferjax.runtime.faces import detector, finders
from ferjax.spec import ModelSpec


def picture(seed, people, size=(480, 640)):
    scene, boxes, _ = rendering.render_scene(seed=seed, faces=people, size=size)
    return Image.fromarray(scene), boxes


def cut_out(image, box, size):
    x, y, w, h = (int(v) for v in box)
    return np.asarray(
        image.crop((x, y, x + w, y + h)).resize((size, size), Image.Resampling.BILINEAR).convert("L"), float
    )


def test_the_largest_face_is_cropped():
    likenesses = []
    for seed in range(3, 15):
        image, boxes = picture(seed=seed, people=2)
        got = np.asarray(detection.largest_face(48, 1)(image), float)
        likeness = [np.corrcoef(got.ravel(), cut_out(image, box, 48).ravel())[0, 1] for box in boxes]
        assert got.shape == (48, 48) and np.argmax(likeness) == np.argmax(boxes[:, 2])
        likenesses.append(max(likeness))
    assert np.median(likenesses) > 0.8  # Haar's box is not the renderer's


@pytest.mark.parametrize("channels, color_order, mode", [(1, "gray", "L"), (3, "rgb", "RGB")])
def test_the_crop_equals_the_crop_of_the_live_loop(channels, color_order, mode):
    image, _ = picture(seed=8, people=1)
    frame = np.ascontiguousarray(np.asarray(image)[..., ::-1])
    (face,) = detector.create_detector("haar", scale=1)(frame)
    spec = ModelSpec(
        class_names=("a", "b"),
        input_size=(64, 64),
        color_order=color_order,
        mean=(0.5,) * channels,
        std=(1.0,) * channels,
        architecture="resnet20",
    )
    expected = detector.crop(frame, finders.eye_finder()(frame, face), spec)
    got = detection.largest_face(64, channels)(image)
    assert got.mode == mode
    np.testing.assert_array_equal(np.asarray(got).reshape(64, 64, channels), expected)


def test_a_large_image_is_cropped_at_full_resolution():
    image, boxes = picture(seed=3, people=1)
    large = image.resize((2560, 1920))
    got = np.asarray(detection.largest_face(200, 1)(large), float)
    assert np.corrcoef(got.ravel(), cut_out(large, boxes[0] * 4, 200).ravel())[0, 1] > 0.8


def eyes(*boxes):
    """A cascade that finds these."""
    return type("Cascade", (), {"detectMultiScale": lambda self, *arguments, **options: boxes})()


def test_a_tilted_face_is_turned_upright(monkeypatch):
    frame = np.zeros((100, 100, 3), np.uint8)
    frame[38:43, 28:33] = frame[48:53, 68:73] = 255  # the right eye is 10 pixels lower
    monkeypatch.setattr(finders, "_cascade", lambda file: eyes((25, 35, 10, 10), (65, 45, 10, 10)))
    found = finders.eye_finder()(frame, detector.Face((0, 0, 100, 100), 1.0))
    assert detector.tilt(found) == pytest.approx(np.arctan2(10, 40))
    spec = ModelSpec(
        class_names=("a", "b"), input_size=(100, 100), color_order="gray", mean=(0,), std=(1,), architecture=""
    )
    rows, columns = np.nonzero(detector.crop(frame, found, spec)[..., 0] > 60)
    assert abs(rows[columns < 50].mean() - rows[columns > 50].mean()) < 1.0


@pytest.mark.parametrize(
    "boxes",
    [
        [],
        [(20, 30, 10, 10)],
        [(20, 30, 10, 10), (25, 30, 10, 10)],
        [(20, 0, 10, 10), (60, 50, 10, 10)],
    ],
)
def test_implausible_eye_pairs_are_ignored(boxes, monkeypatch):
    monkeypatch.setattr(finders, "_cascade", lambda file: eyes(*boxes))
    face = detector.Face((0, 0, 100, 100), 1.0)
    assert finders.eye_finder()(np.zeros((100, 100, 3), np.uint8), face) == face


@pytest.mark.parametrize("angle", [-12, 12])
def test_the_eyes_of_a_turned_face_are_found(angle):
    scene, boxes, _ = rendering.render_scene(seed=8, faces=1)
    x, y, w, h = (float(v) for v in boxes[0])
    turn = cv2.getRotationMatrix2D((x + w / 2, y + h / 2), -angle, 2.0)  # clockwise on the screen
    frame = cv2.warpAffine(np.ascontiguousarray(scene[..., ::-1]), turn, (640, 480), borderMode=cv2.BORDER_REPLICATE)
    face = detector.Face((x - w / 2, y - h / 2, 2 * w, 2 * h), 1.0)
    upright = detector.tilt(finders.eye_finder()(np.ascontiguousarray(scene[..., ::-1]), face))
    turned = detector.tilt(finders.eye_finder()(frame, face))
    assert np.rad2deg(turned - upright) == pytest.approx(angle, abs=5)


def test_an_image_without_a_face_is_refused():
    with pytest.raises(BadExample, match="no face"):
        detection.largest_face(48, 1)(Image.new("RGB", (200, 200), "gray"))


def test_without_opencv_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.delitem(sys.modules, "ferjax.runtime.faces.detector")
    monkeypatch.delattr(faces, "detector")  # `from package import module` tries the attribute first
    with pytest.raises(InputError, match=r"pip install 'ferjax\[live\]'"):
        detection.largest_face(48, 1)(Image.new("RGB", (200, 200)))

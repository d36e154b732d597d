import dataclasses

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ferjax.data.synthetic.action_units import (
    EXPRESSIONS,
    PROTOTYPES,
    ActionUnits,
    sample_action_units,
    sample_identity,
)
from ferjax.data.synthetic.drawing import draw_face
from ferjax.data.synthetic.geometry import Light, Pose
from ferjax.data.synthetic.rendering import render_faces, render_scene
from ferjax.errors import InputError


def overlap(a, b):
    """Area of the intersection of two (x, y, width, height) boxes, and their IoU."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    area = max(0, width) * max(0, height)
    return area, area / (a[2] * a[3] + b[2] * b[3] - area)


def portrait(units, seed=0, yaw=0.0, size=96):
    canvas = Image.new("RGB", (size, size), (128, 128, 128))
    identity = dataclasses.replace(sample_identity(np.random.default_rng(seed)), beard=0.0, mustache=0.0, glasses=0.0)
    draw_face(canvas, identity, units, Pose(x=size / 2, y=size / 2, scale=size / 2.6, yaw=yaw), Light())
    return np.asarray(canvas).astype(int)


def test_same_key_same_picture_and_every_part_of_the_key_counts():
    labels = np.arange(7)
    images = render_faces(labels, seed=5)
    np.testing.assert_array_equal(images, render_faces(labels, seed=5))
    others = [
        render_faces(labels, seed=6),
        render_faces(labels, seed=5, split="validation"),
        render_faces(labels, seed=5, split="test"),
        render_faces(labels[::-1], seed=5),
    ]
    for other in others:
        changed = (images != other).reshape(7, -1).any(1)
        changed[3] |= np.array_equal(other, others[3])  # the label in the middle is its own mirror image
        assert changed.all()
    assert len({image.tobytes() for batch in [images, *others[:3]] for image in batch}) == 28


def test_image_depends_on_its_own_index_and_label_only():
    labels = np.array([0, 1, 2, 3, 4, 5, 6, 0, 1, 2])
    images = render_faces(labels, seed=1)
    np.testing.assert_array_equal(render_faces(labels[:5], seed=1), images[:5])
    shuffled = labels[::-1].copy()
    shuffled[4] = labels[4]
    np.testing.assert_array_equal(render_faces(shuffled, seed=1)[4], images[4])


@pytest.mark.parametrize("size", [24, 31, 48, 100, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_and_number_of_channels(size, channels):
    images = render_faces([3, 6], seed=2, size=size, channels=channels)
    assert images.shape == (2, size, size, channels)
    assert images.dtype == np.uint8
    assert images.std(axis=(1, 2, 3)).min() > 10  # a picture, not a flat patch


def test_no_faces_is_an_empty_batch():
    assert render_faces([], seed=0).shape == (0, 48, 48, 1)


def test_gray_is_the_luma_of_the_same_color_picture():
    labels = np.arange(7)
    gray = render_faces(labels, seed=4)[..., 0].astype(float)
    luma = render_faces(labels, seed=4, channels=3) @ np.array([0.299, 0.587, 0.114])
    inside = (luma > 12) & (luma < 243)  # clipping acts per channel
    assert np.abs(gray - luma)[inside].mean() < 1.5


def test_sizes_show_the_same_person():
    labels = np.arange(7)
    small = render_faces(labels, seed=4, size=32)[..., 0]
    large = render_faces(labels, seed=4, size=128)[..., 0]
    for a, b in zip(small, large, strict=True):
        shrunk = np.asarray(Image.fromarray(b).resize((32, 32), Image.Resampling.BOX), float)
        assert np.corrcoef(a.ravel().astype(float), shrunk.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [7]}, "label 7 is outside 0..6"),
        ({"labels": [0, -1]}, "label -1 is outside"),
        ({"labels": [0.5]}, "must be integers"),
        ({"labels": [[1]]}, r"\(1, 1\)"),
        ({"size": 23}, "size 23 is outside 24..256"),
        ({"size": 257}, "size 257"),
        ({"channels": 2}, r"channels must be 1 \(gray\) or 3"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"split": "valid"}, "Did you mean 'validation'"),
    ],
)
def test_invalid_face_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        render_faces(**{"labels": [0], "seed": 0} | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"faces": -1}, "faces must be at least 0"),
        ({"faces": 200}, "200 faces do not fit into 480x640"),
        ({"size": (480, 20)}, "480x20"),
        ({"channels": 4}, "channels must be"),
    ],
)
def test_invalid_scene_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        render_scene(**{"seed": 0, "faces": 1} | arguments)


def test_prototypes_cover_the_seven_expressions_in_order():
    assert tuple(PROTOTYPES) == EXPRESSIONS
    known = {field.name for field in dataclasses.fields(ActionUnits)}
    for core, optional in PROTOTYPES.values():
        assert known.issuperset(core) and known.issuperset(optional)
    with pytest.raises(InputError, match=r"unknown expression 'hapy'. Did you mean 'happy'"):
        sample_action_units(np.random.default_rng(0), "hapy")


def test_intensity_scales_the_expression():
    def strength(intensity):
        units = sample_action_units(np.random.default_rng(0), "surprise", intensity)
        return sum(dataclasses.astuple(units))

    assert strength(0.1) < strength(0.5) < strength(1.0)


def test_blend_goes_from_one_face_to_the_other():
    a, b = ActionUnits(au12=1.0), ActionUnits(au26=0.5)
    assert a.blend(b, 0.0) == a
    assert a.blend(b, 1.0) == b
    assert a.blend(b, 0.5) == ActionUnits(au12=0.5, au26=0.25)


@pytest.mark.parametrize("unit", [field.name for field in dataclasses.fields(ActionUnits) if field.name != "au24"])
def test_every_action_unit_moves_its_part_of_the_face(unit):
    # Rows of a 96-pixel portrait, 36.9 pixels a unit: brows and eyes lie above row 56, the mouth below row 60.
    changed = np.abs(portrait(ActionUnits(**{unit: 1.0})) - portrait(ActionUnits())).max(axis=2) > 25
    upper, lower = changed[:50].sum(), changed[60:].sum()
    assert upper + lower > 20
    if unit in ("au1", "au2", "au4", "au5", "au7"):
        assert lower == 0
    if unit in ("au12", "au15", "au17", "au20", "au25", "au26"):
        assert upper == 0


def test_pressed_lips_are_thin():
    changed = np.abs(portrait(ActionUnits(au24=1.0)) - portrait(ActionUnits())).max(axis=2) > 15
    assert changed[:60].sum() == 0
    assert changed[60:].sum() > 10


def test_a_turned_head_moves_its_features_and_a_head_off_the_canvas_draws_nothing():
    def darkest_column(yaw):  # the eyes, in the rows around the eye line
        return portrait(ActionUnits(), yaw=yaw)[38:44, 20:76].sum(axis=(0, 2)).argmin()

    assert darkest_column(-0.3) != darkest_column(0.3)
    canvas = Image.new("RGB", (32, 32), (9, 9, 9))
    identity = sample_identity(np.random.default_rng(0))
    draw_face(canvas, identity, ActionUnits(), Pose(x=500, y=500, scale=20), Light())
    assert np.asarray(canvas).max() == 9


@pytest.mark.slow
def test_a_linear_model_on_pixels_cannot_tell_expressions():
    train, test = np.arange(1000) % 7, np.arange(350) % 7
    x = render_faces(train, seed=0).reshape(len(train), -1).astype(np.float32)
    y = render_faces(test, seed=0, split="test").reshape(len(test), -1).astype(np.float32)
    scale = StandardScaler().fit(x)
    # The default tolerance would buy nothing: the training images are fitted, so optimisation is not what fails.
    model = LogisticRegression(max_iter=200, tol=1e-2).fit(scale.transform(x), train)
    assert model.score(scale.transform(x), train) > 0.9
    assert model.score(scale.transform(y), test) <= 0.42


@pytest.mark.parametrize("faces", [0, 1, 4])
def test_scene_boxes_lie_inside_and_apart(faces):
    for seed in range(3):
        image, boxes, labels = render_scene(seed=seed, faces=faces)
        assert image.shape == (480, 640, 3) and image.dtype == np.uint8
        assert boxes.shape == (faces, 4) and boxes.dtype == np.int32
        assert labels.shape == (faces,) and labels.dtype == np.int32
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] >= 30).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= (640, 480)).all()
        assert ((labels >= 0) & (labels < 7)).all()
        assert all(overlap(boxes[i], boxes[j])[0] == 0 for i in range(faces) for j in range(i))


def test_scene_is_deterministic_at_any_size():
    first, second = (render_scene(seed=3, faces=2, size=(240, 320), channels=1) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert first[0].shape == (240, 320, 1)
    assert (first[0] != render_scene(seed=4, faces=2, size=(240, 320), channels=1)[0]).any()


def test_haar_cascade_finds_the_faces_of_scenes():
    detector = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    found = total = false = 0
    for seed in range(16):
        image, boxes, _ = render_scene(seed=seed, faces=seed % 5, channels=1)
        detections = detector.detectMultiScale(image[..., 0], 1.1, 5, minSize=(30, 30))
        found += sum(any(overlap(box, d)[1] >= 0.4 for d in detections) for box in boxes)
        false += sum(not any(overlap(box, d)[1] >= 0.4 for box in boxes) for d in detections)
        total += len(boxes)
    assert total == 30
    assert found >= 0.85 * total
    assert false <= 3

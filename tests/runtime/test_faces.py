import concurrent.futures
import dataclasses
import pathlib
import sys
import types

import cv2
import numpy as np
import pytest
from PIL import Image

from ferjax.data.synthetic.clips import render_clip
from ferjax.data.synthetic.rendering import render_scene
from ferjax.errors import InputError
from ferjax.runtime.faces import detector as faces_detector
from ferjax.runtime.faces import finders
from ferjax.runtime.faces.detector import Face, create_detector, crop
from ferjax.runtime.faces.tracking import iou
from ferjax.spec import ModelSpec

OTHER = pathlib.Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_alt.xml"


def spec(size=48, color_order="gray"):
    channels = 1 if color_order == "gray" else 3
    return ModelSpec(
        class_names=("a", "b"),
        input_size=(size, size),
        color_order=color_order,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        architecture="resnet20",
    )


def scene(seed, people, size=(480, 640)):
    picture, boxes, _ = render_scene(seed=seed, faces=people, size=size)
    return np.ascontiguousarray(picture[..., ::-1]), [tuple(box) for box in boxes.tolist()]


def test_threads_that_share_a_detector_get_the_faces_of_one_thread():
    haar, images = create_detector("haar"), [scene(seed, people=3)[0] for seed in range(8)]
    expected = [sorted(haar(image)) for image in images]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        for _ in range(3):
            assert [sorted(faces) for faces in threads.map(haar, images)] == expected
    assert any(expected)


@pytest.mark.parametrize("scale", [None, 1.0])
def test_haar_finds_each_rendered_face_once(scale):
    detector = create_detector("haar", scale=scale)
    frame, boxes = scene(seed=8, people=3)
    found = detector(frame)
    assert len(found) == 3
    for box in boxes:
        (best,) = [face for face in found if iou(face.box, box) > 0.5]
        assert 0.5 <= best.score < 1 and best.landmarks is None


def test_haar_finds_a_dark_face_in_a_dim_room(monkeypatch):
    ((frame, (person,)),) = render_clip("moving", seed=7, frames=1)

    def found():
        detector = create_detector("haar")
        return detector.candidates(frame, (0, 0, 640, 480), detector.smallest_face(frame.shape), 480.0)

    (face,) = found()
    assert iou(face.box, person.box) > 0.5
    monkeypatch.setattr(finders, "_equalizer", lambda: lambda gray: gray)
    assert found() == []  # found only with equalized local contrast


def test_pictures_of_any_size_have_a_local_contrast():
    contrast, detector = finders._equalizer(), create_detector("haar")
    for height, width in ((1, 1), (1, 300), (39, 61), (480, 640)):
        gray = np.random.default_rng(0).integers(40, 60, (height, width), np.uint8)
        assert contrast(gray).shape == gray.shape and contrast(gray).dtype == np.uint8
        assert contrast(gray).std() > gray.std() or height == 1
        assert detector(np.full((height, width, 3), 90, np.uint8)) == []


def test_smallest_face_matches_what_is_found():
    frame, boxes = scene(seed=7, people=1)
    shrunk = cv2.resize(frame, None, fx=36 / boxes[0][2], fy=36 / boxes[0][2], interpolation=cv2.INTER_AREA)
    fine, coarse = create_detector("haar", scale=1), create_detector("haar", scale=0.5)
    assert (fine.smallest_face(frame.shape), coarse.smallest_face(frame.shape)) == (30, 60)
    assert create_detector("haar").smallest_face((480, 640, 3)) == 60
    assert create_detector("haar").smallest_face((1080, 1920, 3)) == 180
    assert len(fine(shrunk)) == 1 and not coarse(shrunk)
    assert len(coarse(shrunk, min_face=30)) == 1


def test_a_region_search_returns_frame_coordinates():
    detector = create_detector("haar")
    frame, boxes = scene(seed=3, people=2)
    (x, y, w, h), other = boxes
    found = detector(frame, (x - w / 2, y - h / 2, 2 * w, 2 * h), 0.7 * w, 1.4 * w)
    assert len(found) == 1 and iou(found[0].box, boxes[0]) > 0.5
    assert detector.detect_near(frame, (x + 0.1 * w, y - 0.05 * h, 1.1 * w, 1.1 * h)).box == pytest.approx(
        boxes[0], abs=25
    )
    assert detector.detect_near(frame, (*np.array(other[:2]) % 5, 60, 60)) is None
    assert detector(frame, (700, 10, 50, 50)) == [] and detector(frame, (-90, 10, 50, 50)) == []


def test_a_large_frame_is_reduced_by_averaging():
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), np.uint8)
    small = faces_detector.resized(noise, 0.1)
    assert small.shape == (120, 160, 3)
    assert small.std() < 40 and abs(small.mean() - 127.5) < 2  # single pixels have a deviation of 74
    assert faces_detector.resized(noise, 1.0) is noise
    assert faces_detector.resized(noise[:4, :4], 0.01).shape == (1, 1, 3)


@pytest.mark.parametrize("color_order", ["gray", "rgb", "bgr"])
def test_a_face_of_the_input_size_keeps_its_pixels(color_order):
    frame = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    (whole,) = create_detector("none")(frame)
    expected = {
        "gray": np.array(Image.fromarray(frame[..., ::-1].copy()).convert("L"))[..., None],
        "rgb": frame[..., ::-1],
        "bgr": frame,
    }[color_order]
    got = crop(frame, whole, spec(color_order=color_order))
    assert got.dtype == np.uint8 and got.flags.c_contiguous
    np.testing.assert_array_equal(got, expected)


def test_a_gray_face_keeps_its_gray_values():
    gray = np.random.default_rng(1).integers(0, 256, (48, 48, 1), np.uint8)
    (whole,) = create_detector("none")(np.repeat(gray, 3, axis=2))
    np.testing.assert_array_equal(crop(np.repeat(gray, 3, axis=2), whole, spec()), gray)


def test_detector_none_returns_the_central_square():
    assert create_detector("none")(np.zeros((50, 80, 3), np.uint8)) == [Face((15, 0, 50, 50), 1.0)]
    for more in ({"scale": 0.5}, {"model": __file__}):
        with pytest.raises(InputError, match="'none'"):
            create_detector("none", **more)


def test_a_crop_is_the_box_resized():
    frame = np.zeros((200, 300, 3), np.uint8)
    frame[40:136, 100:148] = (0, 0, 200)  # the left half of the box is red
    cut = crop(frame, Face((100, 40, 96, 96), 1.0), spec(color_order="rgb"))
    assert (cut[:, :23] == (200, 0, 0)).all() and (cut[:, 25:] == 0).all()  # the filter mixes the columns in between
    assert crop(frame, Face((100, 40, 20, 20), 1.0), spec()).shape == (48, 48, 1)  # enlarged


def test_pixels_outside_the_frame_repeat_its_edge():
    frame = np.full((100, 100, 3), 77, np.uint8)
    assert (crop(frame, Face((-30, 60, 60, 60), 1.0), spec()) == 77).all()


@pytest.mark.parametrize("angle", [-25, 0, 15])
def test_crops_have_level_eyes(angle):
    a, middle, radius = np.deg2rad(angle), np.array([150.0, 120.0]), 20
    eyes = middle + radius * np.array([[-np.cos(a), -np.sin(a)], [np.cos(a), np.sin(a)]])
    frame = np.zeros((240, 300, 3), np.uint8)
    for x, y in eyes:
        cv2.circle(frame, (round(x), round(y)), 4, (255, 255, 255), -1)
    landmarks = np.vstack([eyes[::-1], np.zeros((3, 2))])  # the order of the eyes does not matter
    cut = crop(frame, Face((102, 72, 96, 96), 1.0, landmarks), spec())[..., 0].astype(float)
    rows, columns = np.nonzero(cut > 60)
    left, right = rows[columns < 24].mean(), rows[columns >= 24].mean()
    assert abs(left - right) < 0.7
    assert columns[columns >= 24].mean() - columns[columns < 24].mean() == pytest.approx(20, abs=1)


def test_steep_eye_lines_are_ignored():
    landmarks = np.array([[10, 10], [12, 40], [0, 0], [0, 0], [0, 0]], float)
    assert faces_detector.tilt(Face((0, 0, 50, 50), 1.0, landmarks)) == 0


class Net:
    """A fake YuNet: returns one face with a high and one with a low score."""

    sizes: tuple = ()

    @classmethod
    def create(cls, path, config, size, score, overlap, most):
        cls.sizes += (size,)
        return cls()

    def detect(self, picture):
        landmarks = [110, 130, 150, 130, 130, 150, 115, 170, 145, 170]
        rows = [[100, 100, 60, 80, *landmarks, 0.9], [10, 10, 60, 80, *landmarks, 0.6]]
        return 1, np.array(rows if picture.any() else [], np.float32).reshape(-1, 15)


def test_yunet_boxes_are_converted_to_the_haar_square(monkeypatch, tmp_path):
    monkeypatch.setattr(cv2, "FaceDetectorYN", Net)
    file = tmp_path / "yunet.onnx"
    file.touch()
    detector = create_detector("yunet", model=file)
    frame = np.full((480, 640, 3), 9, np.uint8)
    (face,) = detector(frame)  # searched at 320x240
    x, y, w, h = face.box
    assert w == h == pytest.approx(2 * 0.525 * 140)
    assert x + w / 2 == pytest.approx(260) and y + h / 2 == pytest.approx(280, abs=8)
    np.testing.assert_allclose(
        face.landmarks, 2 * np.array([[110, 130], [150, 130], [130, 150], [115, 170], [145, 170]])
    )
    assert len(detector.candidates(frame, (0, 0, 640, 480), 32, 480)) == 2
    assert all(side % 32 == 0 for size in Net.sizes for side in size)
    made = len(Net.sizes)
    detector(frame)
    assert len(Net.sizes) == made  # a net is kept for each size


def test_dlib_gives_five_of_its_68_landmarks(monkeypatch, tmp_path):
    class Rectangle:
        left, top = staticmethod(lambda: 40), staticmethod(lambda: 30)
        width = height = staticmethod(lambda: 100)

    points = [types.SimpleNamespace(x=i, y=2 * i) for i in range(68)]
    shape = types.SimpleNamespace(num_parts=68, part=points.__getitem__)
    finder = types.SimpleNamespace(run=lambda gray, times, least: ([Rectangle], [1.0], [0]))
    dlib = types.SimpleNamespace(
        get_frontal_face_detector=lambda: finder, shape_predictor=lambda path: lambda gray, box: shape
    )
    monkeypatch.setitem(sys.modules, "dlib", dlib)
    frame = np.zeros((480, 640, 3), np.uint8)
    (bare,) = create_detector("dlib")(frame)
    assert bare.box == pytest.approx((36.5, 16.87, 107, 107)) and bare.score == 0.5 and bare.landmarks is None
    file = tmp_path / "68.dat"
    file.touch()
    (face,) = create_detector("dlib", model=file)(frame)
    np.testing.assert_allclose(face.landmarks[:, 0], [38.5, 44.5, 30, 48, 54])
    np.testing.assert_allclose(face.landmarks[:, 1], 2 * face.landmarks[:, 0])


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("harr", {}, "unknown detector 'harr'. Did you mean 'haar'"),
        ("haar", {"scale": 0}, "greater than 0"),
        ("haar", {"scale": 3}, "at most 2"),
        ("haar", {"model": "missing.xml"}, "missing.xml is not a file"),
        ("haar", {"model": "junk"}, "junk is not a Haar cascade"),
        ("yunet", {"model": "junk"}, "junk as a YuNet model"),
        ("yunet", {}, "ferjax fetch yunet"),
        ("dlib", {}, "pip install dlib"),
    ],
)
def test_invalid_detector_options_are_one_line_errors(name, options, message, tmp_path, monkeypatch):
    monkeypatch.setenv("FERJAX_MODELS", str(tmp_path / "none"))
    monkeypatch.setitem(sys.modules, "dlib", None)
    (tmp_path / "junk").write_text("junk")
    if "model" in options:
        options = {**options, "model": tmp_path / options["model"]}
    with pytest.raises(InputError, match=message) as raised:
        create_detector(name, **options)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    "frame", [None, np.zeros((0, 640, 3), np.uint8), np.zeros((48, 48), np.uint8), np.zeros((48, 48, 3))]
)
def test_an_invalid_frame_is_an_error(frame):
    with pytest.raises(InputError, match="a frame must be a non-empty uint8"):
        create_detector("haar")(frame)


def test_photos_are_also_searched_for_profiles():
    both, found, more = create_detector("haar", scale=0.25), 0, 0
    plain = dataclasses.replace(both, find_profile=None)
    for seed in range(6):
        frame, boxes = scene(seed=seed, people=3)
        before, after = plain.detect_photo(frame), both.detect_photo(frame)
        assert all(any(iou(f.box, g.box) > 0.9 for g in after) for f in before)
        found += sum(any(iou(f.box, box) > 0.4 for f in before) for box in boxes)
        more += sum(any(iou(f.box, box) > 0.4 for f in after) for box in boxes)
    assert more > found  # rendered faces are frontal: the profile search finds small ones


def test_profiles_of_both_sides_are_found():
    find = finders.haar_profile()
    for seed in range(4):
        frame = cv2.cvtColor(scene(seed=seed, people=3)[0], cv2.COLOR_BGR2GRAY)
        seen, mirrored = find(frame, 20, 500), find(np.ascontiguousarray(frame[:, ::-1]), 20, 500)
        turned = {(frame.shape[1] - x - w, y, w, h) for (x, y, w, h), *_ in mirrored}
        assert {tuple(np.round(box, 6)) for box in turned} == {tuple(np.round(face.box, 6)) for face in seen}
        assert seen or seed


def test_a_profile_at_the_place_of_a_frontal_face_is_dropped():
    frontal, same, other = ((50.0, 50.0, 40.0, 40.0), (62.0, 55.0, 20.0, 20.0), (120.0, 50.0, 40.0, 40.0))
    detector = dataclasses.replace(
        create_detector("none"),
        find=lambda *_: [Face(frontal, 0.5)],
        find_profile=lambda *_: [Face(same, 0.9), Face(other, 0.4)],
    )
    assert [face.box for face in detector.detect_photo(np.zeros((200, 200, 3), np.uint8))] == [frontal, other]
    assert create_detector("haar", model=OTHER).find_profile is None  # a custom cascade is used alone

import sys

import numpy as np
import pytest
from PIL import Image

from ferjax.cli import InputError
from ferjax.data import detect, synthetic
from ferjax.data.sources import BadExample

pytest.importorskip("cv2")


def overlap(box, other):
    (ax, ay, aw, ah), (bx, by, bw, bh) = box, other
    w = max(0, min(ax + aw, bx + bw) - max(ax, bx))
    h = max(0, min(ay + ah, by + bh) - max(ay, by))
    return w * h / (aw * ah + bw * bh - w * h)


def test_the_largest_face_of_a_scene_is_the_one_cut_out(monkeypatch):
    scene, boxes, _ = synthetic.render_scene(seed=3, faces=2, size=(480, 640))
    picture = Image.fromarray(scene)
    found = detect._find(picture, "haarcascade_frontalface_default.xml")
    assert found and all(max(overlap(f, b) for b in boxes.tolist()) > 0.4 for f in found)
    monkeypatch.setattr(detect, "_tilt", lambda face: 0.0)
    largest = max(found, key=lambda b: b[2] * b[3])
    assert detect.largest_face(picture).size == (largest[2], largest[3])


def test_a_large_photograph_is_searched_small_and_cut_at_full_size():
    scene, boxes, _ = synthetic.render_scene(seed=3, faces=1, size=(480, 640))
    large = Image.fromarray(scene).resize((2560, 1920))
    (box,) = detect._find(large, "haarcascade_frontalface_default.xml")
    assert overlap(box, (boxes[0] * 4).tolist()) > 0.4


def test_a_tilted_face_is_turned_upright(monkeypatch):
    face = np.zeros((100, 100), np.uint8)
    face[40, 30] = face[50, 70] = 255  # the eyes: the right one 10 pixels lower
    boxes = {"haarcascade_frontalface_default.xml": [(0, 0, 100, 100)], "haarcascade_eye.xml": [(25, 35, 10, 10)]}
    boxes["haarcascade_eye.xml"].append((65, 45, 10, 10))
    monkeypatch.setattr(detect, "_find", lambda picture, cascade, least=30: boxes[cascade])
    angle = detect._tilt(Image.fromarray(face))
    assert angle == pytest.approx(np.arctan2(10, 40))
    upright = np.asarray(detect.largest_face(Image.fromarray(face)), float)
    rows, columns = np.nonzero(upright > 20)
    left, right = rows[columns < 50].mean(), rows[columns > 50].mean()
    assert abs(left - right) < 1.5


def test_eyes_that_cannot_be_a_pair_turn_nothing(monkeypatch):
    face = Image.new("L", (100, 100))
    for eyes in ([], [(20, 30, 10, 10)], [(20, 30, 10, 10), (25, 30, 10, 10)], [(20, 0, 10, 10), (60, 60, 10, 10)]):
        monkeypatch.setattr(detect, "_find", lambda picture, cascade, least=30, eyes=eyes: eyes)
        assert detect._tilt(face) == 0


def test_no_face_is_said():
    with pytest.raises(BadExample, match="no face"):
        detect.largest_face(Image.new("RGB", (200, 200), "gray"))


def test_without_opencv_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"needs OpenCV 4 .*pip install 'ferjax\[live\]'"):
        detect._cascade("haarcascade_eye.xml")

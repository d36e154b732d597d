"""The Python calls `ferjax.analyze` and `ferjax.analyze_film`."""

import concurrent.futures
import dataclasses
import io
import subprocess
import sys
import types

import cv2
import numpy as np
import pytest
from PIL import Image

import ferjax
from ferjax.data.synthetic.rendering import render_scene
from ferjax.errors import InputError
from ferjax.runtime import load
from ferjax.runtime.analysis import photo
from ferjax.runtime.faces.detector import create_detector
from tests.support import small_files
from tests.support.live_parts import SPEC, brightness_model, patch_detector, patches
from tests.support.videos import write_film

PLACES = {0: (20, 20), 90: (120, 30), 210: (220, 20)}


IMAGE = patches(0, PLACES).image
SMALL = np.ascontiguousarray(render_scene(seed=0, faces=1, size=(160, 200))[0][..., ::-1])


def own(image, **options):
    return ferjax.analyze(image, **({"model": brightness_model(), "detector": patch_detector()} | options))


def test_a_face_has_box_label_probabilities_and_quality():
    faces = own(IMAGE)
    assert {face.box: face.label for face in faces} == {
        (20, 20, 40, 40): "angry",
        (120, 30, 40, 40): "happy",
        (220, 20, 40, 40): "sad",
    }
    assert [face.track for face in faces] == [1, 2, 3]
    for face in faces:
        assert list(face.probabilities) == list(SPEC.class_names)
        assert face.confidence == face.probabilities[face.label] > 0.99
        assert face.quality.size == 40 and face.landmarks is None


def test_every_kind_of_image_gives_the_same_faces(tmp_path):
    cv2.imwrite(str(tmp_path / "ä b.png"), IMAGE)
    data = (tmp_path / "ä b.png").read_bytes()
    kinds = [
        tmp_path / "ä b.png",
        str(tmp_path / "ä b.png"),
        data,
        memoryview(data),
        Image.open(io.BytesIO(data)),
        IMAGE,
    ]
    answers = [own(kind) for kind in kinds]
    assert len(answers[0]) == 3 and all(answer == answers[0] for answer in answers)
    assert own(IMAGE[..., ::-1], color="rgb") == answers[0]
    assert own(kinds) == answers and own(tuple(kinds)) == answers and own([]) == []


def test_a_gray_image_has_one_channel_or_none():
    gray = np.full((30, 40), 120, np.uint8)
    (face,) = own(gray, detector="none")
    assert face.box == (5, 0, 30, 30) and [face] == own(gray[..., None], detector="none")


def test_a_turned_photo_is_upright_in_every_kind(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(IMAGE[..., ::-1])))  # turned back by the tag
    turned.save(tmp_path / "turned.png", exif=exif)
    opened = Image.open(tmp_path / "turned.png")
    assert own(tmp_path / "turned.png") == own(opened) == own(opened) == own(IMAGE)


def test_an_image_is_not_changed():
    before = IMAGE.copy()
    own(IMAGE)
    assert (before == IMAGE).all()


def test_landmarks_are_those_of_the_detector():
    points = np.array([[30.0, 30], [50, 30]])
    found = patch_detector()

    def find(*arguments):
        return [face._replace(landmarks=points) for face in found.find(*arguments)]

    (face,) = own(patches(0, {90: (20, 20)}).image, detector=dataclasses.replace(found, find=find))
    assert face.landmarks == ((30.0, 30.0), (50.0, 30.0))


def test_model_and_detector_are_loaded_once_and_a_changed_file_again(tmp_path, monkeypatch):
    loaded, made = [], []
    monkeypatch.setattr(photo, "load", lambda path: loaded.append(path) or load(path))
    monkeypatch.setattr(photo, "create_detector", lambda *a, **k: made.append(a) or create_detector(*a, **k))
    path = small_files.onnx_file(tmp_path / "m.onnx", SPEC)
    first, again = (ferjax.analyze(SMALL, model=path, detect_scale=0.9) for _ in range(2))
    assert first == again and len(loaded) == len(made) == 1
    small_files.onnx_file(path, SPEC, bias=np.array([30, 0, 0], np.float32))
    (changed,) = ferjax.analyze(SMALL, model=path, detect_scale=0.9)
    assert len(loaded) == 2 and len(made) == 1 and changed.confidence > 0.99 > first[0].confidence


def test_threads_get_the_answers_of_one_thread():
    images = [SMALL, np.ascontiguousarray(SMALL[:, ::-1]), np.full_like(SMALL, 90)]
    options = {"model": brightness_model(), "detect_scale": 0.8}
    alone = [ferjax.analyze(image, **options) for image in images]
    assert [len(faces) for faces in alone] == [1, 1, 0]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda image: ferjax.analyze(image, **options), images * 4)) == alone * 4


@pytest.mark.parametrize(
    "image, said",
    [
        ("missing.jpg", "missing.jpg does not exist"),
        ("", "a path is empty"),
        ("a\0b.jpg", "does not exist"),
        (__file__, "cannot be read as an image .*analyze_film"),
        (".", "is a folder: give its images as a list"),
        (b"no image", "the image of 8 bytes cannot be read"),
        (np.zeros((4, 4, 3)), r"uint8 array .* got float64 \(4, 4, 3\)"),
        (np.zeros((0, 4), np.uint8), "non-empty"),
        (np.zeros((2, 4, 4, 3), np.uint8), "for several images give a list"),
        (7, "an image must be a path, bytes, .* got int"),
        ([IMAGE, b""], "image 2 of the list: the image of 0 bytes"),
        ([[IMAGE]], "image 1 of the list: .* got list"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(image, said):
    with pytest.raises(InputError, match=said):
        own(image)


def test_a_damaged_or_closed_image_of_pillow_is_refused():
    data = cv2.imencode(".png", IMAGE)[1].tobytes()
    damaged, closed = (Image.open(io.BytesIO(part)) for part in (data[: len(data) // 2], data))
    closed.close()
    for image in (damaged, closed):
        with pytest.raises(InputError, match="the PIL image cannot be read"):
            own(image)


def test_a_password_in_a_url_is_not_printed():
    for call in (own, film_of):
        with pytest.raises(InputError, match="URLs are not accepted") as refused:
            call("rtsp://me:secret@camera/1")
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "options, said",
    [({"color": "RGB"}, "Accepted: bgr, rgb"), ({"threshold": 2}, "threshold"), ({"detector": "har"}, "'haar'")],
)
def test_a_wrong_option_is_refused(options, said):
    for image in (IMAGE, []):
        with pytest.raises(InputError, match=said):
            own(image, **options)


def test_a_threshold_makes_a_face_uncertain():
    assert {face.label for face in own(IMAGE, threshold=1.0)} == {"uncertain"}


def test_importing_ferjax_is_light_and_the_calls_need_no_jax():
    code = (
        "import sys, ferjax\nprint(sorted({name.split('.')[0] for name in sys.modules} & {'numpy', 'cv2', 'jax'}))\n"
        "ferjax.analyze, ferjax.analyze_film\nprint('cv2' in sys.modules, 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "True False"]
    assert {"analyze", "analyze_film", "__version__"} <= set(dir(ferjax))
    with pytest.raises(AttributeError, match="no attribute 'analyse'"):
        _ = ferjax.analyse


def film_of(path, **options):
    return ferjax.analyze_film(path, **({"model": brightness_model(), "detector": patch_detector()} | options))


def test_a_film_has_a_row_per_face_and_frame_and_the_time_per_label(tmp_path):
    labels = [("happy", "sad" if i < 30 else "angry") for i in range(60)]
    film = film_of(write_film(tmp_path / "film.avi", labels))
    assert [(row.frame, row.face.track) for row in film.rows] == [(i, t) for i in range(60) for t in (1, 2)]
    assert film.rows[7].time == pytest.approx(0.3) and film.rows[0].face.box == (20, 40, 40, 40)
    assert film.summary.duration == pytest.approx(6) and film.summary.frames == 60
    first, second = film.summary.people
    assert first.seconds == pytest.approx({"angry": 0, "happy": 6, "sad": 0, "uncertain": 0})
    assert second.seconds == pytest.approx({"angry": 3, "happy": 0, "sad": 3, "uncertain": 0}, abs=0.31)
    assert second.visible == pytest.approx(6) and (second.first, second.last) == pytest.approx((0, 5.9))


def test_rows_become_a_table_of_pandas(tmp_path, monkeypatch):
    film = film_of(write_film(tmp_path / "film.avi", [("happy",)] * 3))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        film.to_pandas()
    fake = types.SimpleNamespace(DataFrame=lambda rows, columns: [dict(zip(columns, r, strict=True)) for r in rows])
    monkeypatch.setitem(sys.modules, "pandas", fake)
    table = film.to_pandas()
    assert [(row["frame"], row["label"], row["width"]) for row in table] == [(i, "happy", 40) for i in range(3)]
    assert table[0]["probability_happy"] == pytest.approx(film.rows[0].face.probabilities["happy"], abs=1e-6)


def test_what_is_no_film_is_refused_in_one_line(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "notes.txt").write_text("no film")
    for path, said in (
        (tmp_path / "a.png", "is a photo: use ferjax.analyze"),
        (tmp_path / "no.mp4", "does not exist"),
        (tmp_path, "is not a file"),
        ("0", "does not exist"),  # not a camera
        ("", "a path is empty"),
        (tmp_path / "notes.txt", "cannot read"),
    ):
        with pytest.raises(InputError, match=said):
            film_of(path)
    film = write_film(tmp_path / "film.avi", [("happy",)] * 3)
    with pytest.raises(InputError, match="rate"):
        film_of(film, rate=0)
    for wrong in ("smoth", "threads"):
        with pytest.raises(TypeError, match=wrong):
            film_of(film, **{wrong: 3})

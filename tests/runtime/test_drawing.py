import itertools
import time

import numpy as np
import pytest
from PIL import ImageFont

from ferjax.runtime.show import drawing
from ferjax.runtime.show.drawing import Painter, colors
from tests.support.live_parts import NAMES, face, frame, result
from tests.support.small_fonts import write_font

EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")


def drawn(*faces, size=(480, 640), value=90, painter=None):
    of = frame(size=size, value=value)
    (painter or Painter(NAMES)).draw(result(*faces, of=of))
    return of.image


def count(image, color):
    return int((image == np.array(color, np.uint8)).all(2).sum())


def simulated(color, matrix):
    """Simulates the appearance of a BGR color with color blindness (Viénot, Brettel and Mollon 1999)."""
    linear = (np.array(color[::-1]) / 255) ** 2.2
    lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    return np.clip(np.linalg.inv(lms) @ matrix @ lms @ linear, 0, 1) ** (1 / 2.2) * 255


@pytest.mark.parametrize(
    "matrix",
    [
        np.eye(3),
        np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),  # protanopia
        np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),  # deuteranopia
    ],
    ids=["trichromat", "protanope", "deuteranope"],
)
def test_the_emotions_colors_differ_for_the_color_blind(matrix):
    seen = [simulated(color, matrix) for color in colors(EMOTIONS).values()]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 30


def test_other_class_names_get_the_colors_that_are_left():
    chosen = colors(("happy", "bored", "tired"))
    assert chosen["happy"] == colors(EMOTIONS)["happy"] and len(set(chosen.values())) == 3
    assert len(colors([f"c{i}" for i in range(12)])) == 12


@pytest.mark.parametrize("size", [(480, 640), (1080, 1920)])
def test_bars_are_as_long_as_the_probabilities(size):
    unit = size[0] / 480
    image = drawn(face(box=(50, 60, 90, 90), p=(0.1, 0.6, 0.3), label="uncertain"), size=size)
    palette = colors(NAMES)
    areas = [count(image, palette[name]) for name in NAMES]
    assert min(areas) > 20 * unit
    np.testing.assert_allclose(np.array(areas) / sum(areas), [0.1, 0.6, 0.3], atol=0.04)


def test_the_box_has_the_labels_color_and_uncertain_is_white():
    happy = colors(NAMES)["happy"]
    nothing_happy = (0.999, 0.0, 0.001)
    assert count(drawn(face(p=nothing_happy, label="happy")), happy) > 200
    assert count(drawn(face(p=nothing_happy, label="uncertain")), happy) == 0
    assert count(drawn(face(p=nothing_happy, label="uncertain")), (255, 255, 255)) > 200


def panel(image, before):
    """Returns (left, top, right, bottom) of the panel: new pixels in the panel's background color."""
    dark = (image == 28).all(2) & ~(before == 28).all(2)
    dark[-24:] = False  # the status line
    ys, xs = np.nonzero(dark)
    return xs.min(), ys.min(), xs.max(), ys.max()


@pytest.mark.parametrize("box", [(20, 20, 100, 100), (530, 20, 100, 100), (300, 370, 100, 100), (-30, -30, 90, 90)])
def test_a_panel_stays_inside_and_leaves_the_face_free(box):
    image = drawn(face(box=box))
    left, top, right, bottom = panel(image, np.full_like(image, 90))
    x, y, w, h = box
    assert left >= 0 and right < 640 and top >= 0 and bottom < 480
    assert right < x or left > x + w or bottom < y or top > y + h


def test_a_panel_keeps_clear_of_the_line_at_the_bottom():
    image = drawn(face(box=(300, 420, 60, 60)))
    shape = Painter(NAMES)._panel(1.0).shape
    painter, taken = Painter(NAMES), []
    place = painter._place
    painter._place = lambda *given: taken.append(place(*given)) or taken[-1]
    painter.draw(result(face(box=(300, 420, 60, 60)), of=frame(size=image.shape[:2])))
    ((_, y, _, height),) = taken
    assert height == shape[0] and y + height <= 480 - 12


def test_panels_of_neighbors_hide_neither_face_nor_panel():
    boxes = [(30, 40, 80, 80), (125, 40, 80, 80), (470, 300, 80, 80), (380, 300, 80, 80)]
    alone = [count(drawn(face(box=b, p=(0.0, 0.0, 1.0), label="x")), colors(NAMES)["sad"]) for b in boxes]
    image = drawn(*[face(i, b, (0.0, 0.0, 1.0), label="x") for i, b in enumerate(boxes)])
    assert count(image, colors(NAMES)["sad"]) == sum(alone)
    for x, y, w, h in boxes:
        assert (image[y + 10 : y + h - 10, x + 10 : x + w - 10] == 90).all()


def test_a_panel_does_not_jump_from_side_to_side():
    painter = Painter(NAMES)
    sides = []
    for x in (300, 420, 445, 460, 470, 460, 445, 470, 445):  # around the position where the right side gets too narrow
        image = drawn(face(box=(x, 100, 80, 80)), painter=painter)
        left, *_ = panel(image, np.full_like(image, 90))
        sides.append(left > x)
    assert sides[0] and sum(a != b for a, b in itertools.pairwise(sides)) <= 1


@pytest.mark.parametrize("size", [(24, 24), (48, 48), (100, 90), (200, 3000)])
def test_any_size_of_frame_can_be_drawn_on(size):
    image = drawn(face(box=(2, 3, 20, 20)), face(2, box=(-50, 500, 20, 20)), size=size)
    assert image.shape == (*size, 3) and (image != 90).any()


def labelled(*names):
    """Draws a face with the second of two class names."""
    of = frame(size=(480, 640))
    seen = face()._replace(label=names[1], probabilities=dict(zip(names, (0.4, 0.6), strict=True)))
    Painter(names).draw(result(seen, of=of))
    return of.image


def test_names_without_a_font_are_drawn_in_ascii(monkeypatch):
    monkeypatch.setattr(drawing, "fonts", lambda names: {})
    assert (labelled("überrascht", "喜") == labelled("uberrascht", "class 2")).all()
    assert (labelled("гнев", "a悲") == labelled("class 1", "a")).all()
    assert (labelled("a怒", "a悲") == labelled("class 1", "class 2")).all()
    assert (labelled("радость 1", "печаль!") == labelled("class 1", "class 2")).all()
    assert (labelled("1", "2") != labelled("class 1", "class 2")).any()
    assert (labelled("喜", "b") != labelled("b", "喜")).any()


def test_names_of_any_script_are_drawn_with_a_font_that_has_their_letters(tmp_path, monkeypatch, capsys):
    name = "\U0010ac01\U0010ac02"
    monkeypatch.setenv("HOME", str(tmp_path))
    write_font(tmp_path / ".fonts" / "letters.ttf", name)
    white = [count(labelled("angry", shown), (235, 235, 235)) for shown in (name, "happy")]
    assert white[0] > white[1] + 100 and capsys.readouterr().err == ""  # the font's letters are squares


def test_a_new_track_renders_no_name_again(tmp_path, monkeypatch):
    name, opened = "\U0010ac03", []
    monkeypatch.setenv("HOME", str(tmp_path))
    write_font(tmp_path / ".fonts" / "letters.ttf", name)
    painter, load = Painter(("angry", name)), ImageFont.truetype
    monkeypatch.setattr(ImageFont, "truetype", lambda *given, **more: opened.append(given) or load(*given, **more))
    for track in range(9):
        seen = face(track, label=name)._replace(probabilities={"angry": 0.4, name: 0.6})
        painter.draw(result(seen, of=frame(size=(480, 640))))
    assert len(opened) == 1


def test_the_line_says_rate_latency_and_drops(monkeypatch):
    now = iter(np.arange(100) * 0.04)
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    painter = Painter(NAMES)
    for index in range(20):
        painter.draw(result(of=frame(index)._replace(dropped=3)))
    assert painter._status.startswith("25 fps  capture 1.0  detect 2.0  classify 3.0  draw ")
    assert painter._status.endswith("dropped 3")


def test_four_faces_take_less_than_a_millisecond():
    faces = [face(i, (20 + 150 * i, 60, 90, 90)) for i in range(4)]
    painter, times = Painter(NAMES), []
    for _ in range(60):
        shown = result(*faces, of=frame(size=(480, 640)))
        start = time.process_time()
        painter.draw(shown)
        times.append(time.process_time() - start)
    assert np.median(times) < 1e-3

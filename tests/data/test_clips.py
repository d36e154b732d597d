import itertools

import cv2
import numpy as np
import pytest

from ferjax.data.synthetic import clips
from ferjax.data.synthetic.clips import EXPRESSIONS, KINDS, render_clip
from ferjax.errors import InputError

SMALL = (120, 160)


def truth(kind, seed=0, seconds=5.0, fps=10):
    frames = round(seconds * fps)
    return [people for _, people in render_clip(kind, seed=seed, frames=frames, size=SMALL, fps=fps)]


def middles(people, who):
    return np.array([p.box[0] + p.box[2] / 2 for present in people for p in present if p.id == who])


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_is_a_function_of_its_kind_and_seed(kind):
    def some(seed, frames):
        return list(itertools.islice(render_clip(kind, seed=seed, frames=frames, size=SMALL), 3))

    first, again, other = some(0, 3), some(0, 9), some(1, 3)
    assert len(first) == 3
    for (frame, people), (same, same_people) in zip(first, again, strict=True):
        assert frame.shape == (*SMALL, 3) and frame.dtype == np.uint8
        np.testing.assert_array_equal(frame, same)
        assert people == same_people
    assert (first[0][0] != other[0][0]).any()


@pytest.mark.parametrize("kind, people", [("moving", 1), ("four", 4), ("none", 0), ("changing", 1), ("flicker", 1)])
def test_all_people_are_in_all_frames(kind, people):
    for present in truth(kind, seconds=1):
        assert [p.id for p in present] == list(range(people))
        for x, y, w, h in (p.box for p in present):
            assert w == h > 0.1 * SMALL[0] and x > -w / 2 and x + w / 2 < SMALL[1] and y > -h / 2


@pytest.mark.parametrize("kind", ["moving", "crossing", "four", "changing"])
def test_faces_move_by_two_pixels_a_frame_or_more(kind):
    people = truth(kind, seed=3, seconds=4)
    for who in {p.id for p in people[0]}:
        # A third of the frames, a quarter of the height; at each end of the walk a little is lost.
        assert np.abs(np.diff(middles(people, who))).mean() * 480 / SMALL[0] / 3 >= 1.9


@pytest.mark.parametrize("seed", range(3))
def test_two_people_pass_in_front_of_each_other(seed):
    people = truth("crossing", seed=seed)
    apart = middles(people, 0) - middles(people, 1)
    assert (apart > 0).any() and (apart < 0).any()


@pytest.mark.parametrize("seed", range(3))
def test_one_person_leaves_for_two_seconds_and_returns(seed):
    people = truth("returning", seed=seed, seconds=8)
    there = np.array([any(p.id == 0 for p in present) for present in people])
    assert all(any(p.id == 1 for p in present) for present in people)
    left = int(np.argmin(there))
    back = left + int(np.argmax(there[left:]))
    assert there[0] and there[back] and 20 <= back - left <= 40


def test_expressions_change_every_two_seconds():
    labels = [present[0].label for present in truth("changing", seconds=8.1)]
    turns = [k for k in range(1, 81) if labels[k] != labels[k - 1]]
    assert turns == [20, 40, 60, 80]
    assert set(labels) <= set(range(len(EXPRESSIONS)))


def test_a_change_of_expression_is_visible():
    (actor,) = clips._CASTS["changing"](np.random.default_rng(0), 640, 480)
    before, during, after = (actor.face(time) for time in (1.9, 2.05, 2.2))
    assert before != after and actor.face(0.0) == actor.face(1.99) == before and actor.face(3.9) == after
    assert during not in (before, after)
    assert actor.label(1.9) != actor.label(2.0) == actor.label(3.9)


def test_only_the_flicker_clip_flickers():
    for kind, low, high in (("flicker", 0.05, 0.3), ("moving", 0.0, 0.02)):
        light = [frame[:20].mean() for frame, _ in render_clip(kind, seed=0, frames=30, size=SMALL)]
        assert low <= np.std(light) / np.mean(light) <= high


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "movnig"}, "Did you mean 'moving'"),
        ({"seed": -1}, "seed -1"),
        ({"frames": 0}, "0 frames"),
        ({"size": (100, 160)}, "100x160"),
        ({"fps": 0}, "0 fps"),
    ],
)
def test_an_invalid_argument_is_named_before_rendering(change, message):
    arguments = {"kind": "moving", "seed": 0, "frames": 1, "size": SMALL} | change
    with pytest.raises(InputError, match=message):
        render_clip(arguments.pop("kind"), **arguments)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_an_invalid_duration_is_refused(tmp_path, seconds):
    with pytest.raises(InputError, match=f"seconds must be greater than 0, got {seconds}"):
        clips.write_clip("moving", tmp_path / "film.mp4", seconds=seconds)
    assert not list(tmp_path.iterdir())


def test_content_does_not_depend_on_the_frame_rate():
    assert truth("moving", seconds=1, fps=5) == truth("moving", seconds=1, fps=10)[::2]


def test_the_file_contains_the_rendered_frames(tmp_path):
    path = tmp_path / "film.mp4"
    assert clips.write_clip("moving", path, seed=3, seconds=0.3) == 9
    film = cv2.VideoCapture(str(path))
    frames = [film.read()[1] for _ in range(9)]
    assert not film.read()[0] and film.get(cv2.CAP_PROP_FPS) == 30
    rendered = [image for image, _ in render_clip("moving", seed=3, frames=9)]
    assert all(np.abs(a.astype(int) - b).mean() < 8 for a, b in zip(frames, rendered, strict=True))
    with pytest.raises(InputError, match=r"\.mp4 file in an existing folder"):
        clips.write_clip("moving", tmp_path / "nowhere" / "film.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]

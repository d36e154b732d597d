"""The sums of a film over time, and their picture."""

import itertools

import numpy as np
import pytest

from ferjax.runtime.analysis import chart
from ferjax.runtime.analysis.timeline import OTHERS, Timeline
from tests.support.live_parts import NAMES, face, frame, result

RAW = (0.7, 0.2, 0.1)


def collect(frames, *, fps=10.0, **options):
    """Returns the timeline of frames, each a time and a label per track."""
    timeline = Timeline(NAMES, fps, **options)
    for index, (time, labels) in enumerate(frames):
        faces = [face(track, label=label, raw=RAW) for track, label in labels.items()]
        timeline.add(result(*faces, of=frame(index, time=time)))
    timeline.close()
    return timeline


def seconds(timeline):
    return {person.track: person.seconds for person in timeline.summary().people}


def test_a_label_lasts_until_the_next_frame():
    timeline = collect([(0.0, {1: "happy"}), (0.5, {1: "sad", 2: "uncertain"}), (0.6, {1: "sad"})])
    assert seconds(timeline) == {
        1: pytest.approx({"angry": 0, "happy": 0.5, "sad": 0.2, "uncertain": 0}),
        2: pytest.approx({"angry": 0, "happy": 0, "sad": 0, "uncertain": 0.1}),
    }
    assert timeline.summary().duration == pytest.approx(0.7) and timeline.summary().frames == 3


def test_a_cut_adds_one_frame():
    timeline = collect([(0.0, {1: "happy"}), (100.0, {2: "sad"})])
    assert [person.visible for person in timeline.summary().people] == pytest.approx([0.1, 0.1])


def test_slow_films_have_long_frames():
    timeline = collect([(0.0, {1: "happy"}), (4.0, {1: "happy"})], fps=0.25)
    assert seconds(timeline)[1]["happy"] == pytest.approx(8)


@pytest.mark.parametrize("minutes, fps", [(0.05, 30), (3, 30), (3, 23.976), (120, 1)])
def test_a_long_film_needs_no_more_bins_and_keeps_its_sums(minutes, fps):
    count = round(minutes * 60 * fps)
    labels = itertools.cycle(["happy"] * 7 + ["sad"] * 3)
    timeline = collect(((i / fps, {1: next(labels)}) for i in range(count)), fps=fps)
    (lane,) = timeline.lanes.values()
    assert len(lane.bins) <= 600 and 1 <= len(lane.thumbnails) <= 24
    assert timeline.width * 600 >= count / fps
    spent = seconds(timeline)[1]
    assert spent["happy"] == pytest.approx(0.7 * count / fps, abs=7 / fps)
    assert spent["happy"] + spent["sad"] == pytest.approx(count / fps)
    full = [lane.bins[i].sum() for i in range(int(count / fps / timeline.width))]
    np.testing.assert_allclose(full, timeline.width, rtol=1e-6)  # no bin is filled twice, none is left out


def test_people_beyond_the_limit_are_summed_up():
    shown = [(i / 10, {1: "sad", 2 + i // 5: "happy"}) for i in range(100)]  # twenty people for half a second
    timeline = collect(shown, most=5)
    *people, others = timeline.summary().people
    assert len(people) == 5 and people[0].track == 1 and others.track == OTHERS
    assert people[0].seconds["sad"] == pytest.approx(10)
    assert sum(person.seconds["happy"] for person in (*people, others)) == pytest.approx(10)
    assert others.first == pytest.approx(0) and len(collect(shown).summary().people) == 21


def columns(picture, top):
    """Returns the pixels of a lane, (rows, columns, 3)."""
    return np.asarray(picture)[top : top + 60, 111:1176]


def test_the_picture_has_the_shares_of_the_labels():
    from ferjax.runtime.show.drawing import colors

    labels = ["happy"] * 100 + ["sad", "angry", "angry", "angry"] * 25 + [None] * 100 + ["uncertain"] * 100
    timeline = collect(((i / 100, {1: label} if label else {}) for i, label in enumerate(labels)), fps=100.0)
    picture = chart.draw_timeline(timeline)
    lane = columns(picture, 48).astype(int)
    palette = {name: np.array(color[::-1]) for name, color in colors(NAMES).items()}

    def share(name, start, end):
        return (lane[1:-1, round(start * 1066) : round(end * 1066)] == palette[name]).all(2).mean()

    assert share("happy", 0.01, 0.24) == 1
    assert share("sad", 0.26, 0.49) == pytest.approx(0.25, abs=0.05)
    assert share("angry", 0.26, 0.49) == pytest.approx(0.75, abs=0.05)
    quarter = lane[1:-1, round(0.51 * 1066) : round(0.74 * 1066)]
    assert len(np.unique(quarter.reshape(-1, 3), axis=0)) == 1  # empty
    hatched = lane[1:-1, round(0.76 * 1066) : round(0.99 * 1066)]
    assert len(np.unique(hatched.reshape(-1, 3), axis=0)) == 2


def test_every_person_has_a_lane_with_faces():
    timeline = collect([(i / 10, {1: "happy", 2: "sad"}) for i in range(100)])
    one = chart.draw_timeline(collect([(i / 10, {1: "happy"}) for i in range(100)]))
    two = chart.draw_timeline(timeline)
    assert one.width == two.width and two.height > one.height + 100
    below = np.asarray(one)[48 + 66 : 48 + 100, 112:148]
    assert (below == 90).all()  # the gray of the frame


@pytest.mark.parametrize("time, text", [(0, "0:00"), (59.7, "1:00"), (61, "1:01"), (3725, "1:02:05")])
def test_a_time_is_readable(time, text):
    assert chart.clock(time) == text

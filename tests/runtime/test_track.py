import numpy as np
import pytest

from ferjax.runtime.faces import Face
from ferjax.runtime.track import Tracker, distinct, overlap

FPS = 30


def face(x, y, side=100.0, score=0.9, landmarks=None):
    return Face((x - side / 2, y - side / 2, side, side), score, landmarks)


def middle(track):
    x, y, w, h = track.box
    return x + w / 2, y + h / 2


def test_overlap_is_intersection_over_union():
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert overlap((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(50 / 150)
    assert overlap((0, 0, 10, 10), (10, 0, 10, 10)) == 0


def test_of_overlapping_faces_the_surest_is_kept():
    sure, doubtful, apart = face(100, 100, score=0.9), face(110, 105, score=0.6), face(300, 100, score=0.5)
    assert distinct([doubtful, apart, sure]) == [sure, apart]


def test_a_person_keeps_the_id_and_is_followed_through_a_gap():
    tracker, rng = Tracker(), np.random.default_rng(0)
    for frame in range(60):
        hidden = 30 <= frame < 42
        x, y = 50 + 5 * frame, 200 + 2 * frame
        seen = [] if hidden else [face(x + rng.normal(0, 2), y + rng.normal(0, 2))]
        tracks = tracker.update(seen, frame / FPS, certain=True)
        (track,) = tracks
        assert track.id == 1 and track.seen is not hidden and track.since == 0
        if frame > 10:
            assert np.hypot(*(np.array(middle(track)) - (x, y))) < 12
    assert track.last_seen == 59 / FPS


def test_boxes_are_steadier_than_what_the_detector_says():
    tracker, rng = Tracker(), np.random.default_rng(1)
    raw, sides = [], []
    for frame in range(90):
        side = 100 + rng.normal(0, 5)
        (track,) = tracker.update([face(200, 200, side)], frame / FPS, certain=True)
        raw.append(side), sides.append(track.box[2])
    assert np.std(sides[10:]) < 0.6 * np.std(raw[10:])


def test_hidden_people_keep_their_size():
    tracker = Tracker()
    for frame in range(30):
        tracker.update([face(200, 200, 100 - frame)], frame / FPS, certain=True)
    (track,) = tracker.update([], 59 / FPS)
    assert track.box[2] > 68 and not track.seen


def test_people_who_cross_do_not_swap_ids():
    for seed in range(10):
        tracker, rng = Tracker(), np.random.default_rng(seed)
        for frame in range(120):
            a, b = 100 + 4 * frame, 580 - 4 * frame
            hidden = abs(a - b) < 70  # the near one covers the far one
            there = [(a, 200, 110.0, False), (b, 185, 85.0, hidden)]
            seen = [
                face(x + rng.normal(0, 3), y + rng.normal(0, 3), side * rng.normal(1, 0.04))
                for x, y, side, gone in there
                if not gone and rng.random() > 0.2
            ]
            tracks = {t.id: middle(t)[0] for t in tracker.update(seen, frame / FPS, certain=frame < 5)}
            if frame == 20:
                near, far = sorted(tracks, key=tracks.get)
        assert tracks[near] > tracks[far] and len(tracks) == 2, seed


def test_who_returns_after_the_time_to_live_is_new():
    for away, same in ((1.2, True), (1.8, False)):
        tracker = Tracker(time_to_live=1.5)
        tracker_ids = [tracker.update([face(200, 200)], k / FPS, certain=True)[0].id for k in range(5)]
        assert tracker_ids == [1] * 5
        back = tracker.update([face(205, 200)], 4 / FPS + away, certain=True)
        assert [t.id for t in back] == ([1] if same else [2])


def test_nobody_stays_longer_than_the_time_to_live():
    tracker = Tracker(time_to_live=0.5)
    for k in range(5):
        tracker.update([face(200, 200)], k / FPS, certain=True)
    assert tracker.update([], 4 / FPS + 0.4) and not tracker.update([], 4 / FPS + 0.6)


def test_a_new_face_is_shown_when_found_often_enough_and_once_surely():
    tracker = Tracker(confirm=3, sure=0.7)
    doubtful = [tracker.update([face(200, 200, score=0.6)], k / FPS) for k in range(6)]
    assert doubtful == [[]] * 6
    assert [t.id for t in tracker.update([face(200, 200, score=0.8)], 6 / FPS)] == [1]
    assert len(tracker.predict(6 / FPS)) == 1


def test_a_chance_find_is_forgotten_soon():
    tracker = Tracker()
    assert len(tracker.update([face(200, 200)], 0.0, certain=True)) == 1
    assert tracker.update([], 0.3) == []


def test_landmarks_move_with_the_box():
    points = np.array([[80, 90], [120, 90], [100, 110], [85, 130], [115, 130]], float)
    tracker = Tracker()
    for k in range(10):
        tracker.update([face(100 + 6 * k, 110, landmarks=points + np.array([6 * k, 0]))], k / FPS, certain=True)
    (track,) = tracker.update([], 12 / FPS)
    np.testing.assert_allclose(track.landmarks, points + np.array([72, 0]), atol=2)


def test_a_face_too_far_or_too_large_is_somebody_else():
    for other in (face(400, 200), face(200, 200, side=260)):
        tracker = Tracker()
        tracker.update([face(200, 200)], 0.0, certain=True)
        assert {t.id for t in tracker.update([other], 1 / FPS, certain=True)} == {1, 2}


def test_ids_are_not_given_twice_after_a_reset():
    tracker = Tracker()
    tracker.update([face(200, 200)], 0.0, certain=True)
    tracker.reset()
    assert tracker.predict(0.1) == []
    assert [t.id for t in tracker.update([face(200, 200)], 0.1, certain=True)] == [2]

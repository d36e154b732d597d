import numpy as np
import pytest

from ferjax.runtime.faces.detector import Face
from ferjax.runtime.faces.tracking import Tracker, iou, non_max_suppression

FPS = 30


def face(x, y, side=100.0, score=0.9, landmarks=None):
    return Face((x - side / 2, y - side / 2, side, side), score, landmarks)


def middle(track):
    x, y, w, h = track.box
    return x + w / 2, y + h / 2


def test_overlap_is_intersection_over_union():
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert iou((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(50 / 150)
    assert iou((0, 0, 10, 10), (0, 6, 10, 10)) == pytest.approx(40 / 160)
    assert iou((30, 7, 10, 20), (34, 2, 10, 10)) == iou((34, 2, 10, 10), (30, 7, 10, 20)) == 30 / 270
    for apart in ((10, 0, 10, 10), (25, 0, 10, 10), (0, 25, 10, 10), (25, 25, 10, 10)):
        assert iou((0, 0, 10, 10), apart) == 0


def test_of_overlapping_faces_the_highest_score_is_kept():
    sure, doubtful, apart = face(100, 100, score=0.9), face(110, 105, score=0.6), face(300, 100, score=0.5)
    assert non_max_suppression([doubtful, apart, sure]) == [sure, apart]


def test_a_person_keeps_the_id_and_is_followed_through_a_gap():
    tracker, rng = Tracker(), np.random.default_rng(0)
    for frame in range(60):
        hidden = 30 <= frame < 42
        x, y = 50 + 5 * frame, 200 + 2 * frame
        seen = [] if hidden else [face(x + rng.normal(0, 2), y + rng.normal(0, 2))]
        tracks = tracker.update(seen, frame / FPS, confirmed=True)
        (track,) = tracks
        assert track.id == 1 and track.seen is not hidden and track.since == 0
        if frame > 10:
            assert np.hypot(*(np.array(middle(track)) - (x, y))) < 12
    assert track.last_seen == 59 / FPS


def test_tracked_boxes_are_steadier_than_detections():
    tracker, rng = Tracker(), np.random.default_rng(1)
    raw, sides = [], []
    for frame in range(90):
        side = 100 + rng.normal(0, 5)
        (track,) = tracker.update([face(200, 200, side)], frame / FPS, confirmed=True)
        raw.append(side), sides.append(track.box[2])
    assert np.std(sides[10:]) < 0.6 * np.std(raw[10:])


def test_six_detections_give_the_least_squares_line():
    """Brookner's gains: position and velocity are those of the least-squares line through the detections so far."""
    tracker, rng = Tracker(), np.random.default_rng(2)
    places = np.column_stack([100 + 4 * np.arange(7), 200 - 3 * np.arange(7)]) + rng.normal(0, 3, (7, 2))
    for k, (x, y) in enumerate(places):
        (track,) = tracker.update([face(x, y)], k / FPS, confirmed=True)
        (ahead,) = tracker.predict((k + 2) / FPS)
        lines = np.polyfit(np.arange(k + 1), places[: k + 1], min(k, 1))
        for found, at in ((track, k), (ahead, k + 2)):
            wanted = [np.polyval(line, at) for line in lines.T]
            if k < 6:
                np.testing.assert_allclose(middle(found), wanted, atol=1e-9)
    assert np.abs(np.subtract(middle(track), [np.polyval(line, 6) for line in lines.T])).max() > 0.1  # forgets


def test_the_size_is_a_geometric_mean_of_four_then_a_moving_average():
    tracker, sides = Tracker(), [100.0, 110.0, 95.0, 104.0, 120.0]
    for k, side in enumerate(sides):
        (track,) = tracker.update([face(200, 200, side)], k / FPS, confirmed=True)
        if k < 4:
            assert track.box[2] == pytest.approx(np.exp(np.mean(np.log(sides[: k + 1]))))
    mean = np.mean(np.log(sides[:4]))
    assert track.box[2] == pytest.approx(np.exp(mean + 0.25 * (np.log(120) - mean)))


def test_hidden_people_keep_their_size():
    tracker = Tracker()
    for frame in range(30):
        tracker.update([face(200, 200, 100 - frame)], frame / FPS, confirmed=True)
    (track,) = tracker.update([], 59 / FPS)
    assert track.box[2] > 68 and not track.seen


def test_people_who_cross_do_not_swap_ids():
    for seed in range(10):
        tracker, rng = Tracker(), np.random.default_rng(seed)
        for frame in range(120):
            a, b = 100 + 4 * frame, 580 - 4 * frame
            hidden = abs(a - b) < 70  # occluded by the nearer face
            there = [(a, 200, 110.0, False), (b, 185, 85.0, hidden)]
            seen = [
                face(x + rng.normal(0, 3), y + rng.normal(0, 3), side * rng.normal(1, 0.04))
                for x, y, side, gone in there
                if not gone and rng.random() > 0.2
            ]
            tracks = {t.id: middle(t)[0] for t in tracker.update(seen, frame / FPS, confirmed=frame < 5)}
            if frame == 20:
                near, far = sorted(tracks, key=tracks.get)
        assert tracks[near] > tracks[far] and len(tracks) == 2, seed


def test_a_return_after_the_time_to_live_gets_a_new_id():
    for away, same in ((1.2, True), (1.8, False)):
        tracker = Tracker(time_to_live=1.5)
        tracker_ids = [tracker.update([face(200, 200)], k / FPS, confirmed=True)[0].id for k in range(5)]
        assert tracker_ids == [1] * 5
        back = tracker.update([face(205, 200)], 4 / FPS + away, confirmed=True)
        assert [t.id for t in back] == ([1] if same else [2])


def test_tracks_are_deleted_after_the_time_to_live():
    tracker = Tracker(time_to_live=0.5)
    for k in range(5):
        tracker.update([face(200, 200)], k / FPS, confirmed=True)
    assert tracker.update([], 4 / FPS + 0.4) and not tracker.update([], 4 / FPS + 0.6)


def test_confirmation_needs_min_hits_and_the_score():
    tracker = Tracker(min_hits=3, confirm_score=0.7)
    doubtful = [tracker.update([face(200, 200, score=0.6)], k / FPS) for k in range(6)]
    assert doubtful == [[]] * 6
    assert [t.id for t in tracker.update([face(200, 200, score=0.8)], 6 / FPS)] == [1]
    assert len(tracker.predict(6 / FPS)) == 1


def test_confirmation_includes_both_thresholds():
    for min_hits in (1, 2, 3):
        tracker = Tracker(min_hits=min_hits, confirm_score=0.75)
        shown = [len(tracker.update([face(200, 200, score=0.75)], k / FPS)) for k in range(4)]
        assert shown == [int(k + 1 >= min_hits) for k in range(4)]
    assert Tracker(min_hits=1, confirm_score=0.75).update([face(200, 200, score=0.7)], 0.0) == []


def test_tentative_tracks_are_deleted_soon():
    tracker = Tracker()
    assert len(tracker.update([face(200, 200)], 0.0, confirmed=True)) == 1
    assert len(tracker.update([], 1 / 30)) == 1
    assert tracker.update([], 0.3) == []


@pytest.mark.parametrize("seconds", [0.1, 0.25, 1.0, 4.0])
def test_faces_are_tracked_at_low_frame_rates(seconds):
    tracker = Tracker()
    first = tracker.update([face(200, 200)], 0.0, confirmed=True)
    shown = [tracker.update([face(200, 200)] if k != 5 else [], k * seconds) for k in range(1, 10)]
    assert [[t.id for t in tracks] for tracks in shown] == [[first[0].id]] * 9
    late = Tracker()
    seen = [len(late.update([face(200, 200)] if k else [], k * seconds)) for k in range(5)]
    assert seen == [0, 0, 0, 1, 1]


def test_a_single_gap_is_not_a_low_frame_rate():
    tracker = Tracker()
    for k in range(10):
        (before,) = tracker.update([face(200, 200)], k / 30, confirmed=not k)
    (after,) = tracker.update([face(200, 200)], 5.0, confirmed=True)
    assert after.id != before.id


def test_landmarks_move_with_the_box():
    points = np.array([[80, 90], [120, 90], [100, 110], [85, 130], [115, 130]], float)
    tracker = Tracker()
    for k in range(10):
        tracker.update([face(100 + 6 * k, 110, landmarks=points + np.array([6 * k, 0]))], k / FPS, confirmed=True)
    (track,) = tracker.update([], 12 / FPS)
    np.testing.assert_allclose(track.landmarks, points + np.array([72, 0]), atol=2)


def test_landmarks_keep_their_place_in_a_box_of_another_size():
    tracker = Tracker()
    for k, side in enumerate((100, 100, 130)):
        seen = face(200, 150, side, landmarks=np.array([[180.0, 140.0], [230.0, 170.0]]))
        (track,) = tracker.update([seen], k / FPS, confirmed=True)
    assert 100 < track.box[2] < 125
    for points, box in ((seen.landmarks, seen.box), (track.landmarks, track.box)):
        np.testing.assert_allclose((points - np.array(box[:2])) / box[2], (seen.landmarks - [135, 85]) / 130)


def test_a_distant_or_much_larger_face_gets_a_new_id():
    for other in (face(400, 200), face(200, 200, side=260)):
        tracker = Tracker()
        tracker.update([face(200, 200)], 0.0, confirmed=True)
        assert {t.id for t in tracker.update([other], 1 / FPS, confirmed=True)} == {1, 2}


def test_the_search_radius_grows_with_the_unseen_time():
    """0.6 face widths, plus one per second."""
    for gap, shift, same in ((1 / FPS, 0.6, True), (1 / FPS, 0.7, False), (0.5, 1.05, True), (0.5, 1.15, False)):
        tracker = Tracker()
        for k in range(4):
            tracker.update([face(200, 200)], 10 + k / FPS, confirmed=True)
        last = 10 + 3 / FPS
        found = tracker.update([face(200, 200 + 100 * shift)], last + gap, confirmed=True)
        assert len(found) == (1 if same else 2), (gap, shift)


def test_ids_are_not_given_twice_after_a_reset():
    tracker = Tracker()
    tracker.update([face(200, 200)], 0.0, confirmed=True)
    tracker.reset()
    assert tracker.predict(0.1) == []
    assert [t.id for t in tracker.update([face(200, 200)], 0.1, confirmed=True)] == [2]

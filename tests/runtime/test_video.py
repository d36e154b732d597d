import dataclasses

import cv2
import numpy as np
import pytest

from ferjax.data.synthetic.clips import render_clip
from ferjax.data.synthetic.rendering import render_scene
from ferjax.errors import InputError
from ferjax.runtime.faces.detector import Face, create_detector
from ferjax.runtime.faces.tracking import iou
from ferjax.runtime.faces.video import VideoTracker
from ferjax.runtime.smoothing import Smoother

FPS = 30
TEN = [("moving", 0), ("moving", 1), ("crossing", 2), ("crossing", 3), ("crossing", 13), ("returning", 5)]
TEN += [("returning", 6), ("four", 7), ("four", 8), ("none", 9)]


def dropping(share, seed=0):
    """The Haar detector with a random share of its detections removed."""
    rng, haar = np.random.default_rng(seed), create_detector("haar")

    def some(find):
        return lambda *arguments: [face for face in find(*arguments) if rng.random() >= share]

    return dataclasses.replace(haar, find=some(haar.find), find_candidates=some(haar.find_candidates))


def follow(clip, tracker):
    """Yields (time, tracks, [(track, person)]); overlapping faces are skipped."""
    for index, (frame, people) in enumerate(clip):
        tracks, pairs = tracker.track(frame, index / FPS), []
        for track in tracks:
            best = sorted(((iou(track.box, p.box), p.id) for p in people), reverse=True)
            if track.seen and best and best[0][0] > 0.3 and (len(best) == 1 or best[1][0] < 0.2):
                pairs.append((track, best[0][1]))
        yield index / FPS, tracks, pairs


def check_identities(kind, seed, frames):
    """Tracks a clip and checks that every id belongs to one person. Returns person -> ids."""
    owners, ids, smoother, last = {}, {}, Smoother(), {}
    clip = render_clip(kind, seed=seed, frames=frames)
    for time, tracks, pairs in follow(clip, VideoTracker(dropping(0.2, seed))):
        for track, person in pairs:
            assert owners.setdefault(track.id, person) == person
            if ids.setdefault(person, [track.id])[-1] != track.id:
                assert time - last[person] > 1.5  # a new id only after an absence
                ids[person].append(track.id)
            last[person] = time
            np.testing.assert_allclose(smoother.smooth(track.id, np.eye(4)[person], time), np.eye(4)[person])
        smoother.keep([track.id for track in tracks])
    return ids


@pytest.mark.parametrize(
    "kind, seed, frames, people",
    [("moving", 0, 45, {0: 1}), ("crossing", 13, 80, {0: 1, 1: 1}), ("none", 9, 20, {})],
)
def test_ids_are_stable_with_a_fifth_of_the_detections_missing(kind, seed, frames, people):
    assert {who: len(ids) for who, ids in check_identities(kind, seed, frames).items()} == people


@pytest.mark.slow
@pytest.mark.parametrize("kind, seed", TEN)
def test_ten_clips_show_no_identity_switch(kind, seed):
    ids = check_identities(kind, seed, 240)
    expected = {"moving": 1, "crossing": 2, "returning": 2, "four": 4, "none": 0}[kind]
    assert len(ids) == expected
    assert [len(of) for _, of in sorted(ids.items())] == ([2, 1] if kind == "returning" else [1] * expected)


def test_the_first_frame_is_searched_in_full():
    picture, boxes, _ = render_scene(seed=8, faces=3)
    tracks = VideoTracker(create_detector("haar")).track(np.ascontiguousarray(picture[..., ::-1]), 0.0)
    assert len(tracks) == 3 and all(track.seen and track.since == 0 for track in tracks)
    assert all(max(iou(track.box, tuple(box)) for box in boxes.tolist()) > 0.5 for track in tracks)


@pytest.mark.parametrize("fps", [15, 30])
def test_a_new_face_is_found_within_half_a_second(fps):
    picture, _, _ = render_scene(seed=8, faces=3)
    frame, empty = np.ascontiguousarray(picture[..., ::-1]), np.full_like(picture, 90)
    for late in range(0, 8, 3):  # phase of the search
        tracker = VideoTracker(create_detector("haar"))
        for k in range(1 + late):
            assert tracker.track(empty, k / fps) == []
        found = [len(tracker.track(frame, (k + 1 + late) / fps)) for k in range(int(0.5 * fps))]
        assert found[-1] == 3


@pytest.mark.parametrize("late", [0, 4])
def test_a_new_dark_face_in_a_dim_room_is_found_within_half_a_second(late):
    tracker, empty = VideoTracker(create_detector("haar")), np.full((480, 640, 3), 40, np.uint8)
    for k in range(1 + late):
        assert tracker.track(empty, k / FPS) == []
    clip = render_clip("moving", seed=7, frames=FPS // 2)
    found = [tracker.track(frame, (k + 1 + late) / FPS) for k, (frame, _) in enumerate(clip)]
    assert len(found[-1]) == 1


def searched(size, frames=25):
    """Returns the pixels searched per frame after the first, with four faces."""
    picture, _, _ = render_scene(seed=5, faces=4)
    frame = cv2.resize(np.ascontiguousarray(picture[..., ::-1]), size[::-1])
    haar, pixels = create_detector("haar"), []

    def counting(find):
        def count(part, *sizes):
            pixels.append(part.shape[0] * part.shape[1])
            return find(part, *sizes)

        return count

    detector = dataclasses.replace(haar, find=counting(haar.find), find_candidates=counting(haar.find_candidates))
    tracker = VideoTracker(detector)
    assert len(tracker.track(frame, 0.0)) == 4
    pixels.clear()
    for k in range(1, frames):
        assert len(tracker.track(frame, k / FPS)) == 4
    return sum(pixels) / (frames - 1)


def test_the_cost_does_not_grow_with_the_cameras_resolution():
    small, large = searched((480, 640)), searched((1440, 1920))
    assert small < 60_000 and large < 1.1 * small  # a whole frame has 307,200 pixels


def test_a_new_frame_size_resets_the_tracks():
    picture, _, _ = render_scene(seed=8, faces=3)
    frame = np.ascontiguousarray(picture[..., ::-1])
    tracker = VideoTracker(create_detector("haar"))
    first = tracker.track(frame, 0.0)
    half = tracker.track(cv2.resize(frame, (480, 360)), 1 / FPS)
    assert [t.id for t in first] == [1, 2, 3] and [t.id for t in half] == [4, 5, 6]
    assert all(t.box[2] < 0.9 * first[0].box[2] for t in half)


def test_a_cropped_face_is_one_track_from_the_first_frame():
    tracker = VideoTracker(create_detector("none"))
    for k in range(5):
        (track,) = tracker.track(np.full((48, 60, 3), k, np.uint8), k / FPS)
        assert track.id == 1 and track.seen and track.box == pytest.approx((6, 0, 48, 48))


def test_low_scores_do_not_confirm_a_track():
    def doubt(picture, least, most):
        return [Face((20.0, 20.0, 40.0, 40.0), 0.3)]

    haar = create_detector("haar")
    tracker = VideoTracker(dataclasses.replace(haar, find=lambda *arguments: [], find_candidates=doubt))
    assert [tracker.track(np.zeros((480, 640, 3), np.uint8), k / FPS) for k in range(20)] == [[]] * 20


def test_an_empty_frame_is_an_error():
    with pytest.raises(InputError, match="a frame must be a non-empty uint8"):
        VideoTracker(create_detector("haar")).track(np.zeros((0, 0, 3), np.uint8), 0.0)

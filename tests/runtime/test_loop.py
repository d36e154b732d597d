import math

import cv2
import numpy as np
import pytest

from ferjax.data.synthetic.clips import render_clip
from ferjax.errors import InputError
from ferjax.runtime import load, stream
from ferjax.runtime.ahead import ahead
from ferjax.runtime.sources.frame import Frame
from tests.support import small_files
from tests.support.live_parts import SPEC, frame, patch_detector, patches

PLACES = {0: (20, 20), 50: (120, 30), 100: (220, 20), 150: (60, 150)}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return small_files.onnx_file(tmp_path_factory.mktemp("model") / "linear.onnx", SPEC)


@pytest.fixture(scope="module")
def model(model_file):
    return load(model_file)


def moving(count, *, fps=30.0, speed=2, places=PLACES):
    for i in range(count):
        there_and_back = abs(speed * i % 80 - 40)
        yield patches(i, {tone: (x + there_and_back, y) for tone, (x, y) in places.items()}, fps=fps)


def classified(results):
    """Returns track -> times of its classifications."""
    times = {}
    for result in results:
        for face in result.faces:
            if face.raw_probabilities is not None:
                times.setdefault(face.track, []).append(result.time)
    return times


@pytest.mark.parametrize("fps", [12.0, 25.0, 30.0, 60.0])
def test_every_face_is_classified_ten_times_a_second(model, fps):
    results = list(stream(moving(int(2 * fps), fps=fps), model, detector=patch_detector()))
    times = classified(results)
    assert sorted(times) == [1, 2, 3, 4] and len(results) == int(2 * fps)
    for track, at in times.items():
        assert max(np.diff(at)) <= 0.1 + 1e-6, track
        assert len(at) <= 2 * fps * 0.6 or fps < 20  # and not in every frame where frames come faster


@pytest.fixture
def ordered():
    """With threads of its own, OpenCV gives equally certain faces in any order."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


@pytest.mark.parametrize("kind", ["four", "crossing"])
def test_stages_in_threads_give_the_results_of_one_thread(model, kind, ordered):
    frames = [Frame(image, i / 30, i, 0) for i, (image, _) in enumerate(render_clip(kind, seed=1, frames=40))]
    one, threads = (
        [result.faces for result in stream(frames, model, detector="haar", pipe=pipe)] for pipe in (iter, ahead)
    )
    assert one == threads and any(one)


def test_the_work_is_spread_over_the_frames(model):
    results = list(stream(moving(60), model, detector=patch_detector()))
    at_once = [sum(f.raw_probabilities is not None for f in r.faces) for r in results[6:]]
    assert max(at_once) <= 2 and 1.2 < np.mean(at_once) < 1.6


def test_uneven_frame_times_keep_the_rate(model):
    times = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.06, 80))
    frames = [patches(i, PLACES, time=float(t)) for i, t in enumerate(times)]
    for at in classified(stream(frames, model, detector=patch_detector())).values():
        assert max(np.diff(at)) <= 0.13 and np.mean(np.diff(at)) < 0.1


@pytest.mark.parametrize("jump", [1.6, 7200.0])
def test_tracks_and_smoothing_start_anew_after_a_cut(model, jump):
    steps = [*range(15), *(jump * 30 + i for i in range(15, 40))]
    frames = [patches(i, {50: (20 + i, 20)}, time=step / 30) for i, step in enumerate(steps)]
    results = list(stream(frames, model, detector=patch_detector(), smoothing="mean", smooth=300))
    assert [face.track for face in results[14].faces] == [1] and {f.track for r in results[15:] for f in r.faces} == {2}
    first = next(face for result in results[15:] for face in result.faces)
    assert first.probabilities == pytest.approx(first.raw_probabilities)


def test_a_face_keeps_its_probabilities_between_classifications(model):
    before = None
    for result in stream(moving(10, places={0: (20, 20)}), model, detector=patch_detector()):
        (face,) = result.faces
        if face.raw_probabilities is None:
            assert face.probabilities == before.probabilities and face.label == before.label
        before = face


def test_a_result_describes_its_frame(model):
    results = list(stream(moving(5), model, detector=patch_detector()))
    assert [r.frame.index for r in results] == list(range(5)) and results[3].time == 0.1
    for result in results:
        assert len({f.track for f in result.faces}) == 4
        for face in result.faces:
            assert list(face.probabilities) == list(SPEC.class_names)
            assert sum(face.probabilities.values()) == pytest.approx(1, abs=1e-5)
            x, y, w, h = face.box
            center = result.frame.image[y + h // 2, x + w // 2]
            assert center[0] == 255  # the box lies on its face
        assert result.latency.capture == 1.0 and result.latency.detect > 0 and result.latency.draw == 0


def test_smoothing_is_per_track_and_window_1_disables_it(model):
    for result in stream(moving(30), model, detector=patch_detector(), smooth=1):
        for face in result.faces:
            if face.raw_probabilities is not None:
                np.testing.assert_allclose(
                    list(face.probabilities.values()), list(face.raw_probabilities.values()), atol=1e-6
                )
    raw = {}
    for result in stream(moving(30), model, detector=patch_detector(), smooth=10):
        for face in result.faces:
            if face.raw_probabilities is not None:
                raw.setdefault(face.track, []).append(list(face.raw_probabilities.values()))
                own = np.array(raw[face.track][-7:])
                smoothed = np.array(list(face.probabilities.values()))
                assert (own.min(0) - 1e-6 <= smoothed).all() and (smoothed <= own.max(0) + 1e-6).all()
    means = np.array([np.mean(values, axis=0) for values in raw.values()])
    assert np.abs(means - means[0]).max() > 0.02  # the faces differ


def test_below_the_threshold_a_face_is_uncertain(model):
    def labels(**options):
        results = stream(moving(3, places={0: (20, 20)}), model, detector=patch_detector(), **options)
        return {face.label for result in results for face in result.faces}

    assert labels(threshold=1.0) == {"uncertain"}
    assert labels(threshold=0.0) <= set(SPEC.class_names)


def test_a_lost_face_is_shown_briefly_and_not_classified(model):
    there, gone = {0: (100, 100)}, {}
    frames = [patches(i, there if i < 10 else gone) for i in range(30)]
    results = list(stream(frames, model, detector=patch_detector()))
    shown = [bool(r.faces) for r in results]
    assert all(shown[:12]) and not any(shown[18:])
    assert all(face.raw_probabilities is None for r in results[10:] for face in r.faces)


def test_the_frame_size_may_change(model):
    sizes = [(240, 320)] * 5 + [(300, 500)] * 5 + [(120, 160)] * 5
    frames = [patches(i, {0: (30, 30)}, size=size) for i, size in enumerate(sizes)]
    results = list(stream(frames, model, detector=patch_detector()))
    assert [len(r.faces) for r in results] == [1] * 15


def test_an_empty_frame_is_refused_in_one_line(model):
    with pytest.raises(InputError, match="uint8"):
        next(iter(stream([Frame(np.empty((0, 0, 3), np.uint8), 0.0, 0, 0)], model, detector=patch_detector())))


@pytest.mark.parametrize("color", ["gray", "rgb"])
def test_live_and_evaluation_agree_on_the_same_pixels(tmp_path, color):
    spec = SPEC
    if color == "rgb":
        spec = spec.replace(color_order=color, mean=(0.5, 0.4, 0.3), std=(12.0, 11.0, 13.0))
    path = small_files.onnx_file(tmp_path / "m.onnx", spec)
    pixels = small_files.images(spec, 12)
    folder = tmp_path / "faces"
    folder.mkdir()
    for i, image in enumerate(pixels):
        cv2.imwrite(str(folder / f"{i}.png"), image[..., ::-1] if color == "rgb" else image)
    results = list(stream(str(folder), path, detector="none"))
    live = np.array([[list(f.raw_probabilities.values()) for f in r.faces] for r in results])
    assert live.shape == (12, 1, 3)
    np.testing.assert_allclose(live[:, 0], load(path).probabilities(pixels), atol=1e-5)
    powers = np.exp(small_files.expected_logits(spec, pixels))
    np.testing.assert_allclose(live[:, 0], powers / powers.sum(1, keepdims=True), atol=1e-5)
    assert np.ptp(live[:, 0], axis=0).max() > 0.05  # the images differ
    smoothed = np.array([list(r.faces[0].probabilities.values()) for r in results])
    np.testing.assert_allclose(smoothed, live[:, 0], atol=1e-6)  # images are not smoothed over each other
    assert len({r.faces[0].track for r in results}) == 12


def test_a_source_opened_here_is_closed(tmp_path, model_file):
    cv2.imwrite(str(tmp_path / "a.png"), frame().image)
    results = stream(tmp_path / "a.png", model_file, detector="none")
    assert len(list(results)) == 1 and list(results) == []


@pytest.mark.parametrize(
    "options, said",
    [
        ({"threshold": 1.5}, r"threshold must be within 0\.\.1"),
        ({"threshold": math.nan}, "threshold"),
        ({"rate": 0}, "greater than 0, got 0"),
        ({"rate": math.nan}, "rate"),
        ({"rate": math.inf}, "rate"),
        ({"detector": "har"}, "Did you mean 'haar'"),
        ({"smooth": 0}, "at least 1"),
        ({"detect_scale": -1.0}, "scale"),
    ],
)
def test_a_wrong_option_is_refused_before_the_first_frame(model, options, said):
    with pytest.raises(InputError, match=said):
        stream([], model, **options)

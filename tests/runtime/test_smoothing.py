import itertools

import cv2
import numpy as np
import pytest

from ferjax.data.synthetic.rendering import render_faces
from ferjax.errors import InputError
from ferjax.runtime.smoothing import METHODS, Decision, Labeler, Limits, Smoother, quality

NAMES = ("angry", "happy", "sad")
ANGRY, HAPPY, SAD = np.eye(3)


def steady(method="adaptive", window=10, hysteresis=0.15, limits=None):
    """Returns a function (track, probabilities, time) -> decision."""
    smoother = Smoother(method, window)
    labeler = Labeler(NAMES, limits=limits or Limits(confidence=0.0), hysteresis=hysteresis)
    return lambda track, p, time: labeler.label(track, smoother.smooth(track, p, time))


def changes(labels):
    return sum(a != b for a, b in itertools.pairwise(labels))


def undecided(seed, rate, seconds=60):
    """Yields predictions that fluctuate between two classes, with noise correlated over 0.1 s."""
    rng, noise = np.random.default_rng(seed), 0.0
    keep = np.exp(-1 / (0.1 * rate))
    for k in range(int(seconds * rate)):
        noise = keep * noise + np.sqrt(1 - keep**2) * rng.normal()
        angry = 0.45 + 0.12 * noise
        yield k / rate, np.array([angry, 0.9 - angry, 0.1])


def test_the_mean_is_of_the_last_ten_at_thirty_frames_a_second():
    smoother, rng = Smoother("mean"), np.random.default_rng(0)
    given = rng.dirichlet(np.ones(3), 25)
    for k, p in enumerate(given):
        got = smoother.smooth(1, p, k / 30)
        np.testing.assert_allclose(got, given[max(0, k - 9) : k + 1].mean(axis=0))  # Paraschiv, eq. 26
        assert got.sum() == pytest.approx(1)


def test_the_window_is_a_duration():
    smoother = Smoother("mean")
    for k in range(20):
        got = smoother.smooth(1, np.array([k, 0.0, 0.0]), k / 10)
    assert got[0] == pytest.approx((16 + 17 + 18 + 19) / 4)  # those of the last third of a second


@pytest.mark.parametrize("method", ["adaptive", "mean", "exponential"])
def test_a_window_of_one_smooths_nothing(method):
    smoother = Smoother(method, window=1)
    for k, p in enumerate((ANGRY, HAPPY, SAD)):
        np.testing.assert_array_equal(smoother.smooth(1, p, k / 90), p)


@pytest.mark.parametrize("rate", [10, 30, 60])
def test_the_exponential_mean_forgets_by_time(rate):
    smoother = Smoother("exponential")
    smoother.smooth(1, ANGRY, 0.0)
    for k in range(1, rate + 1):
        got = smoother.smooth(1, HAPPY, k / rate)
        assert got[0] == pytest.approx(np.exp(-2 * (k / rate) / (10 / 30))) and got.sum() == pytest.approx(1)


def test_without_a_change_the_adaptive_mean_covers_nearly_twice_the_window():
    smoother, rng = Smoother(), np.random.default_rng(0)
    given = 0.8 * ANGRY + 0.2 * rng.dirichlet(np.ones(3), 40)
    for k, p in enumerate(given):
        np.testing.assert_allclose(smoother.smooth(1, p, k / 30), given[max(0, k - 18) : k + 1].mean(axis=0))


def test_after_a_change_the_adaptive_mean_restarts():
    smoother, old, new = Smoother(), np.array([0.8, 0.15, 0.05]), np.array([0.1, 0.7, 0.2])
    for k in range(10):
        np.testing.assert_allclose(smoother.smooth(1, old, k / 10), old)
    mixed = smoother.smooth(1, new, 1.0)  # one prediction is not enough: log 4 < log 12
    np.testing.assert_allclose(mixed, (6 * old + new) / 7)
    for k in (11, 12):
        np.testing.assert_allclose(smoother.smooth(1, new, k / 10), new)  # two are a change: 2 log 4 > log 12


def test_single_outliers_are_no_change():
    smoother = Smoother()
    for k in range(60):
        smoothed = smoother.smooth(1, HAPPY if k % 3 == 1 else ANGRY, k / 10)
    assert smoothed[0] > 0.5


def test_predictions_within_a_tenth_of_a_second_count_as_one():
    """Ten frames within 0.1 s repeat the same error."""
    smoother = Smoother()
    for k in range(10):
        smoother.smooth(1, ANGRY, k / 10)
    for k in range(10):
        smoothed = smoother.smooth(1, HAPPY, 1 + k / 100)
    assert 0.3 < smoothed[0] < 1


@pytest.mark.parametrize("method", METHODS)
def test_two_people_do_not_mix(method):
    """One buffer for all faces, as in the paper, gives both tracks (1/2, 1/2, 0)."""
    smoother = Smoother(method)
    for k in range(15):
        np.testing.assert_allclose(smoother.smooth(1, ANGRY, k / 30), ANGRY)
        np.testing.assert_allclose(smoother.smooth(2, HAPPY, k / 30), HAPPY)


@pytest.mark.parametrize("method", METHODS)
def test_new_and_deleted_tracks_start_empty(method):
    smoother = Smoother(method)
    for k in range(5):
        smoother.smooth(1, ANGRY, k / 30)
    np.testing.assert_array_equal(smoother.smooth(2, SAD, 5 / 30), SAD)
    smoother.keep([2])
    np.testing.assert_array_equal(smoother.smooth(1, HAPPY, 6 / 30), HAPPY)


@pytest.mark.parametrize("options, message", [(("median",), "unknown smoothing"), (("mean", 0), "at least 1")])
def test_invalid_options_are_errors(options, message):
    with pytest.raises(InputError, match=message):
        Smoother(*options)


@pytest.mark.parametrize("method, rate", [*itertools.product(("adaptive", "mean"), (10, 15, 30)), ("exponential", 30)])
def test_labels_change_five_times_less_often(method, rate):
    for seed in range(5):
        show = steady(method)
        answers = list(undecided(seed, rate))
        raw = changes([int(p.argmax()) for _, p in answers])
        shown = changes([show(1, p, time).label for time, p in answers])
        assert raw >= 20 and shown <= raw / 5, (seed, raw, shown)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rate", [10, 15, 30])
def test_a_true_change_shows_within_two_fifths_of_a_second(method, rate):
    for shift in np.linspace(0, 1 / rate, 5):  # time of the change between two predictions
        show, first = steady(method), None
        for k in range(3 * rate):
            time = k / rate
            happy = 0.7 if time >= 1 + shift else 0.15
            p = np.array([0.85 - happy, happy, 0.15])
            if show(1, p, time).label == "happy" and time > 1:
                first = first or time
        assert 0 <= first - (1 + shift) <= 0.4


def test_hysteresis_reduces_label_changes():
    shown = {}
    for margin in (0.0, 0.15):
        show = steady(hysteresis=margin)
        shown[margin] = changes([show(1, p, time).label for time, p in undecided(0, 30)])
    assert shown[0.15] < shown[0.0] / 1.5


def test_hysteresis_is_per_track():
    labeler = Labeler(NAMES, limits=Limits(confidence=0))
    assert labeler.label(1, np.array([0.5, 0.45, 0.05])).label == "angry"
    close = np.array([0.45, 0.5, 0.05])
    assert labeler.label(1, close).label == "angry" and labeler.label(2, close).label == "happy"
    labeler.keep([2])
    assert labeler.label(1, close).label == "happy"


def test_two_similarly_probable_classes_are_uncertain():
    labeler = Labeler(NAMES, limits=Limits(confidence=0.4))
    assert labeler.label(1, np.array([0.6, 0.3, 0.1])).label == "angry"
    assert labeler.label(1, np.array([0.42, 0.48, 0.1])) == Decision("angry", 0.42)
    assert labeler.label(1, np.array([0.36, 0.5, 0.14])) == Decision("uncertain", 0.36, "confidence")
    assert labeler.label(1, np.array([0.33, 0.5, 0.17])) == Decision("happy", 0.5)


def test_low_confidence_is_uncertain():
    labeler = Labeler(NAMES, limits=Limits(confidence=0.5))
    assert labeler.label(1, np.array([0.4, 0.35, 0.25])) == Decision("uncertain", 0.4, "confidence")
    assert labeler.label(1, np.array([0.6, 0.2, 0.2])) == Decision("angry", 0.6, "")


def face_crop():
    gray = np.full((48, 48, 1), 120, np.uint8)
    gray[10:38, 12:36] = np.random.default_rng(0).integers(60, 200, (28, 24, 1))
    return gray


@pytest.mark.parametrize(
    "spoil, size, reason",
    [
        (lambda c: c, 90, ""),
        (lambda c: c, 15, "size"),
        (lambda c: c // 8, 90, "dark"),
        (lambda c: np.full_like(c, 120), 90, "dark"),  # no contrast
        (lambda c: 255 - c // 16, 90, "bright"),
    ],
)
def test_a_poor_crop_is_uncertain_whatever_the_confidence(spoil, size, reason):
    labeler = Labeler(NAMES, limits=Limits())
    got = labeler.label(1, ANGRY, quality(spoil(face_crop()), size))
    assert got == Decision("uncertain" if reason else "angry", 1.0, reason)


def test_blur_is_detected_at_any_contrast():
    sharp = render_faces([3], seed=5)[0]
    blurred = cv2.GaussianBlur(sharp, (0, 0), 2)[..., None]
    faint = (sharp // 2 + 60).astype(np.uint8)
    assert Limits().failure(quality(sharp, 90)) == Limits().failure(quality(faint, 90)) == ""
    assert Limits().failure(quality(blurred, 90)) == "blur"
    assert quality(faint, 90).sharpness == pytest.approx(quality(sharp, 90).sharpness, rel=0.15)


def test_quality_of_color_is_that_of_gray():
    gray = face_crop()
    assert quality(np.repeat(gray, 3, axis=2), 50) == quality(gray, 50)

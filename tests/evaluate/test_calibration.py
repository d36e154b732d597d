"""Compares calibration with scikit-learn, closed forms and slow definitions."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import optimize
from sklearn import metrics as reference

from ferjax.errors import InputError
from ferjax.evaluate import calibration


def scores(n=400, classes=5, seed=0, sharpness=2.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return sharpness * (rng.normal(size=(n, classes)) + 1.2 * np.eye(classes)[labels]), labels


def test_calibration_error_by_hand():
    # Two bins of four: confidences .6 .6 (one right), .9 .9 (both right): (2 * .1 + 2 * .1) / 4
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.9, 0.1]])
    bins = calibration.reliability(probabilities, [0, 1, 0, 0], bins=4)
    np.testing.assert_allclose(bins.edges, [[0.5, 0.75], [0.75, 1.0]])
    np.testing.assert_allclose([bins.confidence, bins.accuracy, bins.counts], [[0.6, 0.9], [0.5, 1.0], [2, 2]])
    assert bins.error() == pytest.approx(0.1)


def test_probabilities_are_compared_with_votes_by_hand():
    probabilities, votes = np.array([[0.75, 0.25], [0.5, 0.5]]), np.array([[0.5, 0.5], [1.0, 0.0]])
    found = calibration.vote_scores(probabilities, votes)
    # KL: (0.5 ln(0.5 / 0.75) + 0.5 ln(0.5 / 0.25)) and ln 2; the chosen classes have 0.5 and 1 of the votes
    assert found["kl"] == pytest.approx((0.5 * np.log(4 / 3) + np.log(2)) / 2)
    assert found["ece"] == pytest.approx((0.25 + 0.5) / 2)
    assert calibration.vote_scores(votes, votes) == {"kl": 0, "ece": 0}
    with pytest.raises(InputError, match="votes"):
        calibration.vote_scores(probabilities, np.eye(3)[:2])


def test_adaptive_bins_hold_equally_many():
    logits, labels = scores()
    bins = calibration.reliability(calibration.softmax(logits), labels, bins=8, adaptive=True)
    assert (bins.counts == 50).all() and (np.diff(bins.edges[:, 0]) >= 0).all()


def test_correct_one_hot_predictions_have_no_error():
    eye = np.eye(3)[[0, 1, 2, 0]]
    assert calibration.reliability(eye, [0, 1, 2, 0]).error() == 0 and calibration.brier(eye, [0, 1, 2, 0]) == 0
    assert calibration.brier(eye, [1, 2, 0, 1]) == 2


def test_brier_and_likelihood_are_scikit_learns():
    logits, labels = scores(classes=2)
    probabilities = calibration.softmax(logits)
    assert calibration.brier(probabilities, labels) == pytest.approx(
        2 * reference.brier_score_loss(labels, probabilities[:, 1])
    )
    assert calibration.negative_log_likelihood(probabilities, labels) == pytest.approx(
        reference.log_loss(labels, probabilities)
    )


def test_the_temperature_minimises_the_likelihood():
    logits, labels = scores(sharpness=4.0)

    def loss(t):
        return calibration.negative_log_likelihood(calibration.softmax(logits, t), labels)

    expected = optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9}).x
    assert calibration.fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-4)
    assert calibration.fit_temperature(logits * 2, labels) == pytest.approx(2 * expected, rel=1e-4)


def test_the_temperature_of_perfect_and_hopeless_scores_stays_in_range():
    perfect = 5.0 * np.eye(3)[[0, 1, 2]]
    assert calibration.fit_temperature(perfect, [0, 1, 2]) == pytest.approx(0.05)
    assert calibration.fit_temperature(perfect, [1, 2, 0]) == pytest.approx(20)


@hypothesis.given(st.floats(0.05, 20), st.integers(0, 1000))
def test_no_temperature_changes_the_answer(temperature, seed):
    logits, _ = scores(n=20, seed=seed)
    assert (calibration.softmax(logits, temperature).argmax(1) == logits.argmax(1)).all()


def test_coverage_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.8, 0.2], [0.6, 0.4]])
    curve = calibration.coverage(probabilities, [0, 0, 1, 0])
    np.testing.assert_allclose(curve.threshold, [0.9, 0.8, 0.6])
    np.testing.assert_allclose(curve.coverage, [0.25, 0.75, 1.0])
    np.testing.assert_allclose(curve.accuracy, [1.0, 2 / 3, 0.75])
    assert curve.abstention(0.7) == pytest.approx((0.6, 1.0, 0.75))
    assert curve.abstention(0.9) == pytest.approx((0.9, 0.25, 1.0))
    assert calibration.coverage(probabilities, [1, 1, 1, 1]).abstention(0.5) is None


def test_auroc_is_scikit_learns_with_ties():
    rng = np.random.default_rng(0)
    positives, negatives = rng.integers(2, 9, 80), rng.integers(0, 7, 60)
    expected = reference.roc_auc_score([1] * 80 + [0] * 60, [*positives, *negatives])
    assert calibration.auroc(positives, negatives) == pytest.approx(expected)
    with pytest.raises(InputError, match="0 and 1"):
        calibration.auroc([], [1])


def test_invalid_input_is_rejected():
    with pytest.raises(InputError, match=r"\(0, 3\)"):
        calibration.brier(np.zeros((0, 3)), np.zeros(0, int))
    with pytest.raises(InputError, match=r"0\.\.1"):
        calibration.brier(np.full((2, 2), 0.5), [0, 2])
    with pytest.raises(InputError, match="bins"):
        calibration.reliability(np.full((2, 2), 0.5), [0, 1], bins=0)

"""Compares intervals with slow resampling, scikit-learn and scipy."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from ferjax.errors import InputError
from ferjax.evaluate import intervals, metrics


def answers(n=300, classes=4, right=0.6, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return labels, *(np.where(rng.random(n) < p, labels, rng.integers(0, classes, n)) for p in (right, right + 0.1))


def test_values_are_the_metrics():
    labels, first, _ = answers()
    counts = metrics.confusion(labels, first, 5)  # class 4 never occurs
    found = intervals.bootstrap(counts)
    assert found["accuracy"].value == metrics.accuracy(counts)
    assert found["macro_f1"].value == pytest.approx(metrics.macro_f1(counts))
    assert found["weighted_f1"].value == pytest.approx(reference.f1_score(labels, first, average="weighted"))


def test_drawing_tables_is_resampling_examples():
    labels, first, _ = answers()
    rng = np.random.default_rng(1)
    slow = []
    for _ in range(2000):
        chosen = rng.integers(0, len(labels), len(labels))
        slow.append(metrics.macro_f1(metrics.confusion(labels[chosen], first[chosen], 4)))
    found = intervals.bootstrap(metrics.confusion(labels, first, 4), resamples=2000)["macro_f1"]
    np.testing.assert_allclose([found.low, found.high], np.quantile(slow, [0.025, 0.975]), atol=0.008)


def test_a_paired_difference_is_second_minus_first():
    labels, first, second = answers()
    found = intervals.paired_bootstrap(labels, first, second, 4)
    for name, f in {"accuracy": metrics.accuracy, "macro_f1": metrics.macro_f1}.items():
        gain = f(metrics.confusion(labels, second, 4)) - f(metrics.confusion(labels, first, 4))
        assert found[name].value == pytest.approx(gain) and found[name].low < gain < found[name].high
    same = intervals.paired_bootstrap(labels, first, first, 4)["accuracy"]
    assert same == (0.0, 0.0, 0.0)


def test_mcnemar_is_the_exact_binomial_test():
    labels, first, second = answers()
    found = intervals.mcnemar(labels, first, second)
    assert found.first_only == ((first == labels) & (second != labels)).sum()
    expected = stats.binomtest(found.first_only, found.first_only + found.second_only).pvalue
    assert found.p_value == pytest.approx(expected)
    assert intervals.mcnemar(labels, first, first) == (0, 0, 1.0)


@pytest.mark.parametrize(("right", "count"), [(0, 10), (10, 10), (637, 1000)])
def test_wilson(right, count):
    found = intervals.wilson(right, count)
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")
    np.testing.assert_allclose(found, (right / count, *expected), atol=1e-6)


def test_invalid_input_is_rejected():
    with pytest.raises(InputError, match="examples"):
        intervals.bootstrap(np.zeros((3, 3), int))
    with pytest.raises(InputError, match="level"):
        intervals.bootstrap(np.eye(3, dtype=int), level=95)
    with pytest.raises(InputError, match=r"must both be \(N,\)"):
        intervals.paired_bootstrap([0, 1], [0, 1], [0], 2)


def test_an_interval_contains_its_share_despite_rounding():
    for count in range(1, 400):
        for right in (0, 1, count):
            low, high = (getattr(intervals.wilson(right, count), end) for end in ("low", "high"))
            assert low <= right / count <= high
        assert intervals.wilson(count, count).high == 1 and intervals.wilson(0, count).low == 0

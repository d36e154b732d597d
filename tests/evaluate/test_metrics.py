import json

import numpy as np
import pytest
import sklearn.metrics

from ferjax.errors import InputError
from ferjax.evaluate import metrics

CLASSES = 7


def random_pair(seed, n=200, classes=CLASSES):
    rng = np.random.default_rng(seed)
    return rng.integers(0, classes, n), rng.integers(0, classes, n)


def never_predicted():
    labels, predictions = random_pair(1)
    return labels, np.where(predictions == 3, 0, predictions)


def absent_but_predicted():
    labels, predictions = random_pair(2)
    return np.where(labels == 1, 0, labels), predictions


def absent_from_both():
    return tuple(np.where(a >= 5, 0, a) for a in random_pair(3))


CASES = {
    "random": random_pair(0),
    "one class never predicted": never_predicted(),
    "one class absent but predicted": absent_but_predicted(),
    "two classes absent from both": absent_from_both(),
    "all right": (random_pair(4)[0],) * 2,
    "all wrong": (np.zeros(9, int), np.ones(9, int)),
    "one class only": (np.full(5, 2), np.full(5, 2)),
    "one example": (np.array([6]), np.array([0])),
}


@pytest.mark.parametrize("labels, predictions", CASES.values(), ids=CASES.keys())
def test_every_figure_equals_scikit_learn(labels, predictions):
    counts = metrics.confusion(labels, predictions, CLASSES)
    kwargs = {"labels": range(CLASSES), "zero_division": 0}
    np.testing.assert_array_equal(counts, sklearn.metrics.confusion_matrix(labels, predictions, labels=range(CLASSES)))
    assert metrics.accuracy(counts) == pytest.approx(sklearn.metrics.accuracy_score(labels, predictions))
    for function, average in ((metrics.macro_f1, "macro"), (metrics.weighted_f1, "weighted")):
        expected = sklearn.metrics.f1_score(labels, predictions, average=average, **kwargs)
        assert function(counts) == pytest.approx(expected)
    expected = sklearn.metrics.precision_recall_fscore_support(labels, predictions, **kwargs)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose(metrics.per_class(counts)[name], values, err_msg=name)


def test_golden_numbers():
    # true 0: 3 right, 1 taken for 1; true 1: 2 right, 2 taken for 0; class 2 is neither seen nor predicted.
    # precision 3/5, 2/3; recall 3/4, 2/4; F1 = 2 hits / (true + predicted) = 6/9, 4/7, and 0/0 = 0.
    counts = np.array([[3, 1, 0], [2, 2, 0], [0, 0, 0]])
    scores = metrics.per_class(counts)
    np.testing.assert_allclose(scores["precision"], [3 / 5, 2 / 3, 0])
    np.testing.assert_allclose(scores["recall"], [3 / 4, 2 / 4, 0])
    np.testing.assert_allclose(scores["f1"], [6 / 9, 4 / 7, 0])
    assert metrics.accuracy(counts) == pytest.approx(5 / 8)
    assert metrics.macro_f1(counts) == pytest.approx((6 / 9 + 4 / 7 + 0) / 3)
    assert metrics.weighted_f1(counts) == pytest.approx((4 * 6 / 9 + 4 * 4 / 7) / 8)


def test_confusion_counts_small_unsigned_labels_without_overflow():
    # 15 * 16 + 15 = 255 fits uint8, 16 * 17 does not: the product must be taken in a wide type.
    labels = np.array([16, 16, 0], np.uint8)
    counts = metrics.confusion(labels, np.array([16, 1, 16], np.uint8), 17)
    assert (counts[16, 16], counts[16, 1], counts[0, 16], counts.sum()) == (1, 1, 1, 3)


def test_summary_is_json_and_complete():
    counts = metrics.confusion(*random_pair(5, classes=3), 3)
    result = metrics.summary(counts, ("angry", "happy", "sad"))
    assert json.loads(json.dumps(result)) == result
    assert list(result) == ["accuracy", "macro_f1", "weighted_f1", "per_class", "confusion", "n"]
    assert result["n"] == 200 and result["confusion"] == counts.tolist()
    assert result["per_class"]["sad"]["support"] == counts[2].sum()
    assert result["per_class"]["happy"]["recall"] == pytest.approx(counts[1, 1] / counts[1].sum())
    assert result["macro_f1"] == pytest.approx(np.mean([s["f1"] for s in result["per_class"].values()]))


def test_report_lists_each_class_and_the_totals():
    counts = np.array([[3, 1], [2, 2]])
    text = metrics.classification_report(metrics.summary(counts, ("a very long class name", "sad")))
    header, first, second, blank, accuracy, macro, weighted = text.splitlines()
    assert header.split() == ["precision", "recall", "f1", "support"]
    assert first.split()[-4:] == ["0.600", "0.750", "0.667", "4"] and first.startswith("a very long class name ")
    assert second.split() == ["sad", "0.667", "0.500", "0.571", "4"]
    assert blank == ""
    assert accuracy.split() == ["accuracy", "0.625", "8"]
    assert macro.split() == ["macro-F1", "0.619", "8"] and weighted.split() == ["weighted-F1", "0.619", "8"]
    assert len({len(line) for line in (header, first, second, accuracy, macro, weighted)}) == 1


@pytest.mark.parametrize(
    "labels, predictions, message",
    [
        ([0, 1], [0], r"must both be \(N,\), got \(2,\) and \(1,\)"),
        ([0, 3], [0, 0], r"labels must be integers in 0..2, got int64 from 0 to 3"),
        ([0, 1], [0, -1], r"predictions must be integers in 0..2, got int64 from -1 to 0"),
        ([0, 1], [0.2, 0.8], r"predictions must be integers in 0..2, got float64"),
    ],
)
def test_values_out_of_range_are_rejected(labels, predictions, message):
    with pytest.raises(InputError, match=message):
        metrics.confusion(labels, predictions, 3)


@pytest.mark.parametrize("function", [metrics.accuracy, metrics.macro_f1, metrics.weighted_f1, metrics.per_class])
def test_malformed_counts_are_rejected(function):
    with pytest.raises(InputError, match=r"all counts .* are 0"):
        function(metrics.confusion([], [], 3))
    for bad in (np.ones((2, 3), int), np.eye(2), np.array([[1, -1], [0, 1]])):
        with pytest.raises(InputError, match=r"confusion must be \(C, C\) counts"):
            function(bad)


def test_a_wrong_number_of_names_is_rejected():
    with pytest.raises(InputError, match="expected 2 class names, got 3: a, b, c"):
        metrics.summary(np.eye(2, dtype=int), ("a", "b", "c"))

import numpy as np
import pytest

from ferjax import spec as specs
from ferjax.data import subsets
from ferjax.errors import InputError
from ferjax.evaluate.calibration import softmax
from ferjax.export import formats, parity
from tests.support import small_files


@pytest.fixture
def truth():
    """The predictions of a linear network on color images, with these predictions as labels."""
    spec = small_files.RGB
    images = small_files.images(spec, 40)
    probabilities = softmax(small_files.expected_logits(spec, images)).astype(np.float32)
    labels = probabilities[:34].argmax(1)
    return parity.Reference(spec, images, labels, probabilities)


def gate(path, truth, tolerance=formats.EXACT):
    return parity.faults(parity.compare(path, truth), tolerance)


def test_the_right_file_passes(truth, tmp_path):
    path = small_files.onnx_file(tmp_path / "a.onnx", truth.spec)
    found = parity.compare(path, truth)
    assert parity.faults(found, formats.EXACT) == []
    assert found.images == 34 and found.agreement == 1 and found.accuracy == 1 and found.max_difference < 1e-5


def retold(path, **changes):
    specs.embed(path, specs.read(path).replace(**changes))
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"color_order": "bgr"},
        {"mean": (0.5, 0.4, 0.35)},
        {"std": (0.2, 0.25, 0.31)},
        {"mean": (0.3, 0.4, 0.5), "std": (0.3, 0.25, 0.2)},
        {"class_names": ("happy", "angry", "sad")},
        {"temperature": 1.5},
    ],
    ids=["swapped channels", "a wrong mean", "a wrong std", "swapped statistics", "permuted labels", "a temperature"],
)
@pytest.mark.parametrize("tolerance", [formats.EXACT, formats.HALF])
def test_a_wrong_spec_fails(change, tolerance, truth, tmp_path):
    path = retold(small_files.onnx_file(tmp_path / "a.onnx", truth.spec), **change)
    assert gate(path, truth, tolerance)


def test_labels_permuted_together_with_the_logits_are_right(truth, tmp_path):
    order = [2, 0, 1]
    probabilities = truth.probabilities[:, order]
    spec = truth.spec.replace(class_names=tuple(truth.spec.class_names[i] for i in order))
    path = small_files.onnx_file(tmp_path / "a.onnx", truth.spec)
    turned = truth._replace(spec=spec, labels=probabilities[:34].argmax(1), probabilities=probabilities)
    assert gate(path, turned) == []


def test_another_graph_is_refused(truth, tmp_path):
    path = small_files.onnx_file(tmp_path / "a.onnx", truth.spec, bias=[0.0, 0.1, 0.2])
    assert any("probabilities differ by" in fault for fault in gate(path, truth))


def test_other_classes_are_named(truth, tmp_path):
    path = retold(small_files.onnx_file(tmp_path / "a.onnx", truth.spec), class_names=("a", "b", "c"))
    with pytest.raises(InputError, match="a, b, c"):
        parity.compare(path, truth)


def answers(count, wrong, *, margin=0.5):
    """Probabilities of two classes: the network predicts 0, the file predicts 1 for the first `wrong` images."""
    wanted = np.tile([0.5 + margin / 2, 0.5 - margin / 2], (count, 1))
    found = wanted.copy()
    found[:wrong] = found[:wrong, ::-1]
    return found, wanted, np.zeros(count, int)


def test_figures_are_those_of_the_definition():
    found = parity.measure(*answers(200, 5))
    assert found.agreement == 0.975 and found.flips == 5 and found.accuracy == 0.975
    assert found.accuracy_difference == pytest.approx(-2.5)
    low, high = found.difference_interval
    assert low < -2.5 < high < 0
    assert found.max_difference == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("count", "wrong", "tolerance", "said"),
    [
        (1000, 10, formats.INTEGER, []),
        (1000, 11, formats.INTEGER, ["accuracy changes by -1.10 points"]),
        (1000, 31, formats.INTEGER, ["96.90% of predictions agree", "accuracy changes"]),
        (1000, 3, formats.HALF, ["probabilities differ", "99.70% of predictions agree"]),
        (1000, 1, formats.EXACT, ["probabilities differ", "1 of 1000 predictions changed"]),
    ],
)
def test_tolerances(count, wrong, tolerance, said):
    found = parity.faults(parity.measure(*answers(count, wrong)), tolerance)
    assert len(found) == len(said) and all(s in f for s, f in zip(said, found, strict=True))


def test_a_tie_may_fall_either_way_in_float32():
    assert parity.faults(parity.measure(*answers(1000, 1, margin=5e-5)), formats.EXACT) == []


def test_an_answer_behind_two_that_tie_is_a_flip():
    wanted = np.tile([0.45, 0.45, 0.1], (10, 1))
    found = wanted.copy()
    found[:2] = wanted[:2, ::-1] + [0.0, 0.0, 0.1]
    assert parity.measure(found, wanted, np.zeros(10, int)).flips == 2


def test_on_a_grid_of_integers_either_of_two_equal_answers_agrees():
    assert parity.measure(*answers(100, 5, margin=2e-6)).agreement == 1.0
    assert parity.measure(*answers(100, 5, margin=2e-4)).agreement == 0.95


def test_non_finite_probabilities_fail():
    found, wanted, labels = answers(10, 0)
    found[3] = np.nan
    assert parity.faults(parity.measure(found, wanted, labels), formats.INTEGER)


def test_a_choice_of_images_keeps_the_shares():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    places = subsets.stratified(labels, 500)
    assert len(set(places)) == 500 and np.abs(np.bincount(labels[places]) - [300, 150, 50]).max() <= 1
    assert len(subsets.stratified(labels, 5000)) == 1000

import itertools
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ferjax.errors import InputError
from ferjax.evaluate import report

NAMES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise", "contempt")


def history(accuracies):
    return [
        {
            "epoch": epoch,
            "train_loss": 2 / epoch,
            "train_accuracy": 0.5,
            "validation_loss": 2.1 / epoch,
            "validation_accuracy": accuracy,
            "learning_rate": 1e-3 / epoch,
        }
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]


@pytest.fixture
def drawn(monkeypatch):
    """The saved figures."""
    figures, savefig = [], Figure.savefig

    def keep(self, *args, **kwargs):
        figures.append(self)
        return savefig(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


@pytest.mark.parametrize("epochs", [1, 3])
def test_curves_are_a_readable_png_and_nothing_else(tmp_path, epochs):
    report.plot_curves(history([0.3, 0.5, 0.4][:epochs]), tmp_path / "curves.png")
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]
    with Image.open(tmp_path / "curves.png") as image:
        image.load()
        assert image.format == "PNG" and image.width > 1000


@pytest.mark.parametrize(
    "accuracies, best",
    [([0.3, 0.5, 0.4], "50.0% at epoch 2"), ([0.5, 0.5], "50.0% at epoch 1"), ([math.nan, 0.2], "20.0% at epoch 2")],
)
def test_the_first_best_epoch_is_marked(tmp_path, drawn, accuracies, best):
    report.plot_curves(history(accuracies), tmp_path / "curves.png")
    assert drawn[0].get_suptitle() == f"best validation accuracy {best}"
    loss, accuracy, rate = drawn[0].axes
    star = next(line for line in accuracy.lines if line.get_label() == "best epoch")
    top = np.nanmax(accuracies)
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (accuracies.index(top) + 1, 100 * top)
    assert [a.get_xlabel() for a in (loss, accuracy, rate)] == ["epoch"] * 3
    assert loss.get_ylabel() == "mean loss (nats)" and accuracy.get_ylabel() == "accuracy (%)"


def test_the_best_epoch_is_the_checkpoints_also_while_pruning(tmp_path, drawn):
    rows = history([0.7, 0.6, 0.66])
    for row, share in zip(rows, (0.0, 0.5, 0.5), strict=True):
        row["sparsity"] = share
    report.plot_curves(rows, tmp_path / "curves.png")
    assert drawn[0].get_suptitle() == "best validation accuracy 66.0% at epoch 3"


@pytest.mark.parametrize("classes", [2, 7, 8])
def test_confusion_shows_share_and_count_of_each_cell(tmp_path, drawn, classes):
    counts = np.arange(classes**2).reshape(classes, classes) * 100
    counts[-1] = 0
    report.plot_confusion(counts, NAMES[:classes], tmp_path / "confusion.png")
    axes = drawn[0].axes[0]
    texts = [t.get_text() for t in axes.texts]
    assert len(texts) == classes**2
    assert texts[1] == f"{counts[0, 1] / counts[0].sum():.0%}\n{counts[0, 1]:,}"
    assert texts[-1] == "–"  # a class without images
    assert axes.get_title() == f"accuracy {np.trace(counts) / counts.sum():.1%} of {counts.sum():,} images"
    assert axes.get_xlabel() == "predicted class" and axes.get_ylabel().startswith("true class")
    assert next(t.get_text() for t in axes.get_yticklabels()) == f"angry ({counts[0].sum():,})"
    assert [p.name for p in tmp_path.iterdir()] == ["confusion.png"]


@pytest.mark.parametrize("classes", [2, 8])
def test_no_text_of_the_confusion_matrix_leaves_its_cell(tmp_path, drawn, classes):
    report.plot_confusion(np.full((classes, classes), 10_000), NAMES[:classes], tmp_path / "confusion.png")
    axes = drawn[0].axes[0]
    cell = axes.get_window_extent().width / classes
    for text in axes.texts:
        extent = text.get_window_extent()
        assert extent.width < 0.95 * cell and extent.height < 0.95 * cell
    labels = [t.get_window_extent() for t in axes.get_yticklabels()]
    assert all(not a.overlaps(b) for a, b in itertools.pairwise(labels))


def test_global_matplotlib_state_is_unchanged(tmp_path):
    script = (
        "import sys, matplotlib, numpy; before = matplotlib.rcParams.copy()\n"
        "from ferjax.evaluate import report\n"
        "report.plot_confusion(numpy.eye(2, dtype=int), ('a', 'b'), sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert {**matplotlib.rcParams, 'backend': 0} == {**before, 'backend': 0}\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "confusion.png")], check=True)
    assert (tmp_path / "confusion.png").stat().st_size > 0


def test_a_failing_write_keeps_the_old_picture_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    path.write_bytes(b"the old picture")

    def full_disk(self, data):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        report.plot_curves(history([0.3]), path)
    assert path.read_bytes() == b"the old picture"
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]


def test_invalid_input_is_rejected(tmp_path):
    with pytest.raises(InputError, match="empty history"):
        report.plot_curves([], tmp_path / "curves.png")
    with pytest.raises(InputError, match="lacks train_accuracy, train_loss, validation_loss;"):
        report.plot_curves([{"epoch": 1, "validation_accuracy": 0.5, "learning_rate": 0.1}], tmp_path / "curves.png")
    with pytest.raises(InputError, match=r"\(3, 3\), got \(2, 2\)"):
        report.plot_confusion(np.eye(2, dtype=int), ("a", "b", "c"), tmp_path / "confusion.png")
    assert list(tmp_path.iterdir()) == []


def sized(name, size, accuracy):
    return {"file": name, "bytes": size, "accuracy": accuracy, "accuracy_low": 0.6, "accuracy_high": 0.7}


def test_size_against_accuracy_numbers_the_files_by_size(tmp_path, drawn):
    models = [sized("b.onnx", 1_100_000, 0.65), sized("a.tflite", 330_000, 0.64), sized("c.tflite", 330_000, 0.63)]
    report.plot_size_accuracy(models, tmp_path / "size.png")
    assert os.listdir(tmp_path) == ["size.png"]
    (axes,) = drawn[0].axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["1  a.tflite: 0.33 MB, 64.0 %", "2  c.tflite: 0.33 MB, 63.0 %", "3  b.onnx: 1.1 MB, 65.0 %"]
    places = [container.lines[0].get_xydata()[0] for container in axes.containers]
    assert [y for _, y in places] == pytest.approx([64, 63, 65])
    assert places[0][0] == 0.33 < places[1][0] < 0.4 and places[2][0] == 1.1

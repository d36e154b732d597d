"""Draws figures of runs and models as PNG files."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from ferjax.data.prepare import figures
from ferjax.errors import InputError
from ferjax.evaluate.calibration import Bins, Coverage
from ferjax.evaluate.metrics import best_row

# Okabe and Ito's blue and vermilion, distinguishable with common color-vision deficiencies.
TRAIN, VALIDATION = "#0072B2", "#D55E00"


def plot_curves(history: Sequence[Mapping[str, float]], path: str | os.PathLike[str]) -> None:
    """Draws loss, accuracy and learning rate over the epochs and marks the best epoch.

    Args:
      history: one mapping per epoch with `epoch, train_loss, train_accuracy, validation_loss,
        validation_accuracy, learning_rate`; accuracies in 0..1, losses in nats.
      path: the PNG file; its folder must exist.

    Raises:
      InputError: if the history is empty or an epoch lacks a value.
    """
    if not history:
        raise InputError("cannot plot an empty history")
    names = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate")
    if missing := sorted({name for row in history for name in names if name not in row}):
        raise InputError(f"the history lacks {', '.join(missing)}; required: {', '.join(names)}")
    series = {name: np.array([row[name] for row in history], float) for name in names}
    finite = [dict(row) for row in history if np.isfinite(row["validation_accuracy"])]
    best = list(history).index(best_row(finite)) if finite else 0
    epoch, top = series["epoch"][best], series["validation_accuracy"][best]

    figure = figures.figure(13, 4)
    figure.suptitle(f"best validation accuracy {top:.1%} at epoch {epoch:.0f}")
    loss, accuracy, rate = figure.subplots(1, 3)
    for axes, name, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        for split, color, line in (("train", TRAIN, "--"), ("validation", VALIDATION, "-")):
            axes.plot(series["epoch"], scale * series[f"{split}_{name}"], line, color=color, marker=".", label=split)
        axes.plot(
            epoch, scale * series[f"validation_{name}"][best], "*", color="black", markersize=11, label="best epoch"
        )
        axes.legend(frameon=False)
    rate.plot(series["epoch"], series["learning_rate"], color=TRAIN, marker=".")
    rate.set_ylim(bottom=0)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    _label(loss, "loss", "mean loss (nats)")
    _label(accuracy, "accuracy", "accuracy (%)")
    _label(rate, "learning rate", "learning rate")
    for axes in (loss, accuracy, rate):
        axes.axvline(epoch, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    figures.save(figure, path)


def plot_confusion(confusion: np.ndarray, class_names: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Draws a confusion matrix: the percentage within each true class, and the count.

    Args:
      confusion: (C, C) counts; row = true class, column = predicted class.
      class_names: the C names in that order.
      path: the PNG file; its folder must exist.

    Raises:
      InputError: if the numbers of classes differ.
    """
    counts, classes = np.asarray(confusion), len(class_names)
    if counts.shape != (classes, classes):
        raise InputError(f"the confusion matrix of {classes} classes must be {(classes, classes)}, got {counts.shape}")
    n = counts.sum()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    side = max(5.0, 2.2 + 0.85 * classes)
    figure = figures.figure(side + 0.9, side)
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(classes, classes):
        share, color = shares[row, column], "white" if shares[row, column] > 0.5 else "black"
        text = f"{share:.0%}\n{counts[row, column]:,}" if counts[row].any() else "–"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
    axes.set_xticks(range(classes), class_names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(classes), [f"{name} ({k:,})" for name, k in zip(class_names, counts.sum(1), strict=True)])
    axes.set(xlabel="predicted class", ylabel="true class (images)")
    axes.set_title(f"accuracy {np.trace(counts) / max(n, 1):.1%} of {n:,} images")
    figure.colorbar(image, ax=axes, shrink=0.75, label="share of the true class (%)")
    figures.save(figure, path)


def plot_f1(per_class: Mapping[str, Mapping[str, float]], path: str | os.PathLike[str]) -> None:
    """Draws the F1 of each class as a bar, the lowest on top; `per_class` is from `metrics.summary`."""
    ordered = sorted(per_class.items(), key=lambda item: -item[1]["f1"])
    figure = figures.figure(7.5, 1.2 + 0.4 * len(ordered))
    axes = figure.subplots()
    values = [scores["f1"] for _, scores in ordered]
    bars = axes.barh([f"{name} ({scores['support']:,})" for name, scores in ordered], values, color=TRAIN)
    axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=3)
    axes.set(xlim=(0, 1.08), xlabel="F1", title="F1 by class (images)")
    axes.spines[["top", "right"]].set_visible(False)
    figures.save(figure, path)


def plot_size_accuracy(models: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draws accuracy with its interval over the size of model files.

    Args:
      models: at least one mapping with `file`, its name; `bytes`; `accuracy`, `accuracy_low`, `accuracy_high` in 0..1.
      path: the PNG file; its folder must exist.
    """
    figure = figures.figure(11, 5)
    axes = figure.subplots()
    ordered = sorted(models, key=lambda m: (m["bytes"], m["file"]))
    shown = 0.0
    for number, model in enumerate(ordered, start=1):
        # Files of similar size are drawn side by side, so that their intervals do not overlap.
        shown = max(model["bytes"] / 1e6, 1.08 * shown)
        top, low, high = (100 * model[key] for key in ("accuracy", "accuracy_low", "accuracy_high"))
        color = TRAIN if str(model["file"]).endswith(".tflite") else VALIDATION
        label = f"{number}  {model['file']}: {model['bytes'] / 1e6:.3g} MB, {top:.1f} %"
        axes.errorbar(shown, top, [[top - low], [high - top]], fmt="o", color=color, capsize=3, label=label)
        axes.annotate(str(number), (shown, high), (0, 4), textcoords="offset points", ha="center", fontsize=9)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.15)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="file size (MB, logarithmic)", ylabel="accuracy (%), with 95 % interval")
    axes.set_title("accuracy against size")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figures.save(figure, path)


def plot_robustness(result: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draws the result of `robustness.measure` as a heat map by corruption and severity; the first column is clean."""
    kinds = list(result["accuracy"])
    shares = 100 * np.array([[result["clean"], *result["accuracy"][kind]] for kind in kinds])
    figure = figures.figure(7.5, 1.5 + 0.42 * len(kinds))
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for row, column in np.ndindex(*shares.shape):
        color = "black" if shares[row, column] > 60 else "white"
        axes.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", color=color, fontsize=9)
    axes.set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    axes.set_xticks(range(shares.shape[1]), ["clean", *map(str, range(1, shares.shape[1]))])
    axes.set(xlabel="severity", title=f"accuracy (%) on {result['n']:,} corrupted images, mean {result['mean']:.1%}")
    figure.colorbar(image, ax=axes, label="accuracy (%)")
    figures.save(figure, path)


def plot_reliability(diagrams: Mapping[str, Bins], curve: Coverage, path: str | os.PathLike[str]) -> None:
    """Draws reliability diagrams, the number of images in each bin, and accuracy against coverage.

    Args:
      diagrams: caption -> bins from `calibration.reliability`, at most two.
      curve: from `calibration.coverage`.
      path: the PNG file; its folder must exist.
    """
    figure = figures.figure(13, 4.2)
    axes, counts, covered = figure.subplots(1, 3)
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=":")
    for (caption, bins), color, side in zip(diagrams.items(), (VALIDATION, TRAIN), (-0.5, 0.5), strict=False):
        axes.plot(bins.confidence, bins.accuracy, "o-", color=color, label=f"{caption}: error {bins.error():.3f}")
        width = 0.45 * (bins.edges[:, 1] - bins.edges[:, 0])
        counts.bar(bins.edges.mean(1) + side * width, bins.counts, width, color=color, label=caption)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="mean confidence", ylabel="accuracy", title="reliability")
    counts.set(xlim=(0, 1), xlabel="confidence", ylabel="images", title="confidence")
    covered.plot(100 * curve.coverage, 100 * curve.accuracy, color=TRAIN)
    covered.set(xlabel="coverage (%)", ylabel="accuracy (%)", title="accuracy against coverage", xlim=(0, 100))
    axes.legend(frameon=False)
    counts.legend(frameon=False)
    for each in (axes, counts, covered):
        each.grid(alpha=0.3)
        each.spines[["top", "right"]].set_visible(False)
    figures.save(figure, path)


def _label(axes: Axes, title: str, ylabel: str) -> None:
    axes.set(title=title, xlabel="epoch", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)

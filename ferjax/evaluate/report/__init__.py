"""Draws figures as PNG files and writes the page of `ferjax report`."""

from ferjax.evaluate.report.plots import (
    plot_confusion,
    plot_curves,
    plot_f1,
    plot_reliability,
    plot_robustness,
    plot_size_accuracy,
)

__all__ = ["plot_confusion", "plot_curves", "plot_f1", "plot_reliability", "plot_robustness", "plot_size_accuracy"]

"""Figures as PNG files, and `ferjax report`: one page on a run or on several models."""

from ferjax.evaluate.report.plots import (
    plot_confusion,
    plot_curves,
    plot_f1,
    plot_reliability,
    plot_robustness,
    plot_size_accuracy,
)

__all__ = ["plot_confusion", "plot_curves", "plot_f1", "plot_reliability", "plot_robustness", "plot_size_accuracy"]

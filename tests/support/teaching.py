"""Runs a small distillation."""

from ferjax.train import experiment
from tests.support import experiments
from tests.support.experiments import SMALL


def config(**changes):
    """Returns the configuration of a small experiment, with `group__key` values replaced."""
    return experiments.config(SMALL | {"loss": {"label_smoothing": 0.1}}, **changes)


def distill(folder, workdir, made, names=("a",)):
    chosen = [folder / n for n in names]
    return experiment.distill(made, workdir=workdir, teachers=chosen, data_dir=folder / "data", progress=False)

"""Fixtures of distillation: two small teachers, and a stop before the first step."""

import pytest

from ferjax import data
from ferjax.train import experiment
from tests.support.experiments import SMALL
from tests.support.untrained_runs import write_run


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Returns a folder with the untrained runs `a` and `b`: two networks, the same data."""
    folder = tmp_path_factory.mktemp("teachers")
    faces = data.load(data_dir=folder / "data", **SMALL["data"])
    write_run(folder / "a", faces, model=SMALL["model"], dataset_args=SMALL["data"])
    other = {"name": "baseline_cnn3", "widths": [4, 8, 8]}
    write_run(folder / "b", faces, model=other, dataset_args=SMALL["data"])
    return folder


@pytest.fixture
def stopped(monkeypatch):
    """Stops runs before their first step; returns the tasks that they were to learn."""
    tasks = []

    def fit(task, *_, **__):
        tasks.append(task)
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment.loop, "fit", fit)
    return tasks

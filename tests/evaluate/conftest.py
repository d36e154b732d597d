"""A trained run, which several tests of the evaluation read."""

import shutil

import pytest

from ferjax.train import experiment
from tests.support.experiments import config


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Returns a folder with a small run and its data, 42 images of which are for validation."""
    folder = tmp_path_factory.mktemp("trained")
    settings = config(data__validation=42, fit__epochs=4)
    experiment.train(settings, workdir=folder / "run", data_dir=folder / "data", progress=False)
    return folder


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """Returns a copy of the folder, to which the tests of a module may write."""
    return shutil.copytree(trained, tmp_path_factory.mktemp("evaluated"), dirs_exist_ok=True)

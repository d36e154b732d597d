"""Every configuration resolves, its keys fit the functions they are for, and so does its demo."""

import importlib.util
import inspect
import json
import pathlib

import jax
import numpy as np
import pytest

from configs import common
from ferjax import augment, experiment, fitting, models, optim, paths, starting
from ferjax.cli import InputError

FILES = sorted(p for p in pathlib.Path(common.__file__).parent.rglob("*.py") if p.name != "common.py")
FUNCTIONS = {
    "init": starting.start,
    "augment": augment.create,
    "loss": experiment.make_loss,
    "optim": optim.create,
    "fit": fitting.fit,
}


def resolve(path, arg=None):
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module.get_config(arg), module.__doc__


def test_there_are_configurations():
    assert {"resnet18", "resnet20"} <= {p.stem for p in FILES}


@pytest.mark.parametrize("arg", [None, "demo"])
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_configuration_fits_its_functions(path, arg):
    config, doc = resolve(path, arg)
    groups = json.loads(json.dumps(config.to_dict()))
    assert set(groups) == set(experiment.GROUPS)
    for group, function in FUNCTIONS.items():
        assert set(groups[group]) <= set(inspect.signature(function).parameters), group
    assert f"--config configs/{path.name}" in doc and ":demo" in doc
    augment.create(**groups["augment"])
    optim.create(**groups["optim"], steps_per_epoch=10, epochs=groups["fit"]["epochs"])
    shape = models.default_input_shape(groups["model"]["name"])
    module = models.create(**groups["model"], num_classes=7)
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), np.zeros((1, *shape), np.float32), train=False))
    # The rules that choose what decays find something in this network.
    paths.path_mask(groups["optim"]["decay_only"], variables["params"])
    assert (groups["data"]["name"] == "synthetic_faces") == (arg == "demo")


def test_an_unknown_argument_is_named():
    with pytest.raises(InputError, match="Did you mean 'demo'"):
        resolve(FILES[-1], "dmo")

"""Every configuration resolves and fits the functions it is for; each experiment changes what its paper changed."""

import functools
import importlib.util
import inspect
import json
import pathlib

import jax
import numpy as np
import pytest

from configs import common
from ferjax import augment, models, trees
from ferjax.errors import InputError
from ferjax.train import config as train_config
from ferjax.train import objective, optim
from ferjax.train.stages import trained

ROOT = pathlib.Path(common.__file__).parent
FILES = sorted(p for p in ROOT.rglob("*.py") if p.name != "common.py")
PAPERS = ("paraschiv", "microexpnet", "qin", "tormalm", "valverde")


def load(path):
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


def resolve(path, arg=None):
    return json.loads(json.dumps(load(path).get_config(arg).to_dict()))


def flat(config):
    return train_config.flat(config)


@functools.cache
def parameters(model, shape):
    """The shapes of a network's parameters; most configurations have a network in common."""
    module = models.create(**json.loads(model), num_classes=7)
    image = np.zeros((1, *shape), np.float32)
    return jax.eval_shape(lambda: module.init(jax.random.key(0), image, train=False))["params"]


def arms():
    """Every configuration, and every experiment of a paper."""
    for path in FILES:
        for arg in (None, *(name for name in getattr(load(path), "PAPER", {}) if name)):
            marks = pytest.mark.slow if arg and path.stem == "microexpnet" else ()  # each traces a large network
            yield pytest.param(path, arg, id=f"{path.relative_to(ROOT)}:{arg or ''}", marks=marks)


def test_there_are_configurations_for_every_network_and_every_paper():
    trained_here = {resolve(p)["model"]["name"] for p in FILES}
    assert trained_here >= set(models.list_models()) - {"resnet18_imagenet", "resnet50_caffe", "deit_tiny"}
    assert {p.stem for p in FILES} >= set(PAPERS)
    best = {p.stem for p in FILES if p.parent.name == "best"}
    assert best == {"resnet18", "resnet20", "microexpnet", "mini_xception", "deit_attention_free"}


@pytest.mark.parametrize("demo", [False, True], ids=["", "demo"])
@pytest.mark.parametrize(("path", "arg"), list(arms()))
def test_a_configuration_fits_its_functions(path, arg, demo):
    groups = resolve(path, ",".join(filter(None, [arg, "demo" if demo else ""])))
    assert set(groups) == set(train_config.GROUPS)
    for group in set(groups) - {"data", "model"}:
        assert set(groups[group]) <= set(inspect.signature(train_config.FUNCTIONS[group]).parameters), group
    doc = load(path).__doc__
    assert f"--config {path.relative_to(ROOT).with_suffix('')}" in doc and "demo" in doc
    augment.create(**groups["augment"])
    optimizer = optim.create(**groups["optim"], steps_per_epoch=10, epochs=groups["fit"]["epochs"])
    size, channels = groups["data"].get("size", 48), groups["data"].get("channels", 1)
    params = parameters(json.dumps(groups["model"], sort_keys=True), (size, size, channels))
    # Rules that choose what decays or what is trained find something in this network.
    trees.path_mask(groups["optim"]["decay_only"], params)
    for stage in optimizer.stages:
        trained(stage, params, {})
    assert (groups["data"]["name"] == "synthetic_faces") == demo
    assert not (demo and groups["init"]["pretrained"]) and groups["fit"]["epochs"] <= (8 if demo else 400)
    objective.taps(groups["loss"]["features"])


def test_a_default_stands_once_in_its_function():
    base, defaults = flat(common.base().to_dict()), flat(train_config.defaults())
    json.dumps(defaults)
    assert {key for key in base | defaults if key not in defaults or base[key] != defaults[key]} == {
        *("data.name", "model.name", "model.dtype", "teacher.workdirs", "augment.flip", "optim.name"),
        *("optim.learning_rate", "fit.epochs", "fit.batch_size"),
    }
    with pytest.raises(TypeError):
        common.base().loss.alpha = "half"


def test_an_unknown_argument_is_named():
    with pytest.raises(InputError, match="Did you mean 'demo'"):
        resolve(FILES[-1], "dmo")
    with pytest.raises(InputError, match="Did you mean 'exp09'"):
        resolve(ROOT / "paraschiv.py", "exp9")


# (child, parent, the keys that the paper changed); what a paper leaves open is said in the configuration.
HEAD = {"model.head_hidden", "model.head_dropout"}
STEPS = {
    "paraschiv": [
        ("exp02", "exp01", {"model.name", "init.pretrained", "data.channels"}),
        ("exp03", "exp02", {"optim.learning_rate"}),
        ("exp04", "exp03", {"optim.stages", "fit.epochs", "fit.patience", *HEAD}),
        ("exp05", "exp04", {"model.name", "init.pretrained"}),
        ("exp06", "exp04", {"model.name", "data.channels"}),
        ("exp07", "exp06", {"loss.class_weighted"}),
        ("exp08", "exp07", {"loss.label_smoothing"}),
        ("exp08_02", "exp08", {"loss.label_smoothing"}),
        ("exp09", "exp08", {"augment.erase"}),
        ("exp10", "exp09", {"augment.erase"}),
        ("exp11", "exp09", {"optim.schedule"}),
        ("exp12_03", "exp09", {"model.head_dropout"}),
        ("exp12_05", "exp09", set()),
        ("exp12_06", "exp09", {"model.head_dropout"}),
        ("exp12_07", "exp09", {"model.head_dropout"}),
        ("exp13_none", "exp09", HEAD),
        ("exp13_128", "exp09", {"model.head_hidden"}),
        ("exp13_256", "exp09", set()),
        ("exp13_512", "exp09", {"model.head_hidden"}),
        ("exp13_256_128", "exp09", HEAD),
        ("exp14_32", "exp09", {"fit.batch_size"}),
        ("exp14_64", "exp09", set()),
        ("exp14_128", "exp09", {"fit.batch_size"}),
        ("exp14_256", "exp09", {"fit.batch_size"}),
    ],
    "microexpnet": [
        ("se", "baseline", {"model.attention"}),
        ("kd", "se", {"loss.alpha", "teacher.resize"}),
        ("full", "kd", {"augment.mixup", "model.head_act", *HEAD}),
    ],
    "tormalm": [
        ("224", "full", set()),
        ("noaug", "full", {"augment.flip", "augment.rotate", "augment.crop", "augment.brightness"}),
        ("48", "full", {"data.size"}),
    ],
    "qin": [
        ("resnet18", "baseline", {"model.name"}),
        ("resnet18_pretrained", "resnet18", {"init.pretrained", "optim.learning_rate"}),
        ("deit_pretrained", "resnet18_pretrained", {"model.name", "init.pretrained", "data.size"}),
        ("resemotenet", "baseline", {"model.name"}),
        ("small_resnet", "baseline", {"model.name", "loss.alpha"}),
        ("small_deit", "small_resnet", {"model.name", "data.size"}),
    ],
}


@pytest.mark.parametrize(
    ("paper", "child", "parent", "changed"), [(paper, *step) for paper, steps in STEPS.items() for step in steps]
)
def test_an_experiment_differs_from_its_parent_in_what_the_paper_changed(paper, child, parent, changed):
    own, other = (flat(resolve(ROOT / f"{paper}.py", name)) for name in (child, parent))
    assert {k for k in own.keys() | other.keys() if own.get(k) != other.get(k)} == changed


def test_every_experiment_of_the_papers_is_there():
    """All of `PAPER` but the first of each chain has a parent above."""
    for paper, first in {"paraschiv": {"exp01"}, "microexpnet": {"baseline", "teacher"}, "tormalm": {"full"}}.items():
        assert set(load(ROOT / f"{paper}.py").PAPER) - first == {child for child, *_ in STEPS[paper]}


PARASCHIV = {
    "init.preprocessing": "data",
    "optim.name": "adam",
    "optim.learning_rate": 2e-4,
    "optim.final_learning_rate": 1e-6,
    "optim.schedule": "cosine",
    "optim.weight_decay": 1e-4,
    "optim.clip_norm": 1.0,
    "optim.stages": [[5, ["^head/"]], [None, [".*"]]],
    "loss.class_weighted": True,
    "loss.label_smoothing": 0.1,
    "augment.flip": 0.5,
    "augment.rotate": 10.0,
    "augment.translate": 0.1,
    "augment.erase": 0.3,
    "augment.erase_area": [0.02, 0.15],
    "fit.epochs": 50,
    "fit.patience": 10,
    "fit.batch_size": 64,
    "fit.seed": 42,
    "model.head_hidden": [256],
    "model.head_dropout": [0.5, 0.25],
}
MICROEXPNET = {
    "optim.name": "adam",
    "optim.learning_rate": 1e-3,
    "optim.final_learning_rate": 1e-5,
    "optim.schedule": "cosine",
    "fit.epochs": 80,
    "fit.patience": 15,
    "fit.batch_size": 64,
    "augment.flip": 0.5,
    "augment.rotate": 15.0,
    "augment.brightness": 0.2,
    "augment.contrast": 0.2,
    "augment.erase": 0.15,
    "augment.erase_area": [0.02, 0.2],
    "augment.mixup": 0.2,
    "loss.alpha": 0.7,
    "loss.temperature": 4.0,
}
TORMALM = {
    "init.preprocessing": "data",
    "optim.name": "adam",
    "optim.learning_rate": 1e-3,
    "optim.weight_decay": 1e-4,
    "fit.epochs": 10,
    "fit.batch_size": 32,
    "data.size": 224,
    "data.channels": 3,
}


@pytest.mark.parametrize(
    ("name", "arg", "table"),
    [
        ("paraschiv", "exp09", PARASCHIV),
        ("microexpnet", "full", MICROEXPNET),
        ("tormalm", "full", TORMALM),
        ("valverde", None, {"fit.epochs": 250, "model.name": "mini_xception"}),
    ],
)
def test_a_papers_table_of_settings_is_met(name, arg, table):
    own = flat(resolve(ROOT / f"{name}.py", arg))
    assert {k: own.get(k) for k in table} == table


def test_the_papers_architecture_is_the_networks_own():
    """MicroExpNet's "full" arm, written as changes to MobileNetV3-Small, is the network of that name."""
    count = {}
    for arg in ("full", None):
        groups = resolve(ROOT / "microexpnet.py", arg)
        module = models.create(**groups["model"])
        image = np.zeros((1, 48, 48, 1), np.float32)
        shapes = jax.eval_shape(lambda m=module, x=image: m.init(jax.random.key(0), x, train=False))["params"]
        count[arg] = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert count["full"] == count[None]

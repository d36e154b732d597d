"""Weights as training programs leave them: in containers, under prefixes, with classifiers of their own."""

import functools
import pickle

import jax
import numpy as np
import pytest
from flax import traverse_util

from ferjax.errors import InputError
from ferjax.weights.pretrained import load_pretrained
from ferjax.weights.torch_names import FORMATS, tensor_name
from tests.support.blank_networks import network

NAME = "resnet18_imagenet"


@functools.cache
def resnet():
    """Returns zeros in the shapes of a small ResNet's variables."""
    return network(NAME, (32, 32, 3), depths=(1, 1), widths=(4, 8), stem_width=4)[1]


def tensors(architecture=NAME, empty=None):
    """Returns drawn tensors by their torch names, in torch's layout."""
    rng, found = np.random.default_rng(0), {}
    for path, leaf in traverse_util.flatten_dict(empty or resnet(), sep="/").items():
        value = rng.uniform(0.1, 1, leaf.shape).astype(np.float32)
        if path.endswith("/kernel"):
            value = np.moveaxis(value, (-2, -1), (1, 0))
        found[tensor_name(path.split("/", 1)[1], FORMATS[architecture][0])] = value
    return found


def load(path, content, architecture=NAME, empty=None):
    path.write_bytes(pickle.dumps(content))
    return load_pretrained(path, architecture, empty or resnet())


def under(prefix, weights, head="fc."):
    """Returns tensors under a prefix, those of the classifier `fc` under another one."""
    return {head + k[3:] if k.startswith("fc.") else prefix + k: v for k, v in weights.items()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return load(tmp_path_factory.mktemp("plain") / "w.pth", tensors())[0]


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "encoder.", "model._orig_mod.module.", "any.thing.0."]
)
@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"state_dict": w, "epoch": 3}, lambda w: [{"a": {"b": w}}]])
def test_any_prefix_in_any_containers(tmp_path, expected, prefix, wrap):
    content = under(prefix, tensors(), head=f"{prefix}fc.")
    variables, report = load(tmp_path / "w.pth", wrap(content))
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    assert not report.skipped and not report.missing
    assert report.prefix.endswith(prefix) and repr(report.prefix) in str(report)


@pytest.mark.parametrize(
    ("prefix", "head"),
    [
        ("backbone.", "fc."),
        ("module.backbone.", "module.fc."),
        ("state_dict.backbone.", "state_dict.head."),
        ("model.features.", "model.classifier.4."),
        ("module.net.", "module.net.fc.1."),
        ("", "fc.1."),
        ("", "classifier.3."),
    ],
)
def test_the_only_layer_of_a_classifier_is_found(tmp_path, expected, prefix, head):
    variables, report = load(tmp_path / "w.pth", under(prefix, tensors(), head=head))
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    assert not report.skipped and not report.missing


@pytest.mark.parametrize("root", ["fc", "classifier", "head"])
def test_a_classifier_of_several_layers_is_another_head(tmp_path, expected, root):
    body = {k: v for k, v in tensors().items() if not k.startswith("fc.")}
    head = {f"{root}.0.weight": np.ones((6, 8)), f"{root}.0.bias": np.ones(6), f"{root}.3.weight": np.ones((7, 6))}
    variables, report = load(tmp_path / "w.pth", {**body, **head})
    assert {name for name, _ in report.skipped} == set(head)
    assert set(report.missing) == {"params/head/out/kernel", "params/head/out/bias"}
    jax.tree.map(np.testing.assert_array_equal, variables["batch_stats"], expected["batch_stats"])


def test_a_classifier_beside_the_network_does_not_replace_its_own(tmp_path, expected):
    content = {**under("model.", tensors(), head="model.fc."), "head.weight": np.ones((7, 8), np.float32)}
    variables, report = load(tmp_path / "w.pth", content)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    assert [name for name, _ in report.skipped] == ["head.weight"]


def test_mobilenet_with_a_wrapped_layer_and_without_a_classifier(tmp_path):
    name, options = "mobilenetv3_small", {"width": 0.25, "head_hidden": [16], "depthwise": "conv"}
    _, empty = network(name, (32, 32, 3), **options)
    plain = tensors(name, empty)
    whole, _ = load(tmp_path / "a.pth", plain, name, empty)
    wrapped = {k.replace("classifier.3.", "classifier.3.1."): v for k, v in plain.items()}
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "b.pth", wrapped, name, empty)[0], whole)
    # All names start with "features.", which is not a prefix.
    body = {k: v for k, v in plain.items() if k.startswith("features.")}
    variables, report = load(tmp_path / "c.pth", body, name, empty)
    assert report.prefix == "" and {path.split("/")[1] for path in report.missing} == {"head"}
    jax.tree.map(np.testing.assert_array_equal, variables["batch_stats"], whole["batch_stats"])


@pytest.mark.parametrize(
    ("written", "order"),
    [
        (("ema", "net", "model", "state_dict"), ("state_dict", "model", "net", "ema")),
        (("params_ema", "params"), ("params", "params_ema")),
        (("student", "teacher"), ("student", "teacher")),
        (("model_ema", "zebra", "ant"), ("zebra", "ant", "model_ema")),
        (("ema",), ("ema",)),
    ],
)
def test_the_first_copy_in_the_documented_order_is_used(tmp_path, written, order):
    content = {key: {k: v + np.float32(order.index(key)) for k, v in tensors().items()} for key in written}
    variables, report = load(tmp_path / "w.pth", content)
    np.testing.assert_array_equal(variables["params"]["head"]["out"]["bias"], tensors()["fc.bias"])
    assert (report.prefix, *report.copies) == tuple(f"{key}." for key in order) and not report.skipped
    assert all(f"'{key}.'" in str(report) for key in order)


def test_tensors_beside_the_network_are_reported_and_those_in_it_refused(tmp_path):
    beside = {**under("model.", tensors(), head="model.fc."), "loss.weight": np.ones(7, np.float32)}
    _, report = load(tmp_path / "w.pth", beside)
    assert [name for name, _ in report.skipped] == ["loss.weight"]
    with pytest.raises(InputError, match=r"'attention\.weight'"):
        load(tmp_path / "w.pth", {**beside, "model.attention.weight": np.ones(7, np.float32)})

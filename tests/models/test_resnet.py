import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax import models
from ferjax.errors import InputError
from tests.support import quick, tiny_networks


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def shapes(name, image=None, **kwargs):
    module = models.create(name, **kwargs)
    x = jax.ShapeDtypeStruct((1, *(image or models.default_input_shape(name))), jnp.float32)
    return jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), x)


def test_resnet18_gray_linear_head():
    # Canonical ResNet-18 has 11,689,512 parameters. Gray 3x3 stem: 9*64 instead of 49*3*64, so 576 - 9,408;
    # head 512*7 + 7 instead of 512*1000 + 1000, so 3,591 - 513,000.
    assert 11_689_512 + (576 - 9_408) + (3_591 - 513_000) == 11_171_271
    assert count(shapes("resnet18")["params"]) == 11_171_271


def test_resnet18_with_paraschivs_head():
    # 512*256 + 256, batch normalization 2*256, 256*7 + 7, instead of the linear head's 3,591
    assert 11_171_271 - 3_591 + 131_328 + 512 + 1_799 == 11_301_319
    variables = shapes("resnet18", head_hidden=[256], head_dropout=[0.5, 0.25])
    assert count(variables["params"]) == 11_301_319


def test_resnet18_canonical():
    assert count(shapes("resnet18_imagenet", num_classes=1000)["params"]) == 11_689_512


def test_resnet20_rgb():
    # stem 3*9*16 + 32; stages 14,016 + 51,648 + 205,696; head 64*7 + 7. Qin's text gives 55,072 and
    # 203,552 for the last two stages, which no 1x1 projection with normalization adds up to.
    assert 464 + 14_016 + 51_648 + 205_696 + 455 == 272_279
    assert count(shapes("resnet20", image=(100, 100, 3))["params"]) == 272_279


def test_resnet50_canonical():
    # torchvision's count
    assert count(shapes("resnet50", num_classes=1000)["params"]) == 25_557_032


def test_hidden_widths_rebuild_a_slimmed_network():
    hidden = [[8], [8], [8], [24], [32], [32], [40], [64], [64]]
    params = shapes("resnet20", hidden=hidden)["params"]
    assert params["layer1_0"]["conv1"]["conv"]["kernel"].shape == (3, 3, 16, 8)
    assert params["layer2_0"]["conv2"]["conv"]["kernel"].shape == (3, 3, 24, 32)
    with pytest.raises(InputError, match="hidden needs 9 entries"):
        shapes("resnet20", hidden=hidden[:8])


def test_wrong_arguments_name_what_is_accepted():
    with pytest.raises(InputError, match=r"unknown model 'resnet19'.*resnet18"):
        models.create("resnet19")
    with pytest.raises(InputError, match=r"argument of resnet18 'head_hiden'\. Did you mean 'head_hidden'"):
        models.create("resnet18", head_hiden=[1])
    with pytest.raises(InputError, match="stem 'tiny'"):
        shapes("resnet20", stem="tiny")
    with pytest.raises(InputError, match=r"2 rates for 1 hidden layers, got \(0\.5,\)"):
        shapes("resnet20", head_hidden=[8], head_dropout=[0.5])


def test_stage_by_stage_resolution_and_pooling():
    module = models.create("resnet18_imagenet", widths=[8, 8, 8, 8], stem_width=8)
    x = jnp.ones((1, 64, 64, 3))
    variables = tiny_networks.variables(module, x.shape[1:])
    _, state = quick.jit(lambda v, x: module.apply(v, x, train=False, mutable=["intermediates"]))(variables, x)
    maps = {k: v[0].shape for k, v in state["intermediates"].items()}
    assert maps == {
        "stage0": (1, 16, 16, 8),
        "stage1": (1, 16, 16, 8),
        "stage2": (1, 8, 8, 8),
        "stage3": (1, 4, 4, 8),
        "stage4": (1, 2, 2, 8),
        "features": (1, 2, 2, 8),
        "embedding": (1, 8),
    }


def test_dropout_acts_in_training_only():
    module = models.create("resnet20", depths=[1], widths=[8], head_dropout=[0.5])
    x = jax.random.normal(jax.random.key(1), (4, 16, 16, 1))
    variables = tiny_networks.variables(module, x.shape[1:])

    @quick.jit
    def train(seed):
        return module.apply(variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(seed)})

    a, b = train(0)[0], train(1)[0]
    assert float(jnp.abs(a - b).max()) > 1e-3
    again = [models.create("resnet20", depths=[1], widths=[8], head_dropout=[rate]) for rate in (0.0, 0.5)]
    a, b = (quick.jit(lambda x, m=m: m.apply(variables, x, train=False))(x) for m in again)
    np.testing.assert_array_equal(a, b)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from ferjax import models
from ferjax.errors import InputError
from ferjax.weights.pretrained import adopt_variables, load_pretrained, shrink_kernel
from tests.support import GOLDEN, quick, seeded
from tests.support.blank_networks import network
from tests.support.golden_weights import golden, weights

REFERENCES = sorted(path.stem for path in GOLDEN.glob("*.json") if "architecture" in golden(path.stem))


def load(path, tensors, architecture, shape=(64, 64, 3), strict=True, **kwargs):
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
    return load_pretrained(path, architecture, network(architecture, shape, **kwargs)[1], strict=strict)


def logits_of(name, tmp_path):
    facts = golden(name)
    module, empty = network(facts["architecture"], facts["images"][1:])
    path = tmp_path / "w.safetensors"
    save_file(weights(name), path)
    variables, report = load_pretrained(path, facts["architecture"], empty)
    apply = quick.jit(lambda v, x: models.for_export(module).apply(v, x, train=False))
    return apply, variables, seeded.images(facts["images"]), report


def check_logits(name, tmp_path):
    apply, variables, images, report = logits_of(name, tmp_path)
    assert not report.skipped and not report.missing
    np.testing.assert_allclose(apply(variables, images), golden(name)["logits"], rtol=0, atol=1e-4)


def test_logits_equal_torchvisions(tmp_path):
    check_logits("torchvision_resnet18", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
def test_logits_equal_the_reference(name, tmp_path):
    check_logits(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
def test_every_loaded_tensor_counts(name, tmp_path):
    apply, variables, images, _ = logits_of(name, tmp_path)
    start = apply(variables, images)
    facts = golden(name)
    save_file(weights(name, seed=1), tmp_path / "other.safetensors")
    others, _ = load_pretrained(tmp_path / "other.safetensors", facts["architecture"], variables)
    flat, other = (traverse_util.flatten_dict(v, sep="/") for v in (variables, others))
    assert len(flat) == len(facts["tensors"])
    for key in flat:
        changed = traverse_util.unflatten_dict({**flat, key: other[key]}, sep="/")
        assert float(jnp.abs(apply(changed, images) - start).max()) > 1e-3, key


def test_a_grayscale_stem_takes_the_mean_kernel(tmp_path):
    tensors = weights("torchvision_mobilenet_v3_small")
    variables, report = load(tmp_path / "w.safetensors", tensors, "mobilenetv3_small", (32, 32, 1))
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    assert kernel.shape == (3, 3, 1, 16)
    np.testing.assert_allclose(kernel[1, 2, 0, 5], tensors["features.0.0.weight"][5, :, 1, 2].mean(), rtol=1e-6)
    assert report.adapted == (("params/stem/conv/kernel", "mean over the three channels"),)
    assert report.preprocessing.color_order == "gray"
    np.testing.assert_allclose(report.preprocessing.mean, [(0.485 + 0.456 + 0.406) / 3])


def test_shrinking_by_area_keeps_sums():
    # A row of ones covers 7/3 pixels per cell; a step at pixel 3.5 splits the middle cell in halves.
    np.testing.assert_allclose(shrink_kernel(np.ones((7, 7, 1, 1)), 3)[..., 0, 0], np.full((3, 3), 49 / 9))
    kernel = np.random.default_rng(0).normal(size=(7, 7, 2, 3))
    small = shrink_kernel(kernel, 3)
    np.testing.assert_allclose(small.sum((0, 1)), kernel.sum((0, 1)))
    np.testing.assert_allclose(shrink_kernel(kernel[:, ::-1], 3), small[:, ::-1])
    # the first cell: pixels 0 and 1 whole, a third of pixel 2
    edge = np.zeros((7, 7, 1, 1))
    edge[2, 0] = 1
    np.testing.assert_allclose(shrink_kernel(edge, 3)[:, 0, 0, 0], [1 / 3, 2 / 3, 0], atol=1e-12)


def test_resnet18_for_grayscale_faces_from_imagenet(tmp_path):
    head = {"head_hidden": [256], "head_dropout": [0.5, 0.25]}
    tensors = {**weights("torchvision_resnet18"), "bn1.num_batches_tracked": np.int64(3)}
    variables, report = load(tmp_path / "w.safetensors", tensors, "resnet18", (48, 48, 1), **head)
    assert variables["params"]["stem"]["conv"]["kernel"].shape == (3, 3, 1, 64)
    change = "mean over the three channels; 7x7 shrunk to 3x3 by area"
    assert report.adapted == (("params/stem/conv/kernel", change),)
    assert [name for name, _ in report.skipped] == ["fc.weight"]
    assert {name.split("/")[1] for name in report.missing} == {"head"}
    assert "1 adapted, 1 skipped" in str(report) and "skipped fc.weight: shape" in str(report)


def test_microexpnet_starts_from_mobilenets_features(tmp_path):
    for name in ("torchvision_mobilenet_v3_small", "timm_mobilenetv3_small_100"):
        variables, report = load(tmp_path / "w.safetensors", weights(name), "microexpnet", (48, 48, 1))
        assert {path.split("/")[1] for path in report.missing} == {"attention_se", "head"}
        assert float(jnp.abs(variables["params"]["last"]["conv"]["kernel"]).min()) > 0


def test_timms_epsilon_is_made_up_for(tmp_path):
    # timm divides by sqrt(var + 1e-5), we by sqrt(var + 1e-3)
    tensors = weights("timm_mobilenetv3_small_100")
    variables, _ = load(tmp_path / "w.safetensors", tensors, "mobilenetv3_small")
    ours = variables["batch_stats"]["block3"]["project"]["bn"]["var"]
    np.testing.assert_allclose(ours + 1e-3, tensors["blocks.2.0.bn3.running_var"] + 1e-5, rtol=1e-6)


def test_positions_are_interpolated_to_another_grid(tmp_path):
    tensors = weights("timm_deit_tiny_patch16_224")
    tensors["pos_embed"] = np.ones_like(tensors["pos_embed"])
    tensors["pos_embed"][:, 0] = 5
    small = {"depth": 12, "grid": [3, 3]}
    variables, report = load(tmp_path / "w.safetensors", tensors, "deit_tiny", (48, 48, 1), **small)
    positions = variables["params"]["pos_embed"]
    assert positions.shape == (1, 10, 192)
    np.testing.assert_allclose(positions[0, :, 0], [5] + 9 * [1], rtol=1e-6)
    assert ("params/pos_embed", "interpolated to another grid of patches") in report.adapted


def dag_names(tensors):
    """The same ResNet-50 under the names of VGGFace2's own PyTorch file."""
    kinds = {"1": "1x1_reduce", "2": "3x3", "3": "1x1_increase"}
    renamed = {}
    for name, value in tensors.items():
        *path, leaf = name.split(".")
        if path[0] in ("conv1", "bn1"):
            new = "conv1_7x7_s2" + ("_bn" if path[0] == "bn1" else "")
        elif path[0] == "fc":
            new, value = "classifier", value[:, :, None, None] if leaf == "weight" else value
        else:
            bn = path[2][:2] == "bn" or path[2:] == ["downsample", "1"]
            kind = "1x1_proj" if path[2] == "downsample" else kinds[path[2][-1]]
            new = f"conv{int(path[0][-1]) + 1}_{int(path[1]) + 1}_{kind}" + ("_bn" if bn else "")
        renamed[f"{new}.{leaf}"] = value
    return renamed


@pytest.mark.slow
def test_vggface2_in_both_of_its_naming_schemes(tmp_path):
    tensors = weights("vggface2_resnet50")
    first, bgr = load(tmp_path / "a.safetensors", tensors, "resnet50_caffe")
    second, rgb = load(tmp_path / "b.safetensors", dag_names(tensors), "resnet50_caffe")
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert (bgr.preprocessing.color_order, rgb.preprocessing.color_order) == ("bgr", "rgb")
    np.testing.assert_allclose(np.multiply(bgr.preprocessing.mean, 255), [91.4953, 103.8827, 131.0912])
    np.testing.assert_allclose(np.multiply(rgb.preprocessing.std, 255), 1)


def test_vggface2_requires_its_own_architecture(tmp_path):
    tensors = {"layer1.0.conv1.weight": np.zeros((64, 64, 1, 1), np.float32), "fc.weight": np.zeros((8631, 1), "f4")}
    with pytest.raises(InputError, match="resnet50_caffe"):
        load(tmp_path / "w.safetensors", tensors, "resnet50")


def test_another_network_is_named_by_a_tensor(tmp_path):
    tensors = weights("torchvision_resnet18")
    with pytest.raises(InputError, match=r"deit_tiny.*'bn1\.bias'"):
        load(tmp_path / "w.safetensors", tensors, "deit_tiny")
    with pytest.raises(InputError, match=r"'layer1\.0\.bn3\.bias' and \d+ other"):
        load(tmp_path / "w.safetensors", {**tensors, **weights("torchvision_resnet50")}, "resnet18_imagenet")
    with pytest.raises(InputError, match="unknown architecture with pretrained weights 'resnet20'"):
        load(tmp_path / "w.safetensors", tensors, "resnet20")


def test_a_file_of_no_type_that_is_read_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"lacks tensor 'layer1.*, and has none of a type"):
        load(tmp_path / "w.safetensors", {"bn1.num_batches_tracked": np.int64([1])}, "resnet18_imagenet")


def test_a_missing_file_is_reported_first(tmp_path):
    with pytest.raises(InputError, match=r"nope\.safetensors does not exist"):
        load_pretrained(tmp_path / "nope.safetensors", "resnet20", {})


def test_missing_and_misshapen_tensors_are_named(tmp_path):
    tensors = weights("torchvision_resnet18")
    path = tmp_path / "w.safetensors"
    lacking = {k: v for k, v in tensors.items() if k != "layer2.1.bn2.running_var"}
    with pytest.raises(InputError, match=r"lacks tensor 'layer2\.1\.bn2\.running_var'"):
        load(path, lacking, "resnet18_imagenet")
    bent = {**tensors, "layer3.0.conv1.weight": np.zeros((256, 64, 3, 3), np.float32)}
    with pytest.raises(InputError, match=r"tensor 'layer3\.0\.conv1\.weight', shape \(256, 64, 3, 3\)"):
        load(path, bent, "resnet18_imagenet")
    variables, report = load(path, {**bent, "extra": np.zeros(1, np.float32)}, "resnet18_imagenet", strict=False)
    assert [name for name, _ in report.skipped] == ["extra", "layer3.0.conv1.weight"]
    assert report.missing == ("params/layer3_0/conv1/conv/kernel",)
    assert float(jnp.abs(variables["params"]["layer3_0"]["conv1"]["conv"]["kernel"]).max()) == 0


def test_adopting_another_run_keeps_the_head():
    _, seven = network("mini_xception", (32, 32, 1))
    _, eight = network("mini_xception", (32, 32, 1), num_classes=8)
    eight = jax.tree.map(lambda x: x + 3, eight)
    result, report = adopt_variables(seven, eight)
    assert jax.tree.structure(result) == jax.tree.structure(seven)
    flat = traverse_util.flatten_dict(result, sep="/")
    assert {k for k, v in flat.items() if float(v.max()) == 0} == {"params/head/conv/kernel", "params/head/conv/bias"}
    assert set(report.missing) == {"params/head/conv/kernel", "params/head/conv/bias"}
    assert len(report.loaded) + 2 == len(flat)


def test_adopting_another_network_is_refused():
    _, plain = network("mini_xception", (32, 32, 1))
    _, wide = network("mini_xception", (32, 32, 1), widths=[16, 32, 64, 256])
    with pytest.raises(InputError, match=r"'batch_stats/module4/.* has shape \(256,\)"):
        adopt_variables(plain, wide)
    _, other = network("baseline_cnn3", (32, 32, 1))
    with pytest.raises(InputError, match="is missing"):
        adopt_variables(plain, other)

"""Where training starts, on real networks with drawn weights."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from ferjax.errors import InputError
from ferjax.train import start
from ferjax.weights import Trained
from tests.support.blank_networks import SMALL_RESNET, network, write_run
from tests.support.golden_weights import weights
from tests.support.tiny import SPEC

GREY = SPEC.replace(architecture="mobilenetv3_small")
COLOR = SPEC.replace(
    architecture="resnet50_caffe", color_order="rgb", mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5), input_size=(64, 64)
)


def test_a_fresh_start_changes_nothing():
    _, empty = network("resnet20", (8, 8, 1), **SMALL_RESNET)
    (spec, variables), report = start.start(Trained(SPEC, empty))
    assert variables == empty and spec is SPEC and report is None


def test_a_weights_file_brings_its_preprocessing(tmp_path):
    save_file(weights("torchvision_mobilenet_v3_small"), tmp_path / "w.safetensors")
    _, empty = network("mobilenetv3_small", (32, 32, 1), num_classes=3)
    (spec, variables), report = start.start(Trained(GREY, empty), pretrained=tmp_path / "w.safetensors")
    np.testing.assert_allclose(spec.mean, [(0.485 + 0.456 + 0.406) / 3])
    np.testing.assert_allclose(spec.std, [(0.229 + 0.224 + 0.225) / 3])
    assert spec.color_order == "gray" and dataclasses.replace(spec, mean=GREY.mean, std=GREY.std) == GREY
    assert np.abs(np.asarray(variables["params"]["stem"]["conv"]["kernel"])).max() > 0
    assert [name for name, _ in report.adapted] == ["params/stem/conv/kernel"]


def test_the_datas_own_preprocessing_may_stay(tmp_path):
    save_file(weights("torchvision_mobilenet_v3_small"), tmp_path / "w.safetensors")
    _, empty = network("mobilenetv3_small", (32, 32, 1), num_classes=3)
    options = {"fresh": Trained(GREY, empty), "pretrained": tmp_path / "w.safetensors"}
    (spec, variables), _ = start.start(preprocessing="data", **options)
    (_, theirs), _ = start.start(**options)
    assert spec == GREY
    jax.tree.map(np.testing.assert_array_equal, variables, theirs)
    with pytest.raises(InputError, match=r"unknown init\.preprocessing 'dta'. Did you mean 'data'"):
        start.start(preprocessing="dta", **options)


def test_blue_green_red_becomes_red_green_blue_in_the_stem(tmp_path):
    tensors = weights("vggface2_resnet50")
    save_file(tensors, tmp_path / "w.safetensors")
    _, empty = network("resnet50_caffe", (64, 64, 3), num_classes=3)
    (spec, variables), report = start.start(Trained(COLOR, empty), pretrained=tmp_path / "w.safetensors")
    assert spec.color_order == "rgb"
    np.testing.assert_allclose(np.array(spec.mean) * 255, [131.0912, 103.8827, 91.4953])
    np.testing.assert_allclose(spec.std, [1 / 255] * 3)
    kernel = np.asarray(variables["params"]["stem"]["conv"]["kernel"])
    their_kernel = tensors["conv1.weight"]  # (out, in: blue green red, 7, 7)
    red, blue = 0, 2
    np.testing.assert_array_equal(kernel[:, :, red, 5], their_kernel[5, 2])
    np.testing.assert_array_equal(kernel[:, :, blue, 5], their_kernel[5, 0])
    assert "params/stem/conv/kernel: input channels reversed" in str(report)


def test_a_run_of_other_classes_gives_all_but_the_head(tmp_path):
    source = write_run(
        tmp_path / "run",
        num_classes=4,
        spec=SPEC.replace(architecture="resnet20", class_names=("a", "b", "c", "contempt"), mean=(0.4,)),
    )
    _, empty = network("resnet20", (8, 8, 1), num_classes=3, **SMALL_RESNET)
    (spec, variables), report = start.start(
        Trained(SPEC.replace(architecture="resnet20"), empty), workdir=tmp_path / "run"
    )
    assert spec.mean == (0.4,) and spec.class_names == ("a", "b", "c")
    stem = lambda v: np.asarray(v["params"]["stem"]["conv"]["kernel"])  # noqa: E731
    np.testing.assert_array_equal(stem(variables), stem(source))
    assert not np.asarray(variables["params"]["head"]["out"]["kernel"]).any()
    assert all(name.startswith("params/head/") for name in report.missing) and report.missing


def test_a_run_of_the_same_classes_gives_its_head_too(tmp_path):
    source = write_run(tmp_path / "run", num_classes=3, spec=SPEC.replace(architecture="resnet20"))
    _, empty = network("resnet20", (8, 8, 1), num_classes=3, **SMALL_RESNET)
    (_, variables), report = start.start(
        Trained(SPEC.replace(architecture="resnet20"), empty), workdir=tmp_path / "run"
    )
    jax.tree.map(np.testing.assert_array_equal, variables, source)
    assert not report.missing


def test_a_start_that_does_not_fit_is_refused(tmp_path):
    write_run(tmp_path / "run", num_classes=3, spec=SPEC.replace(architecture="resnet20"))
    _, empty = network("resnet20", (8, 8, 1), num_classes=3, **SMALL_RESNET)
    with pytest.raises(InputError, match="holds resnet20, this configuration trains resnet18"):
        start.start(Trained(SPEC.replace(architecture="resnet18"), empty), workdir=tmp_path / "run")
    with pytest.raises(InputError, match="both set"):
        start.start(Trained(SPEC, empty), workdir="a", pretrained="b")
    _, wide = network("resnet20", (8, 8, 1), num_classes=3, **{**SMALL_RESNET, "widths": (4, 8, 16)})
    with pytest.raises(InputError, match=r"another network: .* has shape .*expected shape"):
        start.start(Trained(SPEC.replace(architecture="resnet20"), wide), workdir=tmp_path / "run")


def test_a_run_of_the_same_classes_in_another_order_gives_its_head_in_the_new_order(tmp_path):
    theirs = SPEC.replace(architecture="resnet20", class_names=("c", "a", "b"))
    source = write_run(tmp_path / "run", num_classes=3, spec=theirs)
    module, empty = network("resnet20", (8, 8, 1), num_classes=3, **SMALL_RESNET)
    ours = theirs.replace(class_names=("a", "b", "c"))
    (spec, variables), report = start.start(Trained(ours, empty), workdir=tmp_path / "run")
    images = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 1)).astype(np.float32)
    before, after = (np.asarray(module.apply(v, images, train=False)) for v in (source, variables))
    np.testing.assert_allclose(after, before[:, [1, 2, 0]], rtol=1e-5)
    assert np.ptp(before, axis=1).min() > 1e-3 and spec.class_names == ("a", "b", "c")
    assert [name for name, _ in report.adapted] == ["params/head/out/bias", "params/head/out/kernel"]
    assert not report.missing

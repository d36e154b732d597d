"""Tests .safetensors files: written from a run, used as a start, with equal logits."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ferjax.errors import InputError
from ferjax.train import start
from ferjax.weights import Trained, checkpoint, single_file
from tests.support import quick
from tests.support.blank_networks import SMALL_RESNET, network, write_run
from tests.support.tiny import SPEC

RESNET = SPEC.replace(architecture="resnet20", mean=(0.4,), std=(0.3,))


@pytest.fixture
def run(tmp_path):
    """A file, its spec and its variables."""
    variables = write_run(tmp_path / "run", num_classes=3, spec=RESNET)
    spec = RESNET.replace(params_sha256=checkpoint.fingerprint(variables))
    single_file.save(tmp_path / "w.safetensors", Trained(spec, variables))
    return tmp_path / "w.safetensors", spec, variables


def test_a_round_trip_gives_equal_logits(run):
    path, spec, variables = run
    module, empty = network("resnet20", (8, 8, 1), num_classes=3, **SMALL_RESNET)
    (begun, started), report = start.start(Trained(RESNET.replace(mean=(0.5,), std=(0.2,)), empty), pretrained=path)
    assert (begun.mean, begun.std) == (spec.mean, spec.std) and not report.missing and not report.skipped
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    apply = quick.jit(lambda v: module.apply(v, images, train=False))
    logits = np.asarray(apply(variables))
    assert np.ptp(logits) > 0
    np.testing.assert_array_equal(apply(started), logits)


def test_what_a_link_leads_to_is_replaced(run):
    path, spec, variables = run
    path.chmod(0o640)
    link = path.with_name("best.safetensors")
    link.symlink_to(path.name)
    single_file.save(link, Trained(spec.replace(temperature=2.0), variables))
    assert link.is_symlink() and single_file.load(path)[0].temperature == 2.0 and path.stat().st_mode & 0o777 == 0o640


def test_the_file_says_what_it_is(run):
    path, spec, variables = run
    found, loaded = single_file.load(path)
    assert found == spec and single_file.is_ours(path)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert "params/stem/conv/kernel" in load_file(path)  # any reader of the format
    assert start.network_of(path) == {"name": "resnet20"}
    assert [p.name for p in path.parent.iterdir() if p.is_file()] == ["w.safetensors"]


def test_other_classes_give_all_but_the_head(run):
    path, _, variables = run
    _, empty = network("resnet20", (8, 8, 1), num_classes=2, **SMALL_RESNET)
    (_, started), report = start.start(Trained(RESNET.replace(class_names=("a", "z")), empty), pretrained=path)
    ours, theirs = (v["params"]["stem"]["conv"]["kernel"] for v in (started, variables))
    np.testing.assert_array_equal(ours, theirs)
    assert report.missing and all(name.startswith("params/head/") for name in report.missing)


def test_what_does_not_fit_is_refused(run, tmp_path):
    path, _, _ = run
    _, wide = network("resnet20", (8, 8, 1), num_classes=3, **{**SMALL_RESNET, "widths": (4, 8, 16)})
    with pytest.raises(InputError, match="another network"):
        start.start(Trained(RESNET, wide), pretrained=path)
    with pytest.raises(InputError, match="holds resnet20, this configuration trains mini_xception"):
        start.start(Trained(RESNET.replace(architecture="mini_xception"), wide), pretrained=path)
    save_file({"x": np.ones(2, np.float32)}, tmp_path / "others.safetensors")
    assert not single_file.is_ours(tmp_path / "others.safetensors") and not single_file.is_ours(
        tmp_path / "no.safetensors"
    )
    (tmp_path / "a.onnx").write_bytes(b"x")
    with pytest.raises(InputError, match=r"a\.onnx is no trained network: .* workdir .*\.safetensors"):
        single_file.load(tmp_path / "a.onnx")
    with pytest.raises(InputError, match=r"others\.safetensors has no spec"):
        single_file.load(tmp_path / "others.safetensors")


def test_changed_weights_are_noticed(run):
    path, spec, variables = run
    changed = {**variables, "batch_stats": jax.tree.map(lambda leaf: leaf + 1, variables["batch_stats"])}
    single_file.save(path, Trained(spec, changed))
    with pytest.raises(InputError, match=r"w\.safetensors is damaged"):
        single_file.load(path)


@pytest.mark.parametrize("change", [{"quantization": "qat"}, {"architecture_args": {"folded": True}}])
def test_a_network_that_is_no_longer_plain_is_refused(run, tmp_path, change):
    _, spec, variables = run
    with pytest.raises(InputError, match="'qat'" if "quantization" in change else "folded"):
        single_file.save(tmp_path / "integers.safetensors", Trained(spec.replace(**change), variables))
    assert not (tmp_path / "integers.safetensors").exists()


def test_the_command_writes_the_weights_of_a_run(run, tmp_path, capsys):
    folder, variables = tmp_path / "run", run[2]
    single_file.main(["--model", str(folder), "--out", str(tmp_path / "new.safetensors")])
    theirs, read = single_file.load(tmp_path / "new.safetensors")
    assert theirs == RESNET and "saved" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, read, dict(variables))
    with pytest.raises(InputError, match=r"--out must be a \.safetensors file in an existing folder"):
        single_file.main(["--model", str(folder), "--out", str(tmp_path / "w.npz")])

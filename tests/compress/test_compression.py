"""Tests quantization-aware training and pruning by configuration, separately and with a teacher."""

import functools

import jax
import numpy as np
import pytest

from ferjax import prune
from ferjax.data import load
from ferjax.errors import InputError
from ferjax.evaluate import grad_cam, inference, scoring, temperature
from ferjax.quant import rounding
from ferjax.train import experiment
from ferjax.weights import Trained, checkpoint, trained
from tests.support import experiments
from tests.support.experiments import SMALL


def config(**changes):
    """The small experiment, without augmentation, with `group__key` values set."""
    model = {"name": "baseline_cnn5", "widths": [8, 16], "head_dropout": 0.2}
    return experiments.config(SMALL | {"model": model, "augment": {}, "loss": {}}, **changes)


def train(folder, workdir, made, **options):
    return experiment.train(made, workdir=workdir, data_dir=folder / "data", progress=False, **options)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A trained network to start from."""
    folder = tmp_path_factory.mktemp("dense")
    train(folder, folder / "run", config(fit__epochs=3))
    return folder


def qat(folder, **changes):
    start = {"init__workdir": str(folder / "run"), "optim__learning_rate": 1e-3, "quant__bits": 8}
    return config(**{**start, **changes})


@pytest.fixture(scope="module")
def rounded(dense):
    """The same network, fine-tuned with quantization-aware training."""
    result = train(dense, dense / "qat", qat(dense))
    return dense, result


def test_quantization_is_in_spec_and_variables(rounded):
    folder, result = rounded
    spec, variables = checkpoint.read(folder / "qat")[0]
    assert spec.quantization == "qat" and spec.architecture_args["folded"] is True
    assert set(variables) == {"params", "ranges"} and "bn" not in variables["params"]["conv1"]
    assert spec.parameters == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    rounding.check_ranges(variables["ranges"])
    # every command rounds as training did: validation's accuracy comes back, and is not the float network's logits
    scored = scoring.evaluate(folder / "qat", data_dir=folder / "data")
    assert scored["accuracy"] == result.best["validation_accuracy"]
    images = load(data_dir=folder / "data", **SMALL["data"]).splits["validation"].images
    logits = inference.logits(Trained(spec, variables), images)
    plain = inference.logits(Trained(spec.replace(quantization="none"), {"params": variables["params"]}), images)
    assert 0 < np.abs(logits - plain).max() < 0.2 * np.abs(plain).max()
    temperature.main(["--model", str(folder / "qat"), "--data-dir", str(folder / "data")])
    assert checkpoint.read(folder / "qat")[0].spec.temperature != 1
    maps, seen = grad_cam.explain(Trained(spec, variables), images[:2])
    np.testing.assert_allclose(seen, logits[:2], atol=1e-5)
    assert maps.max() > 0


def test_a_killed_run_ends_to_the_bit_and_its_ranges_stay_once_frozen(dense, tmp_path, monkeypatch):
    made = qat(dense, quant__freeze_epochs=1.0, fit__epochs=3, fit__ema_decay=0.9, prune__sparsity=0.5)
    whole = train(dense, tmp_path / "whole", made)
    ranges = []

    def stop_once(history):
        _, arrays, _ = next(checkpoint._good(tmp_path / "cut", "last"))
        ranges.append({name: value for name, value in arrays.items() if name.startswith("collections.ranges")})
        if len(history) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "_reporter", lambda *args, **kwargs: stop_once)
    with pytest.raises(KeyboardInterrupt):
        train(dense, tmp_path / "cut", made)
    cut = train(dense, tmp_path / "cut", made)
    assert cut.history == whole.history
    jax.tree.map(np.testing.assert_array_equal, cut.variables, whole.variables)
    first, second, _ = ranges
    assert float(first.pop("collections.ranges.seen")) == 3 and float(second.pop("collections.ranges.seen")) == 6
    assert len(first) > 5 and all(first[name] == second[name] for name in first)


@pytest.mark.slow
def test_ranges_move_for_as_many_epochs_however_a_batch_is_cut(dense, tmp_path):
    def ranges(**changes):
        made = qat(dense, quant__decay=0.5, fit__epochs=1, fit__accumulate=2, **changes)
        return train(dense, tmp_path / str(len(changes)), made).variables["ranges"]

    always, an_epoch = ranges(), dict(ranges(quant__freeze_epochs=1.0))
    assert float(an_epoch.pop("seen")) == 3 * 2
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), an_epoch, always)


def test_pruning_is_exact_in_the_average_and_the_best_epoch_is_a_sparse_one(dense, tmp_path):
    made = config(
        init__workdir=str(dense / "run"),
        prune__sparsity=0.8,
        prune__ramp_epochs=2.0,
        prune__frequency=1,
        fit__epochs=4,
        fit__ema_decay=0.99,
    )
    result = train(dense, tmp_path / "run", made)
    rows = [row["sparsity"] for row in result.history]
    assert rows == sorted(rows) and rows[0] < 0.8 - 1e-3 and rows[2] == rows[3] == pytest.approx(0.8, abs=1e-3)
    assert result.best["epoch"] >= 3
    kernels = [leaf for name, leaf in prune.layers.flat(result.variables["params"]).items() if name.endswith("kernel")]
    zeros, total = sum(int((k == 0).sum()) for k in kernels), sum(k.size for k in kernels)
    assert zeros == round(0.8 * total)
    # a later run keeps the zeros, and prunes no more
    on = config(init__workdir=str(tmp_path / "run"), init__network=True, prune__keep_zeros=True, fit__epochs=1)
    again = train(dense, tmp_path / "on", on)
    for before, after in zip(*(jax.tree.leaves(r.variables["params"]) for r in (result, again)), strict=True):
        if before.ndim > 1:
            np.testing.assert_array_equal(after == 0, before == 0)


def test_a_student_is_pruned_quantized_and_distilled_at_once(rounded, tmp_path):
    folder, _ = rounded
    made = qat(
        folder,
        quant__bits=4,
        quant__observer="percentile",
        prune__sparsity=0.5,
        prune__distribution="uniform",
        prune__score="gradient_weight",
        loss__alpha=0.5,
        fit__epochs=1,
    )
    result = experiment.distill(
        made,
        workdir=tmp_path / "run",
        teachers=[folder / "qat", folder / "run"],  # one that rounds beside one that does not
        data_dir=folder / "data",
        progress=False,
    )
    assert 0 <= result.best["teacher_agreement"] <= 1 and result.best["sparsity"] == pytest.approx(0.5, abs=0.01)
    spec, variables = checkpoint.read(tmp_path / "run")[0]
    assert spec.quantization == "int4" and trained.weight_bits(spec) == 4 and "ranges" in variables
    sparsity = prune.layer_sparsity(variables["params"])
    assert all(abs(share - 0.5) < 0.05 for share in sparsity.values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quant__bits": 7}, "quant.bits must be .*, got 7"),
        ({"quant__bits": 8, "quant__observer": "minmax"}, r"unknown quant.observer 'minmax'\. Did you mean 'min_max'"),
        ({"quant__bits": 8, "quant__decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
        ({"quant__bit": 8}, r"unknown key in config.quant 'bit'\. Did you mean 'bits'"),
        ({"prune__sparsity": 1.0}, r"sparsity must be in \[0, 1\), got 1\.0"),
        ({"prune__sparsity": 0.5, "prune__rules": ("stm/",)}, "the rule 'stm/' matches no parameter"),
        ({"prune__sparsity": 0.999, "prune__distribution": "uniform"}, "sparsity 0.999 prunes all of "),
        (
            {"prune__sparsity": 0.5, "prune__ramp_epochs": 9.0},
            "prune.begin_epochs and prune.ramp_epochs .* got 0.0 and 9.0",
        ),
        (
            {"prune__sparsity": 0.5, "optim__stages": [[1, ["^head/"]], [None, [".*"]]]},
            r"optim\.stages\[0\] freezes conv1/conv/kernel while it is pruned",
        ),
        ({"init__network": True}, "init.network requires init.workdir"),
    ],
)
def test_a_mistake_is_said_before_anything_is_written(dense, tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        train(dense, tmp_path / "run", config(**changes))
    assert not (tmp_path / "run").exists()


def test_a_start_that_rounds_is_gone_on_with_rounding(rounded, tmp_path):
    folder, _ = rounded
    on = {"init__workdir": str(folder / "qat"), "fit__epochs": 1}
    with pytest.raises(InputError, match=r"set init.network=True"):
        train(folder, tmp_path / "run", config(**on))
    with pytest.raises(InputError, match=r"set quant\.bits=8"):
        train(folder, tmp_path / "run", config(**on, init__network=True))
    train(folder, tmp_path / "run", config(**on, init__network=True, quant__bits=8))
    assert checkpoint.read(tmp_path / "run")[0].spec.quantization == "qat"

"""Stages: what is frozen rests to the bit, what wakes up starts as if new, and a run resumes inside any stage."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ferjax import augment, models
from ferjax import prune as pruning
from ferjax.errors import InputError
from ferjax.evaluate.metrics import best_row
from ferjax.train import feed, optim
from ferjax.train import stages as train_stages
from ferjax.train.state import init_state
from ferjax.train.step import make_train_step
from ferjax.weights import checkpoint
from tests.support import tiny, tiny_networks, tiny_runs
from tests.support.resuming import Stop, files, stop_after

HEAD_FIRST = ((2, ("^head/",)), (None, (".*",)))
PIXELS = tiny.SIDE * tiny.SIDE


def variables():
    """A backbone with statistics of its own, and a head."""
    weights = np.random.default_rng(0).normal(0, 0.1, (PIXELS, tiny.CLASSES))
    return {
        "params": {
            "backbone": {"bn": {"scale": jnp.ones(PIXELS)}},
            "head": {"kernel": jnp.array(weights, jnp.float32), "bias": jnp.zeros(tiny.CLASSES)},
        },
        "batch_stats": {"backbone": {"bn": {"mean": jnp.zeros(PIXELS)}}},
    }


def apply_fn(variables, x, *, train, mutable=False, rngs=None):
    flat, mean = x.reshape(len(x), -1), variables["batch_stats"]["backbone"]["bn"]["mean"]
    if train:
        mean = 0.9 * mean + 0.1 * flat.mean(0)
    params = variables["params"]
    features = (flat - mean[None]) * params["backbone"]["bn"]["scale"][None]
    logits = features @ params["head"]["kernel"] + params["head"]["bias"][None]
    return (logits, {"batch_stats": {"backbone": {"bn": {"mean": mean}}}}) if mutable is not False else logits


def optimizer(name="adam", stages=HEAD_FIRST, epochs=5, **more):
    settings = {"learning_rate": 0.05, "schedule": "constant", **more}
    return optim.create(name, steps_per_epoch=6, epochs=epochs, stages=stages, **settings)


def fit(workdir, *, made=None, augment=None, **more):
    task = tiny.task(apply=apply_fn, augment=augment)
    return tiny_runs.fit(workdir, task=task, variables=variables(), optimizer=made or optimizer(), **more)


def test_stages_read_from_plain_values():
    plan = train_stages.create_stages(
        json.loads(json.dumps([[5, ["^head/"]], [None, ["^head/", "^layer4_"], 0.1]])), epochs=50
    )
    assert plan == (
        train_stages.Stage(0, 0, ("^head/",), 1.0),
        train_stages.Stage(1, 5, ("^head/", "^layer4_"), 0.1),
    )
    assert optim.create(learning_rate=1.0, steps_per_epoch=1, epochs=1).stages == (train_stages.WHOLE,)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (((5,),), r"stages\[0\] must be \(epochs, rules\)"),
        (((5, "head"),), r"stages\[0\] must be"),
        ((5,), r"stages\[0\] must be .*got 5"),
        (((5, ()),), r"stages\[0\] must be"),
        (((None, (".*",)), (5, (".*",))), r"stages\[0\] must have .*None only in the last"),
        (((0, (".*",)), (None, (".*",))), r"stages\[0\] must have"),
        (((10, (".*",)), (None, (".*",))), r"stages\[1\] must have .*the run's 10.* after 10 epochs"),
        (((5, (".*",), 0.0), (None, (".*",))), "a factor above 0"),
        (((5, (".*",)), (4, (".*",))), "cover 9 of the run's 10 epochs"),
        ((("5", (".*",)), (None, (".*",))), r"stages\[0\] must have a whole number .*got \('5', "),
        (((2.5, (".*",)), (7.5, (".*",))), r"stages\[0\] must have a whole number .*got \(2\.5, "),
        (((True, (".*",)), (9, (".*",))), r"stages\[0\] must have a whole number"),
        (((5, (".*",), "0.1"), (None, (".*",))), "a factor above 0"),
        (((5, (7,)), (None, (".*",))), r"stages\[0\] must be \(epochs, rules\)"),
        (((5, 7), (None, (".*",))), r"stages\[0\] must be \(epochs, rules\)"),
    ],
)
def test_stages_that_make_no_sense_are_named(stages, message):
    with pytest.raises(InputError, match=message):
        optimizer(stages=stages, epochs=10)


def test_a_rule_that_finds_nothing_is_named_before_anything_is_trained(tmp_path):
    made = optimizer(stages=((4, ("^head/",)), (None, ("^head/", "^layer9_"))))
    with pytest.raises(InputError, match=r"'\^layer9_' matches no parameter.*backbone/bn/scale"):
        fit(tmp_path, made=made)
    assert not (tmp_path / "metrics.jsonl").exists()


WHOLE_FIRST = ((2, (".*",)), (None, ("^head/",)))


def prune(made, **more):
    return optim.prune(made, steps_per_epoch=6, epochs=5, **{"sparsity": 0.5, "rules": ("kernel$", "scale$"), **more})


@pytest.mark.parametrize(
    ("stages", "settings", "frozen_in"),
    [
        (HEAD_FIRST, {}, 0),
        (HEAD_FIRST, {"begin_epochs": 1.9, "ramp_epochs": 1.0}, 0),
        (HEAD_FIRST, {"begin_epochs": 2.0, "ramp_epochs": 3.0}, None),
        (HEAD_FIRST, {"keep": ("scale$",)}, None),
        (WHOLE_FIRST, {"ramp_epochs": 2.0}, 1),
        (WHOLE_FIRST, {"ramp_epochs": 1.8}, None),
        (((None, ("^head/",)),), {}, 0),
        ((), {}, None),
    ],
)
def test_nothing_is_pruned_while_a_stage_freezes_it(stages, settings, frozen_in):
    made = prune(optimizer(stages=stages), **settings)
    if frozen_in is None:
        made.tx.init(variables()["params"])
        return
    said = rf"optim\.stages\[{frozen_in}\] freezes backbone/bn/scale while it is pruned .*prune\.keep.*begin_epochs"
    with pytest.raises(InputError, match=said):
        made.tx.init(variables()["params"])


def test_what_goes_with_a_pruned_filter_has_to_be_trained_too():
    layer = {"conv": {"kernel": jnp.ones((3, 3, 2, 4))}, "bn": {"scale": jnp.ones(4)}}
    made = prune(optimizer(stages=((None, ("kernel$",)),)), rules=("kernel$",), structure="filter")
    with pytest.raises(InputError, match="freezes a/bn/scale while"):
        made.tx.init({"a": layer})
    zeros = prune(optimizer(stages=((None, ("bn/",)),)), rules=("kernel$",), sparsity=0.0, keep_zeros=True)
    zeros.tx.init({"a": layer})  # what is zero and frozen stays zero


def test_what_was_pruned_and_is_frozen_later_is_zero_in_parameters_and_average():
    made = prune(optimizer(stages=WHOLE_FIRST))
    state = init_state(variables(), made.tx, ema=True)
    for stage in made.stages:
        step = make_train_step(tiny.task(apply=apply_fn), made.tx, ema_decay=0.9, stage=stage)
        for seed in range(2):
            state, _ = jax.jit(step)(state, tiny.faces(8, seed=seed))
    masks = pruning.find_masks(state.opt_state)
    assert float(pruning.masked_share(masks)) == 0.5
    for name, mask in masks.items():
        for tree in (state.params, state.ema["params"]):
            np.testing.assert_array_equal(pruning.layers.flat(tree)[name] != 0, mask)


def test_statistics_rest_with_the_parameters_of_their_module():
    params = {"stem": {"conv": {"kernel": 0}, "bn": {"scale": 0, "bias": 0}}, "plain": {"conv": {"kernel": 0}}, "w": 0}
    statistics = {
        "batch_stats": {"stem": {"bn": {"mean": 0}}, "plain": {"bn": {"mean": 0}}, "mean": 0},
        "ranges": {"stem": {"conv": {"kernel": 0}}},
    }

    def marks(*rules):
        return train_stages.trained(train_stages.Stage(trainable=rules), params, statistics)[1]

    # stem/bn has parameters of its own; plain/bn has none, so that plain decides; the last one is the network's.
    assert marks("stem/bn/bias") == {
        "batch_stats": {"stem": {"bn": {"mean": True}}, "plain": {"bn": {"mean": False}}, "mean": True},
        "ranges": {"stem": {"conv": {"kernel": False}}},
    }
    found = marks("^plain/", "^stem/conv/")
    assert found["batch_stats"] == {"stem": {"bn": {"mean": False}}, "plain": {"bn": {"mean": True}}, "mean": True}
    assert train_stages.frozen_modules(found) == {"stem": {"bn": {"mean": True}}}
    assert train_stages.frozen_modules(marks(".*")) == {}


GRADS = jax.tree.map(lambda p: jnp.full_like(p, 0.3), variables()["params"])


def trace(made, steps_by_stage, params=None):
    """Parameters after each update by the same gradient, stage by stage."""
    params = variables()["params"] if params is None else params
    state, found = made.tx.init(params), []
    for stage, steps in zip(made.stages, steps_by_stage, strict=True):
        for _ in range(steps):
            updates, state = made.tx.update(GRADS, state, params, stage=stage)
            params = optax.apply_updates(params, updates)
            found.append(params)
    return found


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_what_wakes_up_moves_as_if_new_and_what_went_on_as_if_nothing_happened(name):
    settings = {"weight_decay": 0.1}
    found = trace(optimizer(name, **settings), (4, 3))
    plain = trace(optimizer(name, stages=(), **settings), (7,))
    backbones = [f["backbone"] for f in found]
    chex.assert_trees_all_equal(*[variables()["params"]["backbone"], *backbones[:4]])
    chex.assert_trees_all_close(backbones[4:], [p["backbone"] for p in plain[:3]], rtol=1e-6)
    chex.assert_trees_all_close([f["head"] for f in found], [p["head"] for p in plain], rtol=1e-6)


def test_what_no_stage_trains_never_moves_and_what_is_frozen_again_keeps_its_moments():
    rules = ((1, ("^head/kernel",)), (1, ("bn/scale",)), (None, ("^head/kernel",), 0.5))
    made = optimizer("adam", stages=rules, epochs=3, weight_decay=0.1)
    found = trace(made, (2, 5, 1))
    plain = trace(optimizer("adam", stages=(), weight_decay=0.1), (3,))
    chex.assert_trees_all_equal(found[-1]["head"]["bias"], variables()["params"]["head"]["bias"])
    kernels = [f["head"]["kernel"] for f in found]
    chex.assert_trees_all_equal(*kernels[1:7])
    chex.assert_trees_all_equal(found[7]["backbone"], found[6]["backbone"])
    # The third update of the kernel is that of an unstaged run, halved by the stage's factor.
    step = plain[2]["head"]["kernel"] - plain[1]["head"]["kernel"]
    np.testing.assert_allclose(kernels[7] - kernels[6], 0.5 * step, rtol=1e-4)


def test_clipping_looks_at_what_is_trained_only(strict_dtypes):
    made = optimizer("sgd", learning_rate=1.0, clip_norm=0.1)
    step = make_train_step(tiny.task(apply=apply_fn), made.tx, stage=made.stages[0])
    state = init_state(variables(), made.tx)
    new, sums = jax.jit(step)(state, tiny.faces(8))
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, new.params, state.params))
    np.testing.assert_allclose(float(moved), 1.9 * 0.1, rtol=1e-4)  # Nesterov's first step is 1 + 0.9
    np.testing.assert_allclose(float(sums.update_norm), 1.9 * 0.1, rtol=1e-4)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_step_leaves_frozen_parameters_statistics_and_their_average_to_the_bit(name):
    made = optimizer(name, weight_decay=0.1)
    steps = [make_train_step(tiny.task(apply=apply_fn), made.tx, ema_decay=0.9, stage=stage) for stage in made.stages]
    start = init_state(variables(), made.tx, ema=True)
    start.params["backbone"]["bn"]["scale"] = start.ema["params"]["backbone"]["bn"]["scale"] = jnp.linspace(
        -1, 1, PIXELS
    )
    state = start
    for seed in range(3):
        state, _ = jax.jit(steps[0])(state, tiny.faces(8, seed=seed))
    for tree in ("params", "collections"):
        chex.assert_trees_all_equal(_backbone(getattr(state, tree)), _backbone(getattr(start, tree)))
    chex.assert_trees_all_equal(_backbone(state.ema["params"]), _backbone(start.params))
    assert not np.array_equal(state.params["head"]["kernel"], start.params["head"]["kernel"])
    state, _ = jax.jit(steps[1])(state, tiny.faces(8))
    for tree in ("params", "collections"):
        assert not np.array_equal(
            *map(jax.tree.leaves, (_backbone(getattr(state, tree)), _backbone(getattr(start, tree))))
        )


def _backbone(tree):
    return tree["backbone"] if "backbone" in tree else tree["batch_stats"]["backbone"]


@pytest.fixture(scope="module")
def network():
    module = models.create("resnet20", num_classes=3, depths=(1, 1), widths=(4, 8), stem_width=4, head_hidden=(6,))
    shape = (12, 12, 1)
    return module, tiny_networks.variables(module, shape), tiny_networks.images(shape, count=8)


def test_a_frozen_backbone_computes_as_in_evaluation_and_its_head_as_in_training(network):
    module, made, x = network
    stage = train_stages.Stage(trainable=("^head/",))
    _, statistics = train_stages.trained(stage, made["params"], {"batch_stats": made["batch_stats"]})
    resting = train_stages.frozen_modules(statistics)
    wanted = ["intermediates", "batch_stats"]
    _, changed = module.apply({**made, "frozen": resting}, x, train=True, mutable=wanted)
    _, still = module.apply(made, x, train=False, mutable=wanted)
    _, moving = module.apply(made, x, train=True, mutable=wanted)
    embedding = [s["intermediates"]["embedding"][0] for s in (changed, still, moving)]
    np.testing.assert_array_equal(embedding[0], embedding[1])
    assert np.abs(embedding[0] - embedding[2]).max() > 0.01
    kept, given = dict(changed["batch_stats"]), dict(made["batch_stats"])
    assert not np.array_equal(kept.pop("head")["hidden1"]["bn"]["mean"], given.pop("head")["hidden1"]["bn"]["mean"])
    chex.assert_trees_all_equal(kept, given)


def test_a_frozen_backbone_costs_no_backward_pass(network):
    module, made, x = network
    made = {"params": made["params"], "batch_stats": made["batch_stats"]}
    optimizer_ = optimizer("sgd")
    batch = {"images": jnp.zeros(x.shape, jnp.uint8), "labels": jnp.zeros(len(x), jnp.int32)}

    def flops(stage):
        step = make_train_step(tiny.task(apply=module.apply), optimizer_.tx, stage=stage)
        state = init_state(made, optimizer_.tx)
        return jax.jit(step).lower(state, batch).compile().cost_analysis()["flops"]

    # A backward pass costs about twice the forward one.
    assert flops(optimizer_.stages[0]) < 0.5 * flops(optimizer_.stages[1])


# A save after each of 6 steps an epoch, and two more for its end: 3 is in the first stage, 17 early in the second.
@pytest.mark.parametrize("saves", [3, 17])
def test_a_run_stopped_in_any_stage_resumes_to_the_bit(tmp_path, monkeypatch, saves):
    settings = {"augment": augment.create(flip=0.5), "ema_decay": 0.9, "epochs": 4}

    def run(name, **more):
        made = optimizer(epochs=4, weight_decay=0.01, stages=((2, ("^head/",)), (None, (".*",), 0.5)))
        return fit(tmp_path / name, made=made, **settings, **more)

    run("whole")
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(checkpoint, "save", stop_after(checkpoint.save, saves))
        run("cut", checkpoint_minutes=0.0)
    run("cut")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_each_stage_compiles_one_step_and_the_backbone_moves_in_the_second(tmp_path, monkeypatch):
    runs, make = [], feed.make_resident_steps
    monkeypatch.setattr(feed, "make_resident_steps", lambda *a, **k: runs.append(make(*a, **k)) or runs[-1])
    seen = []
    stages = ((2, ("^head/",)), (None, (".*",), 0.5))
    made = optimizer(stages=stages)

    def note(history):
        seen.append(checkpoint.read(tmp_path, "last")[0].variables["params"]["backbone"]["bn"]["scale"])

    history = fit(tmp_path, made=made, on_epoch=note).history
    assert [run._cache_size() for run in runs] == [1, 1]
    moved = [not np.array_equal(scale, np.ones(PIXELS)) for scale in seen]
    assert moved == [False, False, True, True, True]
    assert [row["learning_rate"] for row in history] == pytest.approx([0.05, 0.05, 0.025, 0.025, 0.025])


def test_patience_waits_for_the_last_stage(tmp_path):
    made = optimizer(epochs=20, learning_rate=1e-12, stages=((8, ("^head/",)), (None, ("^head/",))))
    history = fit(tmp_path, made=made, epochs=20, patience=3).history
    assert best_row(history)["epoch"] == 1 and len(history) == 8 + 3

"""Runs of one small network, for test_scale.py: on simulated devices, or as one of two processes.

    python tests/support/scale.py devices FOLDER                                 all comparisons of 1, 2, 8 devices
    python tests/support/scale.py process NUMBER PORT WORKDIR EPOCHS [PAUSE_AT]  one of two processes

An epoch is one step, so that the history holds the loss of every step. Images are flipped, the network has a
convolution, batch normalisation and dropout, and the validation set divides by no number of devices.
"""

import json
import pathlib
import sys
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ferjax import augment, devices, losses, models
from ferjax.evaluate import inference
from ferjax.spec import ModelSpec
from ferjax.train import distributed, loop, optim
from ferjax.train import feed as train_feed
from ferjax.train.monitor import Monitor
from ferjax.train.options import FitOptions
from ferjax.train.sampling import sampler
from ferjax.train.state import Sums, init_state
from ferjax.train.step import Task, make_train_step
from ferjax.weights import Trained, checkpoint

STEPS, BATCH, SIDE = 20, 16, 8
PAUSE = 5  # seconds
CLASSES = ("a", "b", "c")


def faces(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(CLASSES), count).astype(np.int32)
    images = rng.integers(0, 160, (count, SIDE, SIDE, 1)).astype(np.uint8)
    images[np.arange(count), labels] += 60
    return {"images": images, "labels": labels}


TRAIN, VALIDATION = faces(29, 1), faces(13, 2)
SPEC = ModelSpec(
    class_names=CLASSES,
    input_size=(SIDE, SIDE),
    color_order="gray",
    mean=(0.5,),
    std=(0.25,),
    architecture="baseline_cnn5",
)


def network(dtype):
    """Returns the network and its variables, computing in float64 or float32."""
    module = models.create("baseline_cnn5", num_classes=len(CLASSES), widths=[8], head_dropout=0.25, dtype=dtype)
    init = jax.jit(lambda key, x: module.init(key, x, train=False))
    variables = init(jax.random.key(0), np.zeros((1, SIDE, SIDE, 1), np.float32))
    wide = jnp.result_type(float)  # what is stored; float64 where JAX is told to compute in it
    return module.apply, jax.tree.map(lambda a: np.asarray(a, wide), dict(variables))


def fit(workdir, count=1, *, epochs=STEPS, accumulate=1, mesh=None, **shown):
    apply_fn, variables = network(jnp.result_type(float))
    optimizer = optim.create("sgd", learning_rate=0.05, weight_decay=1e-3, steps_per_epoch=1, epochs=STEPS)
    return loop.fit(
        Task(apply_fn, losses.cross_entropy, SPEC, augment.create(flip=0.5)),
        variables,
        optimizer,
        FitOptions(epochs=epochs, batch_size=BATCH, eval_batch_size=5, accumulate=accumulate),
        train=TRAIN,
        validation=VALIDATION,
        workdir=pathlib.Path(workdir),
        mesh=mesh or devices.mesh(count),
        monitor=Monitor(progress=False, **shown),
    )


def unsaved(*arguments, **more):
    """Returns the history of a run and its variables, without writing the checkpoints, which take most of the time."""
    kept = {}

    def keep(workdir, kind, step, tree, meta, *, keep):
        kept[kind] = tree

    with mock.patch.multiple(checkpoint, save=keep, read=lambda _: (Trained(SPEC, kept["best"]), {})):
        result = fit(*arguments, **more)
    return result.history, kept["last"]["collections"]


def one_gradient(count):
    """Returns the gradient of one step in float32, flattened."""
    apply_fn, variables = network(jnp.float32)
    kept = optax.GradientTransformation(lambda p: jax.tree.map(jnp.zeros_like, p), lambda g, state, params=None: (g, g))
    step = make_train_step(Task(apply_fn, losses.cross_entropy, SPEC), kept)
    mesh, order_of = devices.mesh(count), sampler("shuffled", TRAIN["labels"], CLASSES, seed=0)
    feed = train_feed.create(
        TRAIN,
        {"labels": TRAIN["labels"]},
        order_of,
        batch_size=BATCH,
        steps_per_epoch=1,
        epochs=1,
        steps_per_dispatch=1,
        mesh=mesh,
    )
    start = devices.replicate((init_state(variables, kept), Sums.zero()), mesh, may_alias=False)
    ((_, arguments),) = feed.dispatches(0, 1)
    state, _, _ = feed.compile(step)(*start, *arguments, steps=1)
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.opt_state)])


def main_devices(folder):
    """Writes results.json and results.npz: what the test compares."""
    rows, arrays = {}, {}
    with jax.enable_x64(True):
        for count in (1, 2, 8):
            rows[f"devices{count}"], statistics = unsaved(folder / "x", count)
            for i, leaf in enumerate(jax.tree.leaves(statistics)):
                arrays[f"statistics{i}_{count}"] = leaf
        for count in (1, 8):
            rows[f"accumulated{count}"], _ = unsaved(folder / "x", count, accumulate=2, epochs=3)
        fit(folder / "moved", 8, epochs=3)
        rows["moved"] = fit(folder / "moved", 2, epochs=6).history
        apply_fn, variables = network(jnp.float64)
        for count in (1, 8):
            mesh = devices.mesh(count)
            step = inference.make_eval_step(apply_fn, mean=SPEC.mean, std=SPEC.std, mesh=mesh)
            arrays[f"logits{count}"] = inference.predict(
                step, devices.replicate(variables, mesh), VALIDATION["images"], batch_size=5, mesh=mesh
            )
    for count in (1, 2, 8):
        arrays[f"gradient{count}"] = one_gradient(count)
    np.savez(folder / "results.npz", **arrays)
    (folder / "results.json").write_text(json.dumps(rows))


def main_process(number, port, workdir, epochs, pause_at=0):
    """Trains as one of two; process 0 prints where it is, and pauses once, for a test that stops one of them there."""

    def on_epoch(history):
        print(f"epoch {len(history)}", flush=True)
        if len(history) == int(pause_at):
            time.sleep(PAUSE)

    with distributed.joined(f"127.0.0.1:{port}", 2, int(number)):
        assert jax.device_count() == 2 and jax.local_device_count() == 1
        fit(workdir, mesh=devices.mesh(), epochs=int(epochs), on_epoch=on_epoch, profile=2)


if __name__ == "__main__":
    jax.config.update("jax_numpy_rank_promotion", "raise")
    if sys.argv[1] == "devices":
        main_devices(pathlib.Path(sys.argv[2]))
    else:
        with jax.enable_x64(True):
            main_process(*sys.argv[2:])

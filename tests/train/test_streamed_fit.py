"""Training on images that stay on disk is training on the same images in memory, and resumes to the bit."""

import dataclasses

import jax
import numpy as np
import pytest

from ferjax import augment, devices
from ferjax.data import on_disk
from ferjax.train import feed as train_feed
from ferjax.train.sampling import sampler
from ferjax.train.state import Sums
from ferjax.weights import checkpoint
from tests.support import tiny
from tests.support.resuming import Stop, files, stop_after
from tests.support.tiny_runs import fit

COUNT, BATCH, EPOCHS = 50, 8, 3
STEPS = COUNT // BATCH


@pytest.fixture
def stored(tmp_path):
    """Returns the training set with its images on disk, read by so many processes."""
    faces = tiny.faces(COUNT)
    np.save(tmp_path / "images.npy", faces["images"])
    images = on_disk.open_array(tmp_path / "images.npy")
    return lambda workers=0: {**faces, "images": dataclasses.replace(images, workers=workers)}


def batches_of(train, sampling, seed, first):
    """Returns what reaches the step from the step `first` on, to the end of the run."""
    columns = {"labels": train["labels"], "targets": np.eye(tiny.CLASSES, dtype=np.float32)[train["labels"]]}
    feed = train_feed.create(
        train,
        columns,
        sampler(sampling, train["labels"], tiny.SPEC.class_names, seed=seed),
        batch_size=BATCH,
        steps_per_epoch=STEPS,
        epochs=EPOCHS,
        steps_per_dispatch=1,
        mesh=devices.mesh(1),
    )
    run, found = feed.compile(lambda _, batch: (batch, Sums.zero())), []
    for epoch in range(first // STEPS, EPOCHS):
        for steps, arguments in feed.dispatches(max(first, epoch * STEPS), (epoch + 1) * STEPS):
            batch, _, _ = run({}, Sums.zero(), *arguments, steps=steps)
            found.append(jax.device_get(batch))
    feed.close()
    return found


@pytest.mark.parametrize("sampling", ["shuffled", "balanced"])
@pytest.mark.parametrize("first", [0, STEPS + 2])
def test_the_step_is_given_the_same_batches_from_disk_as_from_memory(stored, sampling, first):
    resident = batches_of(tiny.faces(COUNT), sampling, 3, first)
    streamed = batches_of(stored(), sampling, 3, first)
    assert len(resident) == len(streamed) == EPOCHS * STEPS - first
    for expected, batch in zip(resident, streamed, strict=True):
        assert expected.keys() == batch.keys() == {"images", "labels", "targets"}
        for key in expected:
            np.testing.assert_array_equal(batch[key], expected[key])
    other = batches_of(stored(), sampling, 4, first)
    assert any((a["images"] != b["images"]).any() for a, b in zip(streamed, other, strict=True))


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_the_step_is_compiled_with_the_options(stored, tmp_path, where):
    train = stored() if where == "disk" else tiny.faces(COUNT)
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option: 'xla_faster'"):
        fit(tmp_path, train=train, task=tiny.task(compiler_options={"xla_faster": True}))


@pytest.mark.parametrize(("sampling", "ema_decay", "workers"), [("shuffled", 0.0, 0), ("balanced", 0.9, 1)])
def test_a_streamed_run_has_the_losses_and_the_parameters_of_the_resident_one(
    stored, tmp_path, sampling, ema_decay, workers
):
    settings = {
        "task": tiny.task(augment=augment.create(flip=0.5, erase=0.5)),
        "epochs": EPOCHS,
        "sampling": sampling,
        "ema_decay": ema_decay,
    }
    resident = fit(tmp_path / "resident", **settings)
    streamed = fit(tmp_path / "streamed", train=stored(workers), **settings)
    for expected, row in zip(resident.history, streamed.history, strict=True):
        assert row == pytest.approx(expected, rel=1e-5)  # two programs may add in another order
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), resident.variables, streamed.variables
    )
    other = fit(tmp_path / "other", train=stored(), **settings, seed=1)
    assert other.history[0]["train_loss"] != pytest.approx(resident.history[0]["train_loss"], rel=1e-5)


@pytest.mark.parametrize(("saves", "workers"), [(4, 0), (11, 1)])
def test_a_streamed_run_stopped_in_the_middle_resumes_to_the_bit(stored, tmp_path, monkeypatch, saves, workers):
    settings = {"task": tiny.task(augment=augment.create(flip=0.5)), "epochs": EPOCHS}
    fit(tmp_path / "whole", train=stored(), **settings)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(checkpoint, "save", stop_after(checkpoint.save, saves))
        fit(tmp_path / "cut", train=stored(workers), checkpoint_minutes=0.0, **settings)  # saves after every step
    fit(tmp_path / "cut", train=stored(), **settings)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")

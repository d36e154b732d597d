"""Stored views: drawn once, with the teacher's answers, and in turn all."""

import dataclasses
import functools
import os
import time

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax import augment, data
from ferjax.data import on_disk
from ferjax.errors import InputError
from ferjax.train import sampling, stored_views
from ferjax.train import teacher as train_teacher
from ferjax.weights import checkpoint
from tests.support.experiments import SMALL
from tests.support.teaching import config, distill


def test_stored_views_are_answered_as_they_are_stored_and_drawn_once(teachers, tmp_path, monkeypatch):
    spec = checkpoint.read(teachers / "a")[0].spec
    made = train_teacher.load([teachers / "a"], spec=spec)
    images = data.load(data_dir=teachers / "data", **SMALL["data"]).splits["train"].images[:10]

    def store(views, resident_bytes=data.RESIDENT_BYTES):
        return stored_views.store(
            images,
            made._replace(stored_views=views),
            augment.create(flip=0.5, rotate=20.0),
            folder=tmp_path / "views",
            batch_size=4,
            resident_bytes=resident_bytes,
        )

    pixels, logits = store(views=2)
    assert pixels.shape == (20, 24, 24, 1) and pixels.dtype == np.uint8 and logits.dtype == np.float16
    assert not np.array_equal(pixels[:10], pixels[10:]) and not np.array_equal(pixels[:10], images)
    answers = made.apply(made.variables, {"images": jnp.array(pixels / 255, jnp.float32)}).logits
    np.testing.assert_allclose(logits, answers, atol=2e-3)
    first = (tmp_path / "views" / "view000.npy").stat().st_mtime_ns
    more, _ = store(views=3)
    np.testing.assert_array_equal(more[:20], pixels)
    assert (tmp_path / "views" / "view000.npy").stat().st_mtime_ns == first
    here, _ = store(views=3, resident_bytes=more.nbytes - 1)
    assert isinstance(here, on_disk.DiskImages) and isinstance(more, np.ndarray)
    np.testing.assert_array_equal(here, more)
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(np, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        store(views=4)
    assert not [path for path in (tmp_path / "views").iterdir() if "part" in path.name]
    os.truncate(tmp_path / "views" / "view001.npy", 1000)
    with pytest.raises(InputError, match=r"stored views in .*views are damaged \(.*view001\.npy.*\)"):
        store(views=2)


def test_what_a_killed_drawing_left_is_removed_after_a_day(teachers, tmp_path):
    ages = {".view000.part17.npy": 2, ".view000_logits.part17.npy": 2, ".view001.part18.npy": 0.01, "view009.npy": 2}
    for name, days in ages.items():
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - 86400 * days,) * 2)
    spec = checkpoint.read(teachers / "a")[0].spec
    made = train_teacher.load([teachers / "a"], spec=spec)
    stored_views.store(
        np.zeros((2, *spec.input_shape), np.uint8),
        made._replace(stored_views=1),
        augment.create(),
        folder=tmp_path,
        resident_bytes=data.RESIDENT_BYTES,
    )
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".view001.part18.npy", "view000.npy", "view000_logits.npy", "view009.npy"]


def test_a_teacher_of_another_precision_or_of_other_views_answers_anew(teachers, tmp_path, monkeypatch):
    folders = []

    def stop(*_, folder, **__):
        folders.append(folder.name)
        raise InputError("seen")

    monkeypatch.setattr(stored_views, "store", stop)
    plain = ({}, {"model__dtype": "float32"}, {"teacher__tta": "one"})
    for more in (*plain, {"model__dtype": "bfloat16"}, {"teacher__tta": "flip"}):
        with pytest.raises(InputError, match="seen"):
            made = config(loss__alpha=0.5, **more)
            made["teacher"] = {**made.get("teacher", {}), "stored_views": 1}
            distill(teachers, tmp_path / "run", made)
    assert folders[0] == folders[1] == folders[2] and len({*folders}) == 3
    checkpoint.calibrate(teachers / "a", temperature=2.0, abstention_threshold=0.5)  # what changes no logit
    with pytest.raises(InputError, match="seen"):
        distill(teachers, tmp_path / "run", config(loss__alpha=0.5, teacher__stored_views=1))
    (teachers / "a" / "calibration.json").unlink()
    assert folders[-1] == folders[0]


def test_faults_are_in_the_stored_views_unless_the_teacher_sees_clean_images(teachers, tmp_path, monkeypatch, stopped):
    store, drawn = stored_views.store, []
    monkeypatch.setattr(stored_views, "store", lambda *a, **k: drawn.append(store(*a, **k)[0]) or store(*a, **k))
    plain = {"teacher__stored_views": 1, "loss__alpha": 0.5, "fit__epochs": 1}
    for name, more in {
        "plain": {},
        "faulty": {"camera__probability": 1.0},
        "clean": {"camera__probability": 1.0, "teacher__clean": True},
    }.items():
        with pytest.raises(KeyboardInterrupt):
            distill(teachers, tmp_path / name, config(**plain, **more))
    plain, faulty, clean = drawn
    np.testing.assert_array_equal(clean, plain)
    assert (np.abs(faulty.astype(int) - plain).max((1, 2, 3)) > 5).all()
    assert [task.camera is not None for task in stopped] == [False, False, True]


def test_the_votes_of_an_image_go_with_its_views(teachers, tmp_path, monkeypatch):
    load = data.load

    @functools.wraps(load)
    def with_votes(*args, **options):
        faces = load(*args, **options)
        train = faces.splits["train"]
        votes = np.eye(len(faces.class_names), dtype=np.float32)[train.labels]
        return dataclasses.replace(faces, splits={**faces.splits, "train": train._replace(columns={"votes": votes})})

    monkeypatch.setattr(data, "load", with_votes)
    made = {"teacher__stored_views": 2, "loss__alpha": 0.5, "fit__epochs": 1}
    by_label, by_votes = (
        distill(teachers, tmp_path / f"run{targets}", config(**made, fit__targets=targets)).history
        for targets in ("", "votes")
    )
    assert by_votes[0]["train_loss"] == pytest.approx(by_label[0]["train_loss"], rel=1e-6)


def test_every_epoch_takes_one_view_of_each_image_and_in_turn_all():
    shuffled = np.array([2, 0, 3, 1])
    order_of = functools.partial(sampling.view_order, lambda epoch: shuffled, 3)
    orders = [order_of(e) for e in range(3)]
    np.testing.assert_array_equal(np.sort(np.concatenate(orders)), np.arange(12))
    for order in orders:
        np.testing.assert_array_equal(order % 4, shuffled)


def test_a_run_on_stored_views_learns_from_the_stored_answers(teachers, tmp_path):
    made = config(teacher__stored_views=2, loss__alpha=0.5)
    first = distill(teachers, tmp_path / "run", made)
    assert len(first.history) == 2 and all(0 <= r["teacher_agreement"] <= 1 for r in first.history)
    again = distill(teachers, tmp_path / "again", made)
    chex.assert_trees_all_equal(first.variables, again.variables)
    on_disk_too = config(teacher__stored_views=2, loss__alpha=0.5, data__resident_bytes=1)
    streamed = distill(teachers, tmp_path / "streamed", on_disk_too)
    chex.assert_trees_all_close(first.variables, streamed.variables, rtol=1e-4, atol=1e-5)
    for bad in ({"augment__mixup": 0.2}, {"loss__features": ["stage1:stage1"], "loss__feature_weight": 1.0}):
        with pytest.raises(InputError, match=r"augment\.mixup.*0\.2|loss\.features"):
            distill(teachers, tmp_path / "bad", config(teacher__stored_views=2, **bad))


def test_views_that_take_more_than_was_asked_stay_on_disk(teachers, tmp_path, monkeypatch):
    images = data.load(data_dir=teachers / "data", **SMALL["data"]).splits["train"].images
    store, given = stored_views.store, []
    monkeypatch.setattr(stored_views, "store", lambda *a, **k: given.append(store(*a, **k)) or given[-1])
    distill(teachers, tmp_path, config(teacher__stored_views=2, loss__alpha=0.5, data__resident_bytes=images.nbytes))
    ((views, _),) = given
    assert isinstance(images, np.ndarray) and isinstance(views, on_disk.DiskImages)

import multiprocessing
import os
import re

import numpy as np
import pytest

from ferjax.data import EXPRESSIONS, FaceData, load
from ferjax.data.loading import prepared
from ferjax.data.on_disk import DiskImages
from ferjax.data.prepare.pipeline import prepare
from ferjax.errors import InputError
from tests.support.data_layouts import fer2013_files, write_zip

SMALL = {"train": 14, "validation": 7, "test": 8, "size": 24}


@pytest.fixture(scope="module")
def faces_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    load("synthetic_faces", folder, **SMALL)
    return folder


@pytest.fixture(scope="module")
def fer_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fer")
    prepare("fer2013", write_zip(folder / "fer2013.zip", fer2013_files()), folder)
    return folder


def test_synthetic_faces_are_rendered_on_first_load(faces_dir):
    data = load("synthetic_faces", faces_dir, ("train", "test"), **SMALL)
    assert isinstance(data, FaceData) and data.class_names == EXPRESSIONS
    assert data.image_shape == (24, 24, 1) and list(data.splits) == ["train", "test"]
    train = data.splits["train"]
    assert train.images.shape == (14, 24, 24, 1) and train.images.dtype == np.uint8
    np.testing.assert_array_equal(data.class_counts("train"), [2] * 7)
    np.testing.assert_array_equal(data.class_counts("test"), [2, 1, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(data.mean, train.images.mean() / 255)


def test_the_second_load_reads_the_cache(faces_dir, monkeypatch):
    from ferjax.data.synthetic import rendering

    monkeypatch.setattr(rendering, "render_faces", None)
    assert load("synthetic_faces", faces_dir, **SMALL).sha256


def test_the_two_lists_of_expressions_agree():
    from ferjax.data.synthetic.action_units import EXPRESSIONS

    assert EXPRESSIONS == EXPRESSIONS


def test_different_options_are_different_data(faces_dir):
    first = load("synthetic_faces", faces_dir, **SMALL)
    other = load("synthetic_faces", faces_dir, **SMALL | {"seed": 1, "channels": 3})
    assert other.image_shape == (24, 24, 3) and other.sha256 != first.sha256
    assert len(list(faces_dir.glob("synthetic_faces-*"))) == 2


def draw(folder, out):
    out.put(load("synthetic_faces", folder, **SMALL).sha256)


def test_two_processes_that_render_at_once_agree(tmp_path, faces_dir):
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    workers = [context.Process(target=draw, args=(tmp_path, out)) for _ in range(2)]
    for worker in workers:
        worker.start()
    hashes = {out.get(timeout=120) for _ in workers}
    for worker in workers:
        worker.join()
    assert hashes == {load("synthetic_faces", faces_dir, **SMALL).sha256}
    assert [p.name.split("-")[0] for p in tmp_path.iterdir()] == ["synthetic_faces"]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"sized": 48}, r"unknown option of synthetic_faces 'sized'\. Did you mean 'size'"),
        ({"size": 8}, "size must be an integer of at least 24, got 8"),
        ({"size": 48.0}, r"size must be an integer of at least 24, got 48\.0"),
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
        ({"train": 6}, "train must be an integer of at least 7, got 6"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
    ],
)
def test_invalid_options_are_named(tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        load("synthetic_faces", tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_test_all_is_validation_and_test(fer_dir):
    splits = load("fer2013", fer_dir, ("validation", "test", "test_all")).splits
    both = splits["test_all"]
    np.testing.assert_array_equal(both.images[:7], splits["validation"].images)
    np.testing.assert_array_equal(both.images[7:], splits["test"].images)
    np.testing.assert_array_equal(both.labels, [*splits["validation"].labels, *splits["test"].labels])
    assert both.names == splits["validation"].names + splits["test"].names
    assert both.columns["twin_in_train"].shape == (14,)


def test_only_requested_splits_are_read(fer_dir, monkeypatch):
    from ferjax.data import store

    read, seen = store.read_split, []
    monkeypatch.setattr(store, "read_split", lambda folder, **more: seen.append(folder.name) or read(folder, **more))
    load("fer2013", fer_dir)
    assert seen == ["train", "validation"]


def test_data_larger_than_the_budget_stay_on_disk(fer_dir):
    for options in ({}, {"size": 24, "channels": 3}, {"without": "happy"}):
        splits = ("train", "validation", "test_all")
        here = load("fer2013", fer_dir, splits, **options)
        there = load("fer2013", fer_dir, splits, resident_bytes=0, workers=3, **options)
        assert there.class_names == here.class_names and there.image_shape == here.image_shape
        for split in splits:
            found, expected = there.splits[split], here.splits[split]
            assert isinstance(found.images, DiskImages) and isinstance(expected.images, np.ndarray)
            assert found.images.workers == 3 and found.images.shape == expected.images.shape
            np.testing.assert_array_equal(found.images, expected.images)
            np.testing.assert_array_equal(found.labels, expected.labels)


def test_the_budget_applies_to_the_requested_size(fer_dir):
    small = load("fer2013", fer_dir).splits["train"].images
    assert isinstance(load("fer2013", fer_dir, resident_bytes=small.nbytes).splits["train"].images, np.ndarray)
    grown = load("fer2013", fer_dir, resident_bytes=small.nbytes, channels=3).splits["train"].images
    assert isinstance(grown, DiskImages) and grown.nbytes == 3 * small.nbytes


@pytest.mark.parametrize("bad", [{"resident_bytes": -1}, {"resident_bytes": "2G"}, {"workers": 65}])
def test_an_invalid_budget_is_named(fer_dir, bad):
    with pytest.raises(InputError, match=rf"data.{next(iter(bad))} must be a whole number in 0\.\."):
        load("fer2013", fer_dir, **bad)


def test_the_error_for_missing_data_contains_the_next_commands(tmp_path):
    with pytest.raises(InputError) as caught:
        load("fer2013", tmp_path)
    message = str(caught.value)
    for part in ("kaggle.com", "ferjax prepare fer2013 --source", ":demo", str(tmp_path)):
        assert part in message
    assert "\n" not in message


def test_unknown_names_get_a_suggestion(fer_dir):
    with pytest.raises(InputError, match=r"unknown data set 'fer2031'\. Did you mean 'fer2013'"):
        load("fer2031", fer_dir)
    with pytest.raises(InputError, match=f"read from {re.escape(str(fer_dir))}; --data-dir"):
        load("mine", fer_dir)
    with pytest.raises(InputError, match=r"unknown split 'tests'\. Did you mean 'test'"):
        load("fer2013", fer_dir, ("tests",))
    with pytest.raises(InputError, match=r"option of fer2013 'sise'\. Did you mean 'size'"):
        load("fer2013", fer_dir, sise=48)
    with pytest.raises(InputError, match=r"8\.\.1024, got 0"):
        load("fer2013", fer_dir, size=0)


def test_size_and_channels_are_converted_at_loading(fer_dir):
    gray, large = load("fer2013", fer_dir), load("fer2013", fer_dir, size=96, channels=3)
    assert large.image_shape == large.splits["train"].images.shape[1:] == (96, 96, 3)
    assert large.mean == gray.mean * 3 and large.std == gray.std * 3 and large.sha256 == gray.sha256
    for split, data in large.splits.items():
        np.testing.assert_array_equal(data.images, np.repeat(data.images[..., :1], 3, axis=-1))
        small = data.images[..., 0].reshape(-1, 48, 2, 48, 2).mean((2, 4))
        near = np.abs(small - gray.splits[split].images[..., 0]).mean()
        assert near < 0.1 * gray.splits[split].images.std()


def test_prepared_names_are_listed(fer_dir, faces_dir):
    assert prepared(fer_dir) == ["fer2013"] and prepared(faces_dir) == []


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "names.txt", "twin_in_train.npy"])
def test_damaged_arrays_are_reported(tmp_path, name):
    prepare("fer2013", write_zip(tmp_path / "fer2013.zip", fer2013_files()), tmp_path)
    path = tmp_path / "fer2013" / "train" / name
    os.truncate(path, path.stat().st_size - 5)
    with pytest.raises(InputError, match=r"the prepared fer2013 in .* is damaged .*; prepare it again"):
        load("fer2013", tmp_path)
    path.unlink()
    if name != "twin_in_train.npy":
        with pytest.raises(InputError, match=r"damaged .*; prepare it again"):
            load("fer2013", tmp_path)


def test_a_class_can_be_left_out(tmp_path):
    options = {"size": 24, "train": 28, "validation": 14, "test": 7}
    whole = load("synthetic_faces", tmp_path, **options)
    rest = load("synthetic_faces", tmp_path, without="happy", **options)
    assert rest.class_names == tuple(n for n in whole.class_names if n != "happy")
    every, kept = whole.splits["train"], rest.splits["train"]
    chosen = [i for i in range(28) if whole.class_names[every.labels[i]] != "happy"]
    np.testing.assert_array_equal(kept.images, every.images[chosen])
    assert [rest.class_names[k] for k in kept.labels] == [whole.class_names[every.labels[i]] for i in chosen]
    assert kept.names == [every.names[i] for i in chosen]
    with pytest.raises(InputError, match="Did you mean 'happy'"):
        load("synthetic_faces", tmp_path, without="hapy", **options)

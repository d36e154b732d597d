import json
import os
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferjax.data import class_weights, default_data_dir, store
from ferjax.data.on_disk import DiskImages
from ferjax.errors import InputError


def write_split(folder, count, shape=(4, 4, 1), **columns):
    with store.SplitWriter(folder, shape) as writer:
        for i in range(count):
            extra = {k: v[i] for k, v in columns.items()}
            writer.add(np.full(shape, i, np.uint8), i % 3, f"image {i}", extra)


def test_a_split_round_trips(tmp_path):
    votes = np.eye(5, 2, dtype=np.float32)
    write_split(tmp_path / "train", 5, (4, 6, 3), votes=votes)
    split = store.read_split(tmp_path / "train")
    assert split.images.shape == (5, 4, 6, 3) and split.images.dtype == np.uint8
    np.testing.assert_array_equal(split.images[:, 0, 0, 0], range(5))
    np.testing.assert_array_equal(split.labels, [0, 1, 2, 0, 1])
    assert split.labels.dtype == np.int32
    assert split.names == [f"image {i}" for i in range(5)]
    np.testing.assert_array_equal(split.columns["votes"], votes)
    assert split.columns["votes"].dtype == np.float32


def test_large_images_stay_on_disk(tmp_path):
    write_split(tmp_path / "train", 5)
    assert isinstance(store.read_split(tmp_path / "train", resident_bytes=5 * 16).images, np.ndarray)
    images = store.read_split(tmp_path / "train", resident_bytes=5 * 16 - 1).images
    assert isinstance(images, DiskImages) and images.shape == (5, 4, 4, 1) and images.nbytes == 80
    np.testing.assert_array_equal(images[3], np.full((4, 4, 1), 3))


def test_names_that_are_not_unicode_round_trip(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    with store.SplitWriter(tmp_path, (1, 1, 1)) as writer:
        writer.add(np.zeros((1, 1, 1), np.uint8), 0, name, {})
    assert store.read_split(tmp_path).names == [name]


def test_a_name_with_a_line_break_is_refused(tmp_path):
    with pytest.raises(InputError, match="line break"), store.SplitWriter(tmp_path, (1, 1, 1)) as writer:
        writer.add(np.zeros((1, 1, 1), np.uint8), 0, "a\nb.jpg", {})


def test_an_image_of_another_shape_is_refused(tmp_path):
    with (
        pytest.raises(ValueError, match=r"expected uint8 \(2, 2, 1\)"),
        store.SplitWriter(tmp_path, (2, 2, 1)) as writer,
    ):
        writer.add(np.zeros((1, 1, 1), np.uint8), 0, "a", {})


def test_a_shortened_array_is_noticed(tmp_path):
    write_split(tmp_path / "train", 5)
    np.save(tmp_path / "train" / "labels.npy", np.zeros(4, np.int32))
    with pytest.raises(ValueError, match=r"\[4, 5\]"):
        store.read_split(tmp_path / "train")


def test_resplit_moves_images_labels_names_and_columns(tmp_path):
    write_split(tmp_path / "train", 6, mark=np.arange(6) * 10)
    store.resplit(tmp_path, {"train": np.array([0, 2]), "validation": np.array([5, 1]), "test": np.array([], int)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train", "validation"]
    assert store.read_split(tmp_path / "train").names == ["image 0", "image 2"]
    moved = store.read_split(tmp_path / "validation")
    assert moved.names == ["image 5", "image 1"]
    np.testing.assert_array_equal(moved.columns["mark"], [50, 10])
    np.testing.assert_array_equal(moved.images[:, 0, 0, 0], [5, 1])
    np.testing.assert_array_equal(moved.labels, [2, 1])


@settings(deadline=None)
@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=9))
def test_weighted_class_counts_are_equal(counts):
    weights = class_weights(np.array(counts))
    np.testing.assert_allclose(weights * counts, sum(counts) / len(counts))


def test_class_weights_of_the_paper():
    # Paraschiv eq. 1 on FER2013's training counts: 28709 / (7 * 436) = 9.41 for disgust.
    weights = class_weights(np.array([3995, 436, 4097, 7215, 4965, 4830, 3171]))
    np.testing.assert_allclose(weights, [1.0266, 9.4066, 1.0010, 0.5684, 0.8260, 0.8491, 1.2934], atol=5e-5)


def test_class_weights_require_all_classes():
    with pytest.raises(InputError, match=r"\[3, 0\]"):
        class_weights(np.array([3, 0]))


def test_the_data_folder_depends_on_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FERJAX_DATA", str(tmp_path))
    assert default_data_dir() == tmp_path
    monkeypatch.delenv("FERJAX_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert str(default_data_dir()) == "/cache/ferjax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(default_data_dir()) == "/home/someone/.cache/ferjax"


def publish(data_dir, text, **options):
    with store.staging(data_dir, "faces", **options) as folder:
        (folder / "manifest.json").write_text(json.dumps({"counts": {}, "text": text}))


def test_staged_data_replace_the_old_only_when_complete(tmp_path):
    publish(tmp_path, "old")
    with pytest.raises(RuntimeError), store.staging(tmp_path, "faces") as folder:
        (folder / "manifest.json").write_text("{}")
        raise RuntimeError
    assert store.read_manifest(tmp_path, "faces")["text"] == "old"
    publish(tmp_path, "new")
    assert store.read_manifest(tmp_path, "faces")["text"] == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["faces"]


def test_keep_existing_keeps_the_data_of_the_first_process(tmp_path):
    with store.staging(tmp_path, "faces", keep_existing=True) as slow:
        (slow / "manifest.json").write_text(json.dumps({"counts": {}, "text": "slow"}))
        publish(tmp_path, "fast", keep_existing=True)
    assert store.read_manifest(tmp_path, "faces")["text"] == "fast"
    assert [p.name for p in tmp_path.iterdir()] == ["faces"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    publish(tmp_path, "old")
    (tmp_path / "faces").rename(tmp_path / ".faces.previous")
    assert store.read_manifest(tmp_path, "faces")["text"] == "old"


def test_only_abandoned_folders_are_removed(tmp_path):
    for name, age in ((".faces.new-old", 2 * 86400), (".faces.new-young", 60)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    publish(tmp_path, "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".faces.new-young", "faces"]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"counts": 3}'])
def test_a_damaged_manifest_is_reported(tmp_path, text):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"damaged.*prepare faces again"):
        store.read_manifest(tmp_path, "faces")


def test_a_folder_of_data_that_cannot_be_made_says_what_to_set(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"file/data cannot be made \(.*\): .*--data-dir or FERJAX_DATA"),
        store.staging(tmp_path / "file" / "data", "mine"),
    ):
        pass

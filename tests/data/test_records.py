"""Images in array_record files: the same data as in arrays, read without TensorFlow, and damage is named."""

import logging
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from ferjax.data import commands, load, store
from ferjax.data.on_disk import DiskImages
from ferjax.data.prepare import pipeline
from ferjax.errors import InputError
from ferjax.train.sampling import BatchRows, sampler
from tests.support.data_layouts import fer2013_files, write_zip

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("tensorflow")

COUNT, BATCH, FILES = 28, 8, 3
SPLITS = ("train", "validation", "test")
TRAIN = "records/1.0.0/records-train.array_record-0000{}-of-0000{}"


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays")
    pipeline.prepare("fer2013", write_zip(folder / "fer2013.zip", fer2013_files(count=COUNT)), folder)
    return folder


@pytest.fixture(scope="module")
def in_files(arrays, tmp_path_factory):
    """The same data, the images of each split in three files of records."""
    folder = shutil.copytree(arrays, tmp_path_factory.mktemp("records"), dirs_exist_ok=True)
    store.use_records(folder / "fer2013", load("fer2013", arrays).class_names, shards=FILES)
    return folder


@pytest.fixture
def breakable(in_files, tmp_path):
    return shutil.copytree(in_files, tmp_path, dirs_exist_ok=True)


def batches(images):
    order_of = sampler("shuffled", np.arange(COUNT) % 7, "abcdefg", seed=5)
    rows = BatchRows(order_of, batch_size=BATCH, steps_per_epoch=COUNT // BATCH, own=np.arange(BATCH))
    return list(images.batches(rows, 1, 7))  # into the third epoch


def test_prepare_stores_records_instead_of_arrays(arrays, tmp_path, capsys, caplog):
    source = ["fer2013", "--source", str(arrays / "fer2013.zip"), "--data-dir", str(tmp_path)]
    commands.prepare([*source, "--array-record"])
    written = capsys.readouterr()
    assert "prepared fer2013" in written.out and "Downloading" not in written.out + written.err
    assert not caplog.records and logging.root.manager.disable == 0
    assert (tmp_path / "fer2013" / TRAIN.format(0, 1)).is_file() and not list(tmp_path.rglob("images.npy"))
    assert {p.name for p in (tmp_path / "fer2013").iterdir()} == {*SPLITS, "manifest.json", "records"}
    expected, found = (load("fer2013", d, SPLITS).manifest for d in (arrays, tmp_path))
    assert found == expected  # hash of the pixels included


@pytest.mark.parametrize("resident_bytes", [0, 1 << 20])
def test_records_equal_the_arrays(arrays, in_files, resident_bytes):
    for options in ({}, {"channels": 3, "size": 24}, {"without": "happy"}):
        found = load("fer2013", in_files, ("train", "test_all"), resident_bytes=resident_bytes, **options)
        expected = load("fer2013", arrays, ("train", "test_all"), **options)
        for split, there in expected.splits.items():
            here = found.splits[split]
            assert isinstance(here.images, np.ndarray if resident_bytes else DiskImages)
            np.testing.assert_array_equal(here.images, there.images)
            np.testing.assert_array_equal(here.labels, there.labels)
            assert here.names == there.names


def test_worker_processes_read_the_same_batches(arrays, in_files):
    expected = batches(load("fer2013", arrays, resident_bytes=0).splits["train"].images)
    found = batches(load("fer2013", in_files, resident_bytes=0, workers=2).splits["train"].images)
    assert len(found) == len(expected) == 6
    np.testing.assert_array_equal(found, expected)


def test_tfds_reads_the_records(arrays, in_files):
    import tensorflow_datasets as tfds

    source = tfds.data_source("records", split="train", data_dir=in_files / "fer2013")
    expected = load("fer2013", arrays).splits["train"]
    assert len(source) == COUNT and source[9]["name"].decode() == expected.names[9]
    np.testing.assert_array_equal([example["label"] for example in source], expected.labels)


def test_reading_does_not_import_tensorflow(in_files):
    code = """
import sys
from ferjax.data import load
images = load("fer2013", sys.argv[1], resident_bytes=0).splits["train"].images
print(images[[27, 3]].shape, [name for name in ("tensorflow", "jax", "ml_collections") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code, str(in_files)], capture_output=True, text=True)
    assert done.stdout == "(2, 48, 48, 1) []\n", done.stderr


@pytest.mark.parametrize("file", range(FILES))
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_file_that_cannot_be_opened_is_named_when_data_are_loaded(breakable, file, damage):
    path = breakable / "fer2013" / TRAIN.format(file, FILES)
    path.unlink() if damage == "gone" else os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(
        InputError, match=rf"cannot read image \d+ from .*{path.name}.*; prepare the data set again"
    ) as raised:
        load("fer2013", breakable, resident_bytes=0)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_damaged_while_training_is_named(breakable, workers):
    images = load("fer2013", breakable, resident_bytes=0, workers=workers).splits["train"].images
    path = breakable / "fer2013" / TRAIN.format(1, FILES)
    path.write_bytes(bytes(path.stat().st_size))
    fresh = pickle.loads(pickle.dumps(images))  # as another process has it: no file is open yet
    with pytest.raises(InputError, match=rf"cannot read image \d+ from .*{path.name}.*; prepare the data set again"):
        batches(fresh)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_damaged_metadata_are_reported(breakable, name, damage):
    path = breakable / "fer2013" / "records" / "1.0.0" / name
    path.unlink() if damage == "gone" else os.truncate(path, 50)
    with pytest.raises(InputError, match=r"the prepared fer2013 in .* is damaged .*; prepare it again") as raised:
        load("fer2013", breakable)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("absent", ["tensorflow", "tensorflow_datasets"])
def test_a_missing_package_is_reported_before_decoding(arrays, tmp_path, monkeypatch, absent):
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(InputError, match=r"--array-record requires .*pip install 'ferjax\[data\]'"):
        pipeline.prepare("fer2013", arrays / "fer2013.zip", tmp_path, array_record=True)
    assert not list(tmp_path.iterdir())


def test_reading_records_without_tfds_names_the_extra(in_files, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(InputError, match=r"pip install 'ferjax\[records\]'"):
        load("fer2013", in_files)

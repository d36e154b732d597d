"""Images read while training: the batches are those of memory, by any number of workers, and say what fails."""

import errno
import multiprocessing.synchronize
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from ferjax.data import on_disk, store
from ferjax.errors import InputError
from ferjax.train.sampling import BatchRows, sampler

COUNT, BATCH = 50, 8


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    with store.SplitWriter(tmp_path / "train", (6, 5, 3)) as writer:
        for i in range(COUNT):
            writer.add(rng.integers(0, 256, (6, 5, 3), np.uint8), i % 3, str(i), {})
    return tmp_path / "train"


def on_disk_and_in_memory(folder):
    return on_disk.open_array(folder / "images.npy"), np.load(folder / "images.npy")


def rows(sampling="shuffled", own=None):
    order_of = sampler(sampling, np.arange(COUNT) % 3, "abc", seed=7)
    places = np.arange(BATCH) if own is None else own
    return BatchRows(order_of, batch_size=BATCH, steps_per_epoch=COUNT // BATCH, own=places)


@pytest.mark.parametrize(
    "index",
    [3, -1, slice(2, 9), slice(None, None, -7), np.array([4, 4, -50]), np.arange(COUNT) % 3 == 1, np.array([], int)],
)
def test_indexing_reads_the_same_images(folder, index):
    images, array = on_disk_and_in_memory(folder)
    for found in (images, pickle.loads(pickle.dumps(images))):
        np.testing.assert_array_equal(found[index], array[index])
    np.testing.assert_array_equal(images, array)
    assert images.shape == array.shape and images.nbytes == array.nbytes and len(list(images)) == COUNT


@pytest.mark.parametrize(
    "index", [COUNT, -COUNT - 1, np.array([0, COUNT]), 1.5, np.zeros((2, 2), int), np.ones(3, bool)]
)
def test_invalid_indices_are_refused(folder, index):
    with pytest.raises(IndexError):
        on_disk_and_in_memory(folder)[0][index]


def test_images_are_selected_converted_and_concatenated_lazily(folder):
    images, array = on_disk_and_in_memory(folder)
    some, odd = images.choose(np.array([9, 2, 4])), np.arange(COUNT) % 2 == 1
    np.testing.assert_array_equal(some, array[[9, 2, 4]])
    np.testing.assert_array_equal(images.choose(odd).choose(np.array([1, 0]))[:], array[[3, 1]])
    np.testing.assert_array_equal(some.convert(np.flipud, (6, 5, 3))[1:], array[[2, 4], ::-1])
    np.testing.assert_array_equal(on_disk.concatenate([some, array[:2]]), array[[9, 2, 4, 0, 1]])


SPANS = ((0, 14), (9, 14))  # in steps, of which an epoch has 6


@pytest.mark.parametrize(
    ("sampling", "workers", "spans"),
    [
        ("shuffled", 0, SPANS),
        ("shuffled", 2, SPANS[1:]),
        ("balanced", 0, SPANS),
        pytest.param("balanced", 2, SPANS, marks=pytest.mark.slow),
    ],
)
def test_batches_equal_those_in_memory_from_any_step(folder, workers, sampling, spans):
    images, array = on_disk_and_in_memory(folder)
    images, rows_of = on_disk.DiskImages(images.read, images.shape, workers=workers), rows(sampling)
    for first, last in spans:
        found = list(images.batches(rows_of, first, last))
        assert len(found) == last - first
        for step, batch in zip(range(first, last), found, strict=True):
            epoch, position = divmod(step, COUNT // BATCH)
            order = sampler(sampling, np.arange(COUNT) % 3, "abc", seed=7)(epoch)
            np.testing.assert_array_equal(batch, array[order[position * BATCH : (position + 1) * BATCH]])


def test_the_processes_of_a_run_read_parts_of_one_batch(folder):
    images, _ = on_disk_and_in_memory(folder)
    (whole,) = images.batches(rows(), 8, 9)
    parts = [next(images.batches(rows(own=own), 8, 9)) for own in (np.arange(4), np.arange(4, 8))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_cut_short_while_training_is_named(folder, workers):
    images = on_disk.DiskImages(
        *[getattr(on_disk_and_in_memory(folder)[0], k) for k in ("read", "shape")], workers=workers
    )
    os.truncate(folder / "images.npy", 1000)
    with pytest.raises(InputError, match=r"images\.npy is truncated in image \d+; prepare"):
        list(images.batches(rows(), 0, 6))


def test_a_file_that_is_gone_or_cut_short_is_named(folder):
    images, _ = on_disk_and_in_memory(folder)
    os.truncate(folder / "images.npy", 1000)
    with pytest.raises(ValueError, match=r"images\.npy is truncated: 1,000 bytes instead of 4,628"):
        on_disk.open_array(folder / "images.npy")
    (folder / "images.npy").unlink()
    with pytest.raises(InputError, match=r"cannot read image 3 of .*images\.npy \(No such file"):
        images[3]


def test_an_array_of_another_kind_is_refused(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"holds float64 \(2, 3\), not uint8"):
        on_disk.open_array(tmp_path / "images.npy")


def test_reading_stops_with_its_iterator(folder):
    images, _ = on_disk_and_in_memory(folder)
    reader = images.batches(rows(), 0, 10_000)
    next(reader)
    reader.close()
    assert next(reader, None) is None


@pytest.mark.slow
@pytest.mark.parametrize("taken", [6, 3])
def test_reading_in_processes_leaves_no_shared_memory(folder, taken):
    code = """
import sys
import numpy as np
from ferjax.data import on_disk
images = on_disk.open_array(on_disk.Path(sys.argv[1]))
images = on_disk.DiskImages(images.read, images.shape, workers=2)
reader = images.batches(np.atleast_1d, 0, 6)
print(sum(len(next(reader)) for _ in range(int(sys.argv[2]))))
reader.close()
"""
    command = [sys.executable, "-c", code, folder / "images.npy", str(taken)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{taken}\n", "")


def test_a_full_dev_shm_is_named(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(multiprocessing.synchronize._multiprocessing, "SemLock", full)
    images, _ = on_disk_and_in_memory(folder)
    reader = on_disk.DiskImages(images.read, images.shape, workers=1).batches(rows(), 0, 2)
    with pytest.raises(InputError, match=r"\(No space left on device\).* /dev/shm.* data\.workers=0"):
        next(reader)

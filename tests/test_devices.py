"""What a batch and a run may ask of the devices, and what is said if they ask for more."""

import types

import jax
import numpy as np
import pytest

from ferjax import devices
from ferjax.errors import InputError


def mesh(size):
    return types.SimpleNamespace(size=size)


@pytest.mark.parametrize(("batch", "size", "accumulate"), [(64, 1, 1), (64, 8, 1), (64, 8, 8), (63, 3, 7), (6, 6, 1)])
def test_a_batch_that_can_be_cut_passes(batch, size, accumulate):
    devices.check_batch(batch, mesh(size), accumulate=accumulate, largest=1000)


@pytest.mark.parametrize(
    ("batch", "size", "accumulate", "largest", "said"),
    [
        (100, 8, 1, 999, "over 8 devices: set fit.batch_size to 96 or 104, or use --devices 5"),
        (7, 8, 1, 999, "over 8 devices: set fit.batch_size to 8, or use --devices 7"),
        (100, 8, 1, 103, "set fit.batch_size to 96, or"),
        (7, 8, 1, 7, "the training set of 7 is too small, or use --devices 7"),
        (64, 1, 3, 999, "over fit.accumulate=3 micro-batches: set fit.batch_size to 63 or 66$"),
        (64, 4, 5, 999, "over 4 devices and fit.accumulate=5 micro-batches: set fit.batch_size to 60 or 80$"),
    ],
)
def test_the_nearest_sizes_are_named(batch, size, accumulate, largest, said):
    with pytest.raises(InputError, match=rf"^fit.batch_size={batch} cannot be split evenly .*{said}"):
        devices.check_batch(batch, mesh(size), accumulate=accumulate, largest=largest)


@pytest.mark.parametrize("accumulate", [0, -1])
def test_there_is_a_micro_batch_at_least(accumulate):
    with pytest.raises(InputError, match=f"fit.accumulate .* 1 or more, got {accumulate}"):
        devices.check_batch(64, mesh(1), accumulate=accumulate, largest=999)


def test_devices_that_are_not_there_are_said():
    found = len(jax.devices())
    assert devices.mesh().size == found and devices.mesh(1).size == 1
    for count in (-1, found + 1):
        with pytest.raises(InputError, match=f"--devices {count}: .* {found} cpu device"):
            devices.mesh(count)
    assert devices.describe(devices.mesh(1)) == "1 device (cpu)"


def test_several_processes_train_on_all_of_their_devices(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match=r"--devices 1: .* 2 processes"):
        devices.mesh(1)


def test_a_batch_lies_on_one_device_as_it_is():
    batch = np.arange(12).reshape(6, 2)
    one = devices.mesh(1)
    assert devices.local_rows(one, 6).tolist() == list(range(6))
    np.testing.assert_array_equal(devices.shard_full_batch(batch, one), batch)
    np.testing.assert_array_equal(devices.shard({"x": batch}, one, 6)["x"], batch)

"""The devices of a run: one mesh with the axis "data", what lies on it whole, and what is spread over it."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ferjax import errors

AXIS = "data"


def mesh(count: int = 0) -> Mesh:
    """Returns the mesh of a run, with one axis "data" over which each batch is spread.

    Args:
      count: how many devices; 0 for all that are visible, those of other processes included.

    Raises:
      InputError: if there are not so many, or only a part of several processes' devices is asked for.
    """
    found = jax.devices()
    if not 0 <= count <= len(found):
        kinds = f"{len(found)} of {found[0].platform}"
        raise errors.InputError(f"--devices {count}: this run sees {kinds}; 0 takes all of them")
    if count and jax.process_count() > 1:
        raise errors.InputError(
            f"--devices {count}: {jax.process_count()} processes train together on all their devices"
        )
    return Mesh(np.array(found[: count or len(found)]), (AXIS,))


def on_cpu(mesh: Mesh) -> bool:
    """Returns whether the devices are CPUs, where XLA's loop over convolutions is far too slow."""
    return bool(mesh.devices.flat[0].platform == "cpu")


def whole(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds: the state, the teacher, a resident data set."""
    return NamedSharding(mesh, PartitionSpec())


def spread(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first axis is cut into equal parts, one per device."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicate(tree: Any, mesh: Mesh, *, may_alias: bool | None = None) -> Any:
    """Puts arrays, which every process has alike, on each device.

    Args:
      tree: host arrays, or arrays of one device.
      mesh: devices.
      may_alias: see `jax.device_put`; False for what a step donates.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, whole(mesh), may_alias=may_alias)
    host = jax.tree.map(np.asarray, tree)
    return jax.tree.map(lambda a: jax.make_array_from_callback(a.shape, whole(mesh), lambda index: a[index]), host)


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Returns which rows int64 (n,) of a batch lie on this process's devices, in the order of the batch."""
    slices = spread(mesh).addressable_devices_indices_map((batch_size,)).values()
    rows = [np.arange(batch_size)[index] for index in slices]
    return np.unique(np.concatenate(rows))


def shard(tree: Any, mesh: Mesh, batch_size: int) -> Any:
    """Spreads host arrays over the devices; each process gives the rows that `local_rows` names.

    Args:
      tree: arrays (n, …), n this process's rows of the batch.
      mesh: devices.
      batch_size: rows of all processes.

    Returns:
      The same tree of arrays (batch_size, …).
    """
    sharding = spread(mesh)
    return jax.tree.map(
        lambda a: jax.make_array_from_process_local_data(sharding, np.asarray(a), (batch_size, *a.shape[1:])), tree
    )


def spread_rows(batch: np.ndarray, mesh: Mesh) -> jax.Array:
    """Spreads a batch (N, …) that every process has whole."""
    return shard(batch[local_rows(mesh, len(batch))], mesh, len(batch))


def check_batch(batch_size: int, mesh: Mesh, *, accumulate: int = 1, largest: int) -> None:
    """Checks that a batch can be cut into equal parts.

    Args:
      batch_size: examples per optimiser step.
      mesh: devices.
      accumulate: micro-batches per optimiser step.
      largest: the number of training examples.

    Raises:
      InputError: naming the nearest sizes that can.
    """
    if accumulate < 1:
        raise errors.InputError(
            f"fit.accumulate is the number of micro-batches in a batch, 1 or more, got {accumulate}"
        )
    unit = mesh.size * accumulate
    if batch_size % unit == 0:
        return
    below = batch_size // unit * unit
    near = [size for size in (below, below + unit) if 0 < size <= largest]
    parts = [f"{mesh.size} devices"] if mesh.size > 1 else []
    parts += [f"fit.accumulate={accumulate} micro-batches"] if accumulate > 1 else []
    advice = f"set fit.batch_size to {_either(near)}" if near else "the training set is too small for so many"
    fewer = [n for n in range(1, mesh.size) if batch_size % (n * accumulate) == 0]
    if fewer and jax.process_count() == 1:
        advice += f", or use --devices {fewer[-1]}"
    raise errors.InputError(f"a batch of {batch_size} cannot be cut evenly for {' and '.join(parts)}: {advice}")


def describe(mesh: Mesh) -> str:
    """Returns the devices in words, such as "8 devices (cpu), 4 in each of 2 processes"."""
    first = mesh.devices.flat[0]
    kind = first.platform if first.platform == "cpu" else first.device_kind
    text = f"{mesh.size} device{'s' * (mesh.size > 1)} ({kind})"
    if jax.process_count() > 1:
        text += f", {mesh.size // jax.process_count()} in each of {jax.process_count()} processes"
    return text


def _either(sizes: Sequence[int]) -> str:
    return " or ".join(map(str, sizes))

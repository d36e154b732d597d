"""Creates the device mesh of a run and shards or replicates arrays over it."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ferjax import cli, errors

AXIS = "data"


def mesh(count: int = 0) -> Mesh:
    """Returns the mesh of a run; its axis "data" shards the batches.

    Args:
      count: number of devices; 0 for all visible devices, including those of other processes.

    Raises:
      InputError: if fewer devices are visible, or `count` is not 0 with several processes.
    """
    found = jax.devices()
    if not 0 <= count <= len(found):
        visible = f"visible: {cli.counted(len(found), f'{found[0].platform} device')}"
        raise errors.InputError(f"--devices {count}: must be in 0..{len(found)}, 0 for all; {visible}")
    if count and jax.process_count() > 1:
        raise errors.InputError(
            f"--devices {count}: must be 0 with {jax.process_count()} processes, which train on all devices"
        )
    return Mesh(np.array(found[: count or len(found)]), (AXIS,))


def check_platform() -> None:
    """Raises InputError if JAX cannot use the platform in JAX_PLATFORMS or JAX_PLATFORM_NAME."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter for "cuda" without its plugin
        names = [name for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME") if os.environ.get(name)] or ["JAX_PLATFORMS"]
        given = ", ".join(f"{name}={os.environ.get(name, '')}" for name in names)
        raise errors.InputError(
            f"JAX cannot use {given} here: unset what is set to use the "
            "available devices, or install JAX for this platform (https://docs.jax.dev/en/latest/installation.html)"
        ) from error


def on_cpu(mesh: Mesh) -> bool:
    """Returns whether the devices are CPUs, on which XLA runs convolutions in a loop slowly."""
    return bool(mesh.devices.flat[0].platform == "cpu")


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of replicated arrays: state, teacher, data set in memory."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: the first axis is split evenly over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicate(tree: Any, mesh: Mesh, *, may_alias: bool | None = None) -> Any:
    """Copies arrays to every device; all processes have the same arrays.

    Args:
      tree: host arrays, or arrays on one device.
      mesh: device mesh.
      may_alias: see `jax.device_put`; False for arrays that a step donates.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, replicated_sharding(mesh), may_alias=may_alias)
    host = jax.tree.map(np.asarray, tree)
    return jax.tree.map(
        lambda a: jax.make_array_from_callback(a.shape, replicated_sharding(mesh), lambda index: a[index]), host
    )


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Returns the rows of a batch on the devices of this process, int64 (n,), ascending."""
    slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    rows = [np.arange(batch_size)[index] for index in slices]
    return np.unique(np.concatenate(rows))


def shard(tree: Any, mesh: Mesh, batch_size: int) -> Any:
    """Shards host arrays over the devices; each process provides its `local_rows`.

    Args:
      tree: arrays (n, …), the n rows of this process.
      mesh: device mesh.
      batch_size: number of rows of all processes.

    Returns:
      The same tree with arrays (batch_size, …).
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda a: jax.make_array_from_process_local_data(sharding, np.asarray(a), (batch_size, *a.shape[1:])), tree
    )


def shard_full_batch(batch: np.ndarray, mesh: Mesh) -> jax.Array:
    """Shards a batch (N, …) of which every process has all rows."""
    return shard(batch[local_rows(mesh, len(batch))], mesh, len(batch))


def check_batch(batch_size: int, mesh: Mesh, *, accumulate: int = 1, largest: int) -> None:
    """Checks that a batch can be split evenly over devices and micro-batches.

    Args:
      batch_size: examples per optimizer step.
      mesh: device mesh.
      accumulate: micro-batches per optimizer step.
      largest: number of training examples.

    Raises:
      InputError: if it cannot; the message contains the nearest valid sizes.
    """
    if accumulate < 1:
        raise errors.InputError(
            f"fit.accumulate must be the number of micro-batches per batch, 1 or more, got {accumulate}"
        )
    unit = mesh.size * accumulate
    if batch_size % unit == 0:
        return
    below = batch_size // unit * unit
    near = [size for size in (below, below + unit) if 0 < size <= largest]
    parts = [f"{mesh.size} devices"] if mesh.size > 1 else []
    parts += [f"fit.accumulate={accumulate} micro-batches"] if accumulate > 1 else []
    advice = f"set fit.batch_size to {_either(near)}" if near else f"the training set of {largest} is too small"
    fewer = [n for n in range(1, mesh.size) if batch_size % (n * accumulate) == 0]
    if fewer and jax.process_count() == 1:
        advice += f", or use --devices {fewer[-1]}"
    raise errors.InputError(f"fit.batch_size={batch_size} cannot be split evenly over {' and '.join(parts)}: {advice}")


def describe(mesh: Mesh) -> str:
    """Returns a description such as "8 devices (cpu), 4 in each of 2 processes"."""
    first = mesh.devices.flat[0]
    kind = first.platform if first.platform == "cpu" else first.device_kind
    text = f"{cli.counted(mesh.size, 'device')} ({kind})"
    if jax.process_count() > 1:
        text += f", {mesh.size // jax.process_count()} in each of {jax.process_count()} processes"
    return text


def _either(sizes: Sequence[int]) -> str:
    return " or ".join(map(str, sizes))

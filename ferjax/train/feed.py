"""Feeds batches to the compiled step: from device memory, or read from disk during training, in the same order.

The batch of a step is a function of seed and step. A resumed run therefore needs only `TrainState.step` to see the
same examples, and every process knows its own rows of a batch.
"""

import functools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ferjax import devices, errors
from ferjax.train.sampling import BatchRows, OrderOf
from ferjax.train.state import Arrays, Sums, TrainState
from ferjax.train.step import Scan, TrainStep

Run = Callable[..., tuple[TrainState, Sums, jax.Array]]


class Feed(Protocol):
    """Provides the batches of `fit`; `steps_per_epoch` is the number of batches in an epoch."""

    steps_per_epoch: int

    def compile(self, train_step: TrainStep, options: dict[str, Any] | None = None) -> Run:
        """Compiles run(state, sums, *arguments, *more, steps=K) -> (state, sums, flag), which takes K steps.

        State and sums are donated. `more` is passed to the step (a teacher's variables). `flag` is `Sums.first_bad`.

        Args:
          train_step: from `make_train_step`.
          options: XLA's compiler options, by name.
        """

    def dispatches(self, first: int, last: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yields (K, arguments of `run`) for the steps first to last - 1, which lie in one epoch."""

    def close(self) -> None:
        """Ends the reader, if there is one."""


@runtime_checkable
class ImageSource(Protocol):
    """Images that are read from disk during training; replaces an array uint8 (N, H, W, C)."""

    def __len__(self) -> int:
        """Returns N."""

    def batches(self, rows: Callable[[int], np.ndarray], first: int, last: int) -> Iterator[np.ndarray]:
        """Yields the images uint8 (n, H, W, C) of the steps first to last - 1 and reads ahead.

        Closing the generator ends its workers.

        Args:
          rows: picklable; step of the run -> indices int (n,) of this process's images in the batch of that step.
          first: first step.
          last: step after the last one; may lie many epochs later.
        """


def create(
    train: Arrays,
    columns: Mapping[str, np.ndarray],
    order_of: OrderOf,
    *,
    batch_size: int,
    steps_per_epoch: int,
    epochs: int,
    steps_per_dispatch: int,
    mesh: Mesh,
) -> Feed:
    """Returns the feed of a run.

    Args:
      train: {"images": uint8 (N, H, W, C) or an `ImageSource`, …}.
      columns: the other arrays (N, …) of a batch, such as "labels" int32 (N,).
      order_of: epoch -> order int32 of the examples.
      batch_size: examples per step, over all devices.
      steps_per_epoch: number of complete batches in an epoch.
      epochs: epochs of the run.
      steps_per_dispatch: 0 chooses 1 on CPU and 32 elsewhere; always 1 for an `ImageSource`.
      mesh: devices.
    """
    images = train["images"]
    if isinstance(images, ImageSource):
        return Streamed(
            images,
            columns,
            order_of,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            steps=epochs * steps_per_epoch,
            mesh=mesh,
        )
    return Resident(
        {"images": np.asarray(images), **columns},
        order_of,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        steps_per_dispatch=steps_per_dispatch or (1 if devices.on_cpu(mesh) else 32),
        scan=scan_for(mesh),
        mesh=mesh,
    )


class Resident:
    """Feeds from arrays of which every device holds a copy; the host sends only an index."""

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        order_of: OrderOf,
        *,
        batch_size: int,
        steps_per_epoch: int,
        steps_per_dispatch: int,
        scan: Scan,
        mesh: Mesh,
    ):
        self._data, self._order_of, self._mesh = devices.replicate(dict(arrays), mesh), order_of, mesh
        self.steps_per_epoch, self._batch_size = steps_per_epoch, batch_size
        self._chunk, self._scan = steps_per_dispatch, scan

    def compile(self, train_step: TrainStep, options: dict[str, Any] | None = None) -> Run:
        """See `Feed`."""
        return make_resident_steps(
            train_step, batch_size=self._batch_size, mesh=self._mesh, scan=self._scan, options=options
        )

    def dispatches(self, first: int, last: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """See `Feed`."""
        epoch = first // self.steps_per_epoch
        order = devices.replicate(self._order_of(epoch), self._mesh)
        while first < last:
            steps = min(self._chunk, last - first)
            at = np.array((first - epoch * self.steps_per_epoch) * self._batch_size, np.int32)
            yield steps, (self._data, order, at)
            first += steps

    def close(self) -> None:
        """Does nothing."""


class Streamed:
    """Feeds images that each process reads from disk, its own rows only; labels and columns stay in memory."""

    def __init__(
        self,
        images: ImageSource,
        columns: Mapping[str, np.ndarray],
        order_of: OrderOf,
        *,
        batch_size: int,
        steps_per_epoch: int,
        steps: int,
        mesh: Mesh,
    ):
        self._images, self._columns, self._mesh = images, dict(columns), mesh
        self.steps_per_epoch, self._batch_size, self._steps = steps_per_epoch, batch_size, steps
        own = devices.local_rows(mesh, batch_size)
        self._rows = BatchRows(order_of, batch_size=batch_size, steps_per_epoch=steps_per_epoch, own=own)
        self._reader: Iterator[np.ndarray] | None = None
        self._next = -1

    def compile(self, train_step: TrainStep, options: dict[str, Any] | None = None) -> Run:
        """See `Feed`."""

        @_compiled(self._mesh, options)
        def run(state: TrainState, sums: Sums, batch: Arrays, *more: Any, steps: int):
            state, new = train_step(state, batch, *more)
            sums = sums.add(new)
            return state, sums, sums.first_bad + 0

        return run

    def dispatches(self, first: int, last: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """See `Feed`; the reader stays open between epochs."""
        if self._reader is None or self._next != first:
            self.close()
            self._reader = self._images.batches(self._rows, first, self._steps)
        for self._next in range(first + 1, last + 1):
            rows = self._rows(self._next - 1)
            batch = {"images": next(self._reader), **{k: v[rows] for k, v in self._columns.items()}}
            yield 1, (devices.shard(batch, self._mesh, self._batch_size),)

    def close(self) -> None:
        """Ends the reader."""
        if isinstance(self._reader, Generator):
            self._reader.close()
        self._reader = None


def soft_targets(train: Arrays, column: str, class_names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns {"targets": float32 (N, classes)} from a column of the training split.

    Raises InputError if there is no such column, or it does not hold class probabilities.
    """
    columns = train.get("columns", {})
    if column not in columns:
        raise errors.unknown("column in fit.targets", column, sorted(columns) or ["none, the data has no columns"])
    values = np.asarray(columns[column], np.float32)
    shape = (len(train["labels"]), len(class_names))
    if values.shape != shape or (values < 0).any() or not np.allclose(values.sum(-1), 1.0, atol=1e-3):
        raise errors.InputError(
            f"fit.targets={column}: the column must have shape {shape} and rows of probabilities that sum to 1, "
            f"got shape {values.shape}"
        )
    return {"targets": values}


def make_resident_steps(
    train_step: TrainStep,
    *,
    batch_size: int,
    mesh: Mesh,
    scan: Scan,
    options: dict[str, Any] | None = None,
) -> Run:
    """Compiles several steps over data that is resident on the devices.

    Args:
      train_step: from `make_train_step`.
      batch_size: examples per step, B.
      mesh: devices, with one axis "data" that splits each batch.
      scan: from `scan_for`.
      options: XLA's compiler options, by name.

    Returns:
      run(state, sums, data, order, position, *more, steps=K) -> (state, sums, flag), see `Feed.compile`. Batch i
      holds the examples order[position + i · B : position + (i + 1) · B].
    """
    spread = devices.batch_sharding(mesh)

    @_compiled(mesh, options)
    def run(state: TrainState, sums: Sums, data: Arrays, order: jax.Array, position: jax.Array, *more: Any, steps: int):
        def one(carry, index):
            state, sums = carry
            chosen = jax.lax.dynamic_slice_in_dim(order, position + index * batch_size, batch_size)
            batch = {k: jax.lax.with_sharding_constraint(v[chosen], spread) for k, v in data.items()}
            state, new = train_step(state, batch, *more)
            return (state, sums.add(new)), None

        (state, sums), _ = scan(one, (state, sums), jnp.arange(steps, dtype=jnp.int32))
        return state, sums, sums.first_bad + 0

    return run


def _compiled(mesh: Mesh, options: dict[str, Any] | None) -> Callable[[Run], Run]:
    return functools.partial(
        jax.jit,
        static_argnames="steps",
        donate_argnums=(0, 1),
        out_shardings=devices.replicated_sharding(mesh),
        compiler_options=options,
    )


def scan_for(mesh: Mesh) -> Scan:
    """Returns `unrolled_scan` on CPUs, where XLA runs convolutions inside a loop far slower; else `jax.lax.scan`."""
    return unrolled_scan if devices.on_cpu(mesh) else jax.lax.scan


def unrolled_scan(body: Callable[[Any, Any], tuple[Any, None]], carry: Any, xs: jax.Array) -> tuple[Any, None]:
    """Computes what `jax.lax.scan` does over the rows of one array, with every iteration traced separately."""
    for index in range(len(xs)):
        carry, _ = body(carry, xs[index])
    return carry, None

"""How batches reach the compiled step: from memory on the devices, or read while training, in one and the same order.

A batch is a function of the optimizer step alone: step s of the run holds the examples that the order of its epoch
names at its place. So `TrainState.step` is all that a resumed run needs to see the same examples, and every process
knows which rows of a batch are its own.
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
    """Gives `fit` its batches.

    Attributes:
      steps_per_epoch: batches in an epoch.
    """

    steps_per_epoch: int

    def compile(self, train_step: TrainStep, options: dict[str, Any] | None = None) -> Run:
        """Builds the dispatch: run(state, sums, *arguments, *more, steps=K) -> (state, sums, flag), K steps.

        State and sums are donated; `more` goes to the step (a teacher's variables); `flag` is `first_bad`, cheap to
        wait for.

        Args:
          train_step: from `make_train_step`.
          options: XLA's, by name.
        """

    def dispatches(self, first: int, last: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yields (K, arguments of the dispatch) for the run's steps first to last - 1, which lie in one epoch."""

    def close(self) -> None:
        """Ends what still reads."""


@runtime_checkable
class ImageSource(Protocol):
    """Images that are read while training, in the place of an array uint8 (N, H, W, C)."""

    def __len__(self) -> int:
        """Returns N."""

    def batches(self, rows: Callable[[int], np.ndarray], first: int, last: int) -> Iterator[np.ndarray]:
        """Yields the images uint8 (n, H, W, C) of rows(first), rows(first + 1), …, rows(last - 1), reading ahead.

        Closing the iterator, a generator's `close`, ends its workers.

        Args:
          rows: step of the run -> indices int (n,) of the images that this process brings to that step's batch; may
            be sent to another process.
          first: the first step to read for.
          last: the step before which to end; it may lie many epochs on.
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
      columns: what else a batch holds of each example, arrays (N, …), such as "labels" int32 (N,).
      order_of: epoch -> order int32 of the examples.
      batch_size: examples per step, of all devices together.
      steps_per_epoch: of an incomplete last batch nothing is taken.
      epochs: of the run.
      steps_per_dispatch: 0 chooses 1 on CPU and 32 elsewhere; images that are read while training take one each.
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
    """Feeds from arrays of which every device holds a copy: nothing but an index comes from the host."""

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
        """There is nothing to end."""


class Streamed:
    """Feeds images that are read while training, each process its own rows; labels and columns stay in memory."""

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
        """See `Feed`. The reader stays open from one epoch to the next."""
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

    Raises:
      InputError: if there is no such column, or it holds no probabilities of the classes.
    """
    columns = train.get("columns", {})
    if column not in columns:
        raise errors.unknown("column in fit.targets", column, sorted(columns) or ["none: the data has no columns"])
    values = np.asarray(columns[column], np.float32)
    shape = (len(train["labels"]), len(class_names))
    if values.shape != shape or (values < 0).any() or not np.allclose(values.sum(-1), 1.0, atol=1e-3):
        raise errors.InputError(
            f"fit.targets: the column {column!r} of shape {values.shape} does not hold a probability for each of the "
            f"{shape[1]} classes that sum to 1 for each image"
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
    """Builds the dispatch that takes several steps over data resident on the devices.

    Args:
      train_step: from `make_train_step`.
      batch_size: examples per step.
      mesh: devices, with one axis "data" over which each batch is spread.
      scan: `jax.lax.scan`, or what does the same, see `scan_for`.
      options: XLA's, by name.

    Returns:
      run(state, sums, data, order, position, *more, steps=K) -> (state, sums, flag), see `Feed.compile`: batch i
      holds the examples order[position + i · B : …].
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
    """Returns the loop of compiled programs on these devices: `unrolled_scan` on CPUs, else `jax.lax.scan`.

    XLA's CPU backend runs a convolution inside a compiled loop far slower than one outside.
    """
    return unrolled_scan if devices.on_cpu(mesh) else jax.lax.scan


def unrolled_scan(body: Callable[[Any, Any], tuple[Any, None]], carry: Any, xs: jax.Array) -> tuple[Any, None]:
    """Calls the body once for each row of one array, as `jax.lax.scan` does, and traces every call by itself."""
    for index in range(len(xs)):
        carry, _ = body(carry, xs[index])
    return carry, None

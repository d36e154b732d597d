"""Runs the training loop: steps, validation, checkpoints, resuming."""

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from ferjax import devices, errors
from ferjax.evaluate import inference
from ferjax.evaluate.metrics import best_row
from ferjax.train import distributed, profiling
from ferjax.train import feed as train_feed
from ferjax.train.history import exhausted, make_row, validate
from ferjax.train.monitor import Monitor, Watch
from ferjax.train.optim import Optimizer
from ferjax.train.options import FitOptions
from ferjax.train.run_folder import RunFolder
from ferjax.train.sampling import sampler, view_order
from ferjax.train.stages import Stage, stage_of
from ferjax.train.state import Arrays, Sums, init_state
from ferjax.train.step import Task, make_train_step


class Result(NamedTuple):
    """The result of `fit`: one row per epoch, the row of the best validation accuracy, and its variables in NumPy."""

    history: list[dict[str, Any]]
    best: dict[str, Any]
    variables: Any


def fit(
    task: Task,
    variables: Mapping[str, Any],
    optimizer: Optimizer,
    options: FitOptions,
    *,
    train: Arrays,
    validation: Arrays,
    workdir: pathlib.Path,
    config: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
    monitor: Monitor | None = None,
) -> Result:
    """Trains, validates after each epoch, keeps the best variables, and resumes a stopped run.

    Args:
      task: the network, its loss and its spec; the spec is stored with accuracy and hash in the checkpoints.
      variables: initial variables.
      optimizer: from `ferjax.train.optim.create`; each of its stages compiles its own step.
      options: the group `fit` of the configuration.
      train: "images" (see `feed.create`), "labels", optional "columns"; stored views lie view after view.
      validation: the same for the split that selects the best epoch.
      workdir: folder of checkpoints and metrics; created if missing.
      config: the resolved configuration, stored in the checkpoints.
      mesh: devices, with one axis "data" that splits each batch (default: the first device).
      monitor: progress bar, callback and trace.

    Raises:
      InputError: for a batch size that does not fit, a non-finite loss, or a checkpoint that cannot be written.
    """
    mesh = mesh or devices.mesh(1)
    feed = _feed(task, options, train, mesh)
    run_of = _compiler(task, optimizer, options, feed, mesh)
    score = _scorer(task, options, validation, mesh)
    taught = () if task.teacher is None else (devices.replicate(task.teacher.variables, mesh),)
    zero = functools.partial(Sums.zero, taught=bool(taught))
    folder = RunFolder(workdir, task.spec, config or {}, options.checkpoint_minutes)
    state, sums, history = folder.resume(init_state(variables, optimizer.tx, ema=bool(options.ema_decay)), zero())
    state, sums = devices.replicate((state, sums), mesh, may_alias=False)  # the steps donate them
    watch = Watch(monitor or Monitor(), folder, feed.steps_per_epoch, options, int(state.step))
    with watch, contextlib.closing(feed):
        while len(history) < options.epochs and not exhausted(history, options.patience, optimizer.stages):
            epoch, first, start = len(history), watch.step, time.perf_counter()
            stage, end = stage_of(epoch, optimizer.stages), (epoch + 1) * feed.steps_per_epoch
            run = run_of(stage)
            for steps, arguments in feed.dispatches(first, end):
                state, sums, flag = run(state, sums, *arguments, *taught, steps=steps)
                watch.dispatched(steps, flag, sums)
                if watch.step < end and folder.due():
                    watch.wait(sums)
                    folder.save_last(state, sums, history)
            watch.wait(sums)
            seconds = time.perf_counter() - start
            row = distributed.value_of_first(make_row(epoch, state, sums, optimizer, stage) | score(state.variables()))
            history, sums = [*history, row], devices.replicate(zero(), mesh, may_alias=False)
            folder.close_epoch(state, sums, history)
            speed, peak = (end - first) * options.batch_size / seconds, profiling.peak_memory(mesh)
            folder.note_time(epoch=row["epoch"], seconds=seconds, images_per_second=speed, peak_device_bytes=peak)
            watch.epoch_ended(history, speed)
    return Result(history, best_row(history), folder.best_variables(state.variables()))


def _feed(task: Task, options: FitOptions, train: Arrays, mesh: Mesh) -> train_feed.Feed:
    """Returns the feed of a run."""
    views = max(1, task.teacher.stored_views) if task.teacher else 1
    names, size, count = task.spec.class_names, options.batch_size, len(train["labels"]) // views
    if count < size:
        raise errors.InputError(f"fit.batch_size must be at most the number of training images, {count}; got {size}")
    devices.check_batch(size, mesh, accumulate=options.accumulate, largest=count)
    columns = {key: np.asarray(train[key]) for key in ("labels", "teacher_logits") if key in train}
    columns |= train_feed.soft_targets(train, options.targets, names) if options.targets else {}
    order_of = sampler(options.sampling, columns["labels"][:count], names, seed=options.seed)
    return train_feed.create(
        train,
        columns,
        functools.partial(view_order, order_of, views) if views > 1 else order_of,
        batch_size=size,
        steps_per_epoch=count // size,
        epochs=options.epochs,
        steps_per_dispatch=options.steps_per_dispatch,
        mesh=mesh,
    )


def _compiler(
    task: Task, optimizer: Optimizer, options: FitOptions, feed: train_feed.Feed, mesh: Mesh
) -> Callable[[Stage], train_feed.Run]:
    """Returns stage -> compiled steps; each stage compiles once."""
    make_step = functools.partial(
        make_train_step,
        task,
        optimizer.tx,
        ema_decay=options.ema_decay,
        seed=options.seed,
        accumulate=options.accumulate,
        scan=train_feed.scan_for(mesh),
    )
    return functools.cache(lambda stage: feed.compile(make_step(stage=stage), task.compiler_options))


def _scorer(task: Task, options: FitOptions, validation: Arrays, mesh: Mesh) -> Callable[[Any], dict[str, float]]:
    """Returns variables -> scores on the validation split."""
    apply, spec = task.eval_apply or task.apply, task.spec
    eval_step = inference.make_eval_step(apply, mean=spec.mean, std=spec.std, mesh=mesh)
    predict = functools.partial(inference.predict, eval_step, batch_size=options.eval_batch_size, mesh=mesh)
    return lambda variables: validate(predict, variables, validation, spec)

"""The training loop: feeds the steps, validates, keeps the best variables, and resumes where it was stopped."""

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
from ferjax.train import distributed, profiling, stored_views
from ferjax.train import feed as train_feed
from ferjax.train.history import exhausted, make_row, validate
from ferjax.train.monitor import Monitor, Watch
from ferjax.train.optim import Optimizer
from ferjax.train.options import FitOptions
from ferjax.train.run_folder import RunFolder
from ferjax.train.sampling import sampler
from ferjax.train.stages import Stage, stage_of
from ferjax.train.state import Arrays, Sums, init_state
from ferjax.train.step import Task, make_train_step


class Result(NamedTuple):
    """What `fit` returns: one row per epoch, the row with the best validation accuracy, its variables in numpy."""

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
    """Trains, evaluates after each epoch, keeps the best variables, and resumes where it was stopped.

    Args:
      task: what is learned; its spec is stored with the checkpoints, accuracy and hash filled in here.
      variables: initial variables.
      optimizer: from `ferjax.train.optim.create`; each of its stages compiles a step of its own.
      options: how it is learned.
      train: "images" (see `feed.create`), "labels", "columns" of more; stored views of all images, view after view.
      validation: the same for the split that selects the best epoch.
      workdir: where checkpoints and metrics.jsonl go; made if missing.
      config: the resolved configuration, stored beside the arrays.
      mesh: devices, with one axis "data" over which each batch is spread; the first device if not given.
      monitor: what is shown meanwhile.

    Raises:
      InputError: for sizes that do not fit, a non-finite loss, or a checkpoint that cannot be written.
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
    """Returns the batches of a run, at least one an epoch."""
    views = max(1, task.teacher.stored_views) if task.teacher else 1
    names, size, count = task.spec.class_names, options.batch_size, len(train["labels"]) // views
    if count < size:
        raise errors.InputError(
            f"cannot train {options.epochs} epochs with batches of {size} on {count} training images"
        )
    devices.check_batch(size, mesh, accumulate=options.accumulate, largest=count)
    columns = {key: np.asarray(train[key]) for key in ("labels", "teacher_logits") if key in train}
    columns |= train_feed.soft_targets(train, options.targets, names) if options.targets else {}
    order_of = sampler(options.sampling, columns["labels"][:count], names, seed=options.seed)
    return train_feed.create(
        train,
        columns,
        stored_views.chosen(order_of, views) if views > 1 else order_of,
        batch_size=size,
        steps_per_epoch=count // size,
        epochs=options.epochs,
        steps_per_dispatch=options.steps_per_dispatch,
        mesh=mesh,
    )


def _compiler(
    task: Task, optimizer: Optimizer, options: FitOptions, feed: train_feed.Feed, mesh: Mesh
) -> Callable[[Stage], train_feed.Run]:
    """Returns what compiles the steps of a stage, once for each."""
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
    """Returns variables -> what the network in evaluation scores on the validation split."""
    apply, spec = task.eval_apply or task.apply, task.spec
    eval_step = inference.make_eval_step(apply, mean=spec.mean, std=spec.std, mesh=mesh)
    predict = functools.partial(inference.predict, eval_step, batch_size=options.eval_batch_size, mesh=mesh)
    return lambda variables: validate(predict, variables, validation, spec)

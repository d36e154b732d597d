"""The training loop: feeds the steps, validates, keeps the best variables, and resumes where it was stopped."""

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh

from ferjax import augment as augmentation
from ferjax import devices, errors
from ferjax.evaluate import inference
from ferjax.evaluate.inference import ApplyFn
from ferjax.evaluate.metrics import best_row
from ferjax.spec import ModelSpec
from ferjax.train import distributed, profiling, stored_views
from ferjax.train import feed as train_feed
from ferjax.train.history import describe, exhausted, make_row, validate
from ferjax.train.optim import Optimizer
from ferjax.train.run_folder import RunFolder
from ferjax.train.sampling import sampler
from ferjax.train.stages import Stage
from ferjax.train.step import Arrays, Sums, TeacherFn, init_state, make_train_step


class Result(NamedTuple):
    """What `fit` returns: one row per epoch, and the row with the best validation accuracy."""

    history: list[dict[str, Any]]
    best: dict[str, Any]
    variables: Any


def check_sizes(sizes: Mapping[str, Any]) -> None:
    """Checks arguments of `fit` by name, those that there are.

    Raises:
      InputError: for one outside its range.
    """
    least = {"epochs": 1, "batch_size": 1, "eval_batch_size": 1, "steps_per_dispatch": 0, "patience": 0}
    for key, lowest in least.items():
        if not (value := sizes.get(key, lowest)) >= lowest:
            raise errors.InputError(f"fit.{key} must be {lowest} or more, got {value}")
    if not 0 <= (decay := sizes.get("ema_decay", 0.0)) < 1:
        raise errors.InputError(f"fit.ema_decay must be in [0, 1), got {decay}")


def fit(
    apply_fn: ApplyFn,
    variables: Mapping[str, Any],
    optimizer: Optimizer,
    loss_fn: Callable[..., jax.Array],
    *,
    train: Arrays,
    validation: Arrays,
    spec: ModelSpec,
    workdir: pathlib.Path,
    epochs: int,
    batch_size: int,
    eval_apply_fn: ApplyFn | None = None,
    augment: augmentation.Augment | None = None,
    teacher: TeacherFn | None = None,
    teacher_variables: Any = None,
    taps: Sequence[str] = (),
    views: int = 1,
    ema_decay: float = 0.0,
    patience: int = 0,
    seed: int = 0,
    sampling: str = "shuffled",
    targets: str = "",
    eval_batch_size: int = 256,
    accumulate: int = 1,
    steps_per_dispatch: int = 0,
    checkpoint_minutes: float = 5.0,
    config: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
    compiler_options: dict[str, Any] | None = None,
    on_epoch: Callable[[list[dict[str, Any]]], None] | None = None,
    progress: bool = True,
    profile: int = 0,
) -> Result:
    """Trains, evaluates after each epoch, keeps the best variables, and resumes where it was stopped.

    Args:
      apply_fn: the network, see `make_train_step`.
      variables: initial variables.
      optimizer: from `ferjax.train.optim.create`; each of its stages compiles a step of its own.
      loss_fn: see `make_train_step`.
      train: {"images": uint8 (N, H, W, C), "labels": int32 (N,)}, put on the device once; "columns" may hold more
        about each image, by name.
      validation: the same for the split that selects the best epoch.
      spec: the contract, stored with the checkpoints; its accuracy and hash are filled in here.
      workdir: where checkpoints and metrics.jsonl go; made if missing.
      epochs: passes over the training set; an incomplete last batch is left out, other examples each epoch.
      batch_size: examples per step.
      eval_apply_fn: the network for validation, in float32 where training computes in bfloat16.
      augment: see `make_train_step`.
      teacher: see `make_train_step`; metrics.jsonl then has `teacher_agreement`, the share of training examples, as
        augmented, on which student and teacher answer the same.
      teacher_variables: its variables, put on the device once and never stored.
      taps: see `make_train_step`.
      views: how many stored views of each image `train` holds, view after view, see `ferjax.train.stored_views`; an
        epoch takes one of each.
      ema_decay: see `make_train_step`; evaluation then uses the average.
      patience: stop after so many epochs of the last stage without a better validation accuracy; 0 never stops early.
      seed: of shuffling, augmentation and dropout.
      sampling: "shuffled" takes each example once an epoch, "balanced" each class equally often, see `balanced_order`.
      targets: the column of probabilities (N, classes) to learn in the place of the labels, such as "votes" of FER+.
      eval_batch_size: images per forward pass.
      accumulate: micro-batches into which each batch is cut, to fit a small device, see `ferjax.train.accumulation`.
      steps_per_dispatch: 0 chooses 1 on CPU and 32 elsewhere.
      checkpoint_minutes: how often the state is saved inside an epoch; it is saved after each epoch anyway.
      config: the resolved configuration, stored beside the arrays.
      mesh: devices, with one axis "data" over which each batch is spread, see `ferjax.devices.mesh`; the first device
        if not given.
      compiler_options: XLA's for the train step, by name, see `ferjax.models.compiler_options`.
      on_epoch: called with the history after each epoch; of several processes, in the first.
      progress: whether to show a bar on a terminal.
      profile: dispatches to trace, into WORKDIR/profile; 0 for none.

    Returns:
      history, best row, and the best variables as numpy arrays.

    Raises:
      InputError: for sizes that do not fit, a non-finite loss, or a checkpoint that cannot be written.
    """
    sizes = {"epochs": epochs, "batch_size": batch_size, "eval_batch_size": eval_batch_size, "patience": patience}
    check_sizes({**sizes, "steps_per_dispatch": steps_per_dispatch, "ema_decay": ema_decay})
    count = len(train["labels"]) // views
    steps_per_epoch = count // batch_size
    if not steps_per_epoch:
        raise errors.InputError(f"cannot train {epochs} epochs with batches of {batch_size} on {count} training images")
    mesh = mesh or devices.mesh(1)
    devices.check_batch(batch_size, mesh, accumulate=accumulate, largest=count)
    columns = {key: np.asarray(train[key]) for key in ("labels", "teacher_logits") if key in train}
    columns |= train_feed.soft_targets(train, targets, spec.class_names) if targets else {}
    order_of = sampler(sampling, columns["labels"][:count], spec.class_names, seed=seed)
    if views > 1:
        order_of = stored_views.chosen(order_of, views)

    make_step = functools.partial(
        make_train_step,
        apply_fn,
        loss_fn,
        optimizer.tx,
        num_classes=len(spec.class_names),
        mean=spec.mean,
        std=spec.std,
        augment=augment,
        teacher=teacher,
        taps=taps,
        ema_decay=ema_decay,
        seed=seed,
        accumulate=accumulate,
        loop=train_feed.loop_for(mesh),
    )
    eval_step = inference.make_eval_step(eval_apply_fn or apply_fn, mean=spec.mean, std=spec.std, mesh=mesh)
    zero = functools.partial(Sums.zero, taught=teacher is not None)
    more = () if teacher is None else (devices.replicate(teacher_variables, mesh),)
    folder = RunFolder(workdir, spec, config or {}, checkpoint_minutes)
    state, sums, history = folder.resume(init_state(variables, optimizer.tx, ema=bool(ema_decay)), zero())
    state, sums = devices.replicate((state, sums), mesh, may_alias=False)  # the steps donate them
    feed = train_feed.create(
        train,
        columns,
        order_of,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        steps_per_dispatch=steps_per_dispatch,
        mesh=mesh,
    )
    run_of = functools.cache(lambda stage: feed.compile(make_step(stage=stage), compiler_options))
    shown = progress and folder.writes
    bar = _progress_bar(epochs * steps_per_epoch * batch_size, int(state.step) * batch_size, enabled=shown)
    trace = profiling.Trace(workdir / "profile", dispatches=profile if folder.writes else 0)
    with bar, contextlib.closing(feed), contextlib.closing(trace):
        while len(history) < epochs and not exhausted(history, patience, optimizer.stages):
            epoch, start = len(history), time.perf_counter()
            stage = _stage_of(epoch, optimizer.stages)
            run, first, flag = run_of(stage), int(state.step), None
            step, end = first, (epoch + 1) * steps_per_epoch
            for steps, arguments in feed.dispatches(first, end):
                state, sums, new_flag = run(state, sums, *arguments, *more, steps=steps)
                trace.note(new_flag)
                # Wait for the dispatch before this one: the device never idles and a bad step shows at once.
                _stop_if_bad(flag, sums, workdir)
                flag, step = new_flag, step + steps
                bar.update(steps * batch_size)
                if step < end and folder.due():
                    _stop_if_bad(flag, sums, workdir)
                    folder.save_last(state, sums, history)
            _stop_if_bad(flag, sums, workdir)
            seconds = time.perf_counter() - start
            speed = (int(state.step) - first) * batch_size / seconds
            predict = functools.partial(inference.predict, eval_step, batch_size=eval_batch_size, mesh=mesh)
            scores = validate(predict, state.variables(), validation, spec)
            row = distributed.value_of_first(make_row(epoch, state, sums, optimizer, stage) | scores)
            history, sums = [*history, row], devices.replicate(zero(), mesh, may_alias=False)
            folder.close_epoch(state, sums, history)
            peak = profiling.peak_memory(mesh)
            folder.note_time(epoch=row["epoch"], seconds=seconds, images_per_second=speed, peak_device_bytes=peak)
            if folder.writes:
                bar.write(describe(row, epochs, speed))
                if on_epoch is not None:
                    on_epoch(history)
    return Result(history, best_row(history), folder.best_variables(state.variables()))


def _stop_if_bad(flag: jax.Array | None, sums: Sums, workdir: pathlib.Path) -> None:
    if flag is None or int(flag) == np.iinfo(np.int32).max:
        return
    raise errors.InputError(
        f"the loss or its gradient is not finite at step {int(flag)} ({int(sums.bad)} bad of the epoch's last "
        f"{int(sums.steps)} steps); {workdir} keeps the last good checkpoint. Lower optim.learning_rate, or set "
        "optim.clip_norm, under another --workdir"
    )


def _stage_of(epoch: int, stages: Sequence[Stage]) -> Stage:
    return max((s for s in stages if s.first_epoch <= epoch), key=lambda s: s.first_epoch)


def _progress_bar(total: int, initial: int, *, enabled: bool) -> tqdm.tqdm:
    disable = None if enabled else True  # None: tqdm is quiet when standard error is no terminal
    return tqdm.tqdm(total=total, initial=initial, disable=disable, unit="img", unit_scale=True, smoothing=0.05)

"""The training loop: feeds the steps, validates, keeps the best variables, and resumes where it was stopped."""

import contextlib
import functools
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import tqdm
from jax.sharding import Mesh

from ferjax import augment as augmentation
from ferjax import checkpoint, cli, devices, feeding, inference, metrics, prune, stored_views
from ferjax.freezing import Stage
from ferjax.optim import Optimizer
from ferjax.sampling import sampler
from ferjax.spec import ModelSpec
from ferjax.training import ApplyFn, Arrays, Sums, TeacherFn, TrainState, init_state, make_train_step


class Result(NamedTuple):
    """What `fit` returns: one row per epoch, and the row with the best validation accuracy."""

    history: list[dict[str, Any]]
    best: dict[str, Any]
    variables: Any


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
    steps_per_dispatch: int = 0,
    checkpoint_minutes: float = 5.0,
    config: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
    on_epoch: Callable[[list[dict[str, Any]]], None] | None = None,
    progress: bool = True,
) -> Result:
    """Trains, evaluates after each epoch, keeps the best variables, and resumes where it was stopped.

    Args:
      apply_fn: the network, see `make_train_step`.
      variables: initial variables.
      optimizer: from `ferjax.optim.create`; each of its stages compiles a step of its own.
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
      views: how many stored views of each image `train` holds, view after view, see `ferjax.stored_views`; an epoch
        takes one of each.
      ema_decay: see `make_train_step`; evaluation then uses the average.
      patience: stop after so many epochs of the last stage without a better validation accuracy; 0 never stops early.
      seed: of shuffling, augmentation and dropout.
      sampling: "shuffled" takes each example once an epoch, "balanced" each class equally often, see `balanced_order`.
      targets: the column of probabilities (N, classes) to learn in the place of the labels, such as "votes" of FER+.
      eval_batch_size: images per forward pass.
      steps_per_dispatch: 0 chooses 1 on CPU and 32 elsewhere.
      checkpoint_minutes: how often the state is saved inside an epoch; it is saved after each epoch anyway.
      config: the resolved configuration, stored beside the arrays.
      mesh: devices, with one axis "data"; the first device if not given.
      on_epoch: called with the history after each epoch.
      progress: whether to show a bar on a terminal.

    Returns:
      history, best row, and the best variables as numpy arrays.

    Raises:
      InputError: for sizes that do not fit, a non-finite loss, or a checkpoint that cannot be written.
    """
    count = len(train["labels"]) // views
    steps_per_epoch = count // max(batch_size, 1)
    if epochs < 1 or batch_size < 1 or not steps_per_epoch:
        raise cli.InputError(f"cannot train {epochs} epochs with batches of {batch_size} on {count} training images")
    mesh = mesh or devices.mesh(1)
    devices.check_batch(batch_size, mesh, largest=count)
    columns = {key: np.asarray(train[key]) for key in ("labels", "teacher_logits") if key in train}
    columns |= _soft_targets(train, targets, spec.class_names) if targets else {}
    order_of = sampler(sampling, columns["labels"][:count], spec.class_names, seed=seed)
    if views > 1:
        order_of = stored_views.chosen(order_of, views)
    workdir.mkdir(parents=True, exist_ok=True)

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
    )
    eval_step = inference.make_eval_step(eval_apply_fn or apply_fn, mean=spec.mean, std=spec.std, mesh=mesh)
    zero = functools.partial(Sums.zero, taught=teacher is not None)
    more = () if teacher is None else (devices.replicate(teacher_variables, mesh),)
    book = _Book(workdir, spec, config or {}, checkpoint_minutes)
    state, sums, history = book.resume(init_state(variables, optimizer.tx, ema=bool(ema_decay)), zero())
    state, sums = devices.replicate((state, sums), mesh, may_alias=False)  # the steps donate them
    feed = feeding.create(
        train,
        columns,
        order_of,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        steps_per_dispatch=steps_per_dispatch,
        mesh=mesh,
    )
    run_of = functools.cache(lambda stage: feed.compile(make_step(stage=stage)))
    bar = _progress_bar(epochs * steps_per_epoch * batch_size, int(state.step) * batch_size, enabled=progress)
    with bar, contextlib.closing(feed):
        while len(history) < epochs and not _exhausted(history, patience, optimizer.stages):
            epoch, start = len(history), time.perf_counter()
            stage = _stage_of(epoch, optimizer.stages)
            run, first, flag = run_of(stage), int(state.step), None
            step, end = first, (epoch + 1) * steps_per_epoch
            for steps, arguments in feed.dispatches(first, end):
                state, sums, new_flag = run(state, sums, *arguments, *more, steps=steps)
                # Wait for the dispatch before this one: the device never idles and a bad step shows at once.
                _stop_if_bad(flag, sums, workdir)
                flag, step = new_flag, step + steps
                bar.update(steps * batch_size)
                if step < end and book.due():
                    _stop_if_bad(flag, sums, workdir)
                    book.save_last(state, sums, history)
            _stop_if_bad(flag, sums, workdir)
            seconds = time.perf_counter() - start
            speed = (int(state.step) - first) * batch_size / seconds
            row = _row(epoch, state, sums, optimizer, stage)
            predict = functools.partial(inference.predict, eval_step, batch_size=eval_batch_size, mesh=mesh)
            row.update(_validate(predict, state.variables(), validation, spec))
            history, sums = [*history, row], devices.replicate(zero(), mesh, may_alias=False)
            book.close_epoch(state, sums, history)
            book.note_time(epoch=row["epoch"], seconds=seconds, images_per_second=speed)
            bar.write(_line(row, epochs, speed))
            if on_epoch is not None:
                on_epoch(history)
    _, best_variables, _ = checkpoint.load(workdir)
    return Result(history, best_row(history), best_variables)


def best_row(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the epoch with the highest validation accuracy, of those that pruned most; the earliest of equals."""
    return max(history, key=lambda row: (row.get("sparsity", 0.0), row["validation_accuracy"], -row["epoch"]))


class _Book:
    """Keeps a run's files: metrics.jsonl mirrors the history that the checkpoint holds, so neither runs ahead."""

    def __init__(self, workdir: pathlib.Path, spec: ModelSpec, config: Mapping[str, Any], minutes: float):
        self.workdir, self.spec, self.config, self.seconds = workdir, spec, config, 60 * minutes
        self.saved = time.monotonic()

    def resume(self, state: TrainState, sums: Sums) -> tuple[TrainState, Sums, list[dict[str, Any]]]:
        checkpoint.remove_unfinished(self.workdir)
        found = checkpoint.restore(self.workdir, {**state._asdict(), "sums": sums._asdict()})
        history: list[dict[str, Any]] = []
        if found is not None:
            arrays, meta = found
            sums, history = Sums(**arrays.pop("sums")), meta["history"]
            state = TrainState(**arrays)
            cli.note(f"continuing {self.workdir} after step {int(state.step)}")
        self._write_metrics(history)
        return state, sums, history

    def due(self) -> bool:
        return time.monotonic() - self.saved > self.seconds

    def close_epoch(self, state: TrainState, sums: Sums, history: list[dict[str, Any]]) -> None:
        """Writes best, then last, then the metrics: a kill between any two is mended by repeating the epoch."""
        row = history[-1]
        if best_row(history) is row:
            variables = jax.device_get(state.variables())
            spec = self.spec.replace(
                accuracy={"validation": row["validation_accuracy"]}, params_sha256=checkpoint.fingerprint(variables)
            )
            meta = {"spec": spec.to_json(), "config": self.config, "history": history}
            checkpoint.save(self.workdir, "best", row["step"], variables, meta, keep=1)
        self.save_last(state, sums, history)
        self._write_metrics(history)

    def save_last(self, state: TrainState, sums: Sums, history: list[dict[str, Any]]) -> None:
        tree = jax.device_get({**state._asdict(), "sums": sums._asdict()})
        meta = {"spec": self.spec.to_json(), "config": self.config, "history": history}
        checkpoint.save(self.workdir, "last", int(tree["step"]), tree, meta, keep=2)
        self.saved = time.monotonic()

    def note_time(self, **values: float) -> None:
        """Appends to timing.jsonl, apart from the metrics because clocks differ: an epoch's time since this start."""
        with open(self.workdir / "timing.jsonl", "a") as file:
            file.write(json.dumps({k: round(v, 3) for k, v in values.items()}) + "\n")

    def _write_metrics(self, history: list[dict[str, Any]]) -> None:
        path = self.workdir / "metrics.jsonl"
        part = path.with_suffix(".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in history))
        os.replace(part, path)


def _stop_if_bad(flag: jax.Array | None, sums: Sums, workdir: pathlib.Path) -> None:
    if flag is None or int(flag) == np.iinfo(np.int32).max:
        return
    raise cli.InputError(
        f"the loss or its gradient is not finite at step {int(flag)} ({int(sums.bad)} bad of the epoch's last "
        f"{int(sums.steps)} steps); {workdir} keeps the last good checkpoint. Lower optim.learning_rate, or set "
        "optim.clip_norm, under another --workdir"
    )


def _validate(predict: Callable[..., np.ndarray], variables: Any, data: Arrays, spec: ModelSpec) -> dict[str, float]:
    logits = predict(variables, data["images"]).astype(np.float64)
    labels = np.asarray(data["labels"])
    shifted = logits - logits.max(1, keepdims=True)
    loss = np.log(np.exp(shifted).sum(1)) - np.take_along_axis(shifted, labels[:, None], 1)[:, 0]
    counts = metrics.confusion(labels, logits.argmax(1), len(spec.class_names))
    return {
        "validation_loss": float(loss.mean()),
        "validation_accuracy": metrics.accuracy(counts),
        "validation_macro_f1": metrics.macro_f1(counts),
    }


def _soft_targets(train: Arrays, column: str, class_names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns {"targets": float32 (N, classes)} from a column of the training split.

    Raises:
      InputError: if there is no such column, or it holds no probabilities of the classes.
    """
    columns = train.get("columns", {})
    if column not in columns:
        raise cli.unknown("column in fit.targets", column, sorted(columns) or ["none: the data has no columns"])
    values = np.asarray(columns[column], np.float32)
    shape = (len(train["labels"]), len(class_names))
    if values.shape != shape or (values < 0).any() or not np.allclose(values.sum(-1), 1.0, atol=1e-3):
        raise cli.InputError(
            f"fit.targets: the column {column!r} of shape {values.shape} does not hold a probability for each of the "
            f"{shape[1]} classes that sum to 1 for each image"
        )
    return {"targets": values}


def _row(epoch: int, state: TrainState, sums: Sums, optimizer: Optimizer, stage: Stage) -> dict[str, Any]:
    total = jax.device_get(sums)
    step = int(state.step)
    pruned = prune.prunes(state.opt_state)
    return {
        "epoch": epoch + 1,
        "step": step,
        "learning_rate": stage.learning_rate * float(optimizer.schedule(step - 1)),
        "train_loss": float(total.loss) / int(total.examples),
        "train_accuracy": int(total.correct) / int(total.examples),
        "grad_norm": float(total.grad_norm) / int(total.steps),
        "update_norm": float(total.update_norm) / int(total.steps),
        "param_norm": float(optax.tree.norm(state.params)),
        **({"sparsity": prune.masked_share(prune.find_masks(state.opt_state))} if pruned else {}),
        **({} if isinstance(total.agreed, tuple) else {"teacher_agreement": int(total.agreed) / int(total.examples)}),
    }


def _stage_of(epoch: int, stages: Sequence[Stage]) -> Stage:
    return max((s for s in stages if s.first_epoch <= epoch), key=lambda s: s.first_epoch)


def _exhausted(history: Sequence[dict[str, Any]], patience: int, stages: Sequence[Stage]) -> bool:
    if not (patience and history):
        return False
    return len(history) - max(best_row(history)["epoch"], stages[-1].first_epoch) >= patience


def _progress_bar(total: int, initial: int, *, enabled: bool) -> tqdm.tqdm:
    disable = None if enabled else True  # None: tqdm is quiet when standard error is no terminal
    return tqdm.tqdm(total=total, initial=initial, disable=disable, unit="img", unit_scale=True, smoothing=0.05)


def _line(row: Mapping[str, Any], epochs: int, speed: float) -> str:
    return (
        f"epoch {row['epoch']:3d}/{epochs}  loss {row['train_loss']:.4f}  accuracy {row['train_accuracy']:.4f}  "
        f"validation loss {row['validation_loss']:.4f}  accuracy {row['validation_accuracy']:.4f}  "
        f"({speed:.0f} images/s)"
    )

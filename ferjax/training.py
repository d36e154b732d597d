"""The training core: arrays-only state, one train step, and the loop that feeds it.

State holds arrays only and every random key is `fold_in(key(seed), step)`, so a run that was killed and resumed equals
the uninterrupted one bit for bit.
"""

import functools
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ferjax import augment as augmentation
from ferjax import checkpoint, cli, metrics
from ferjax.optim import Optimizer
from ferjax.spec import ModelSpec

ApplyFn = Callable[..., Any]
LossFn = Callable[[jax.Array, jax.Array], jax.Array]
Arrays = Mapping[str, Any]


class TrainState(NamedTuple):
    """Everything that a step changes, arrays only.

    Attributes:
      step: int32 scalar, optimiser steps taken.
      params: trainable parameters, float32.
      collections: the other variables, such as {"batch_stats": …}.
      opt_state: the optax state.
      ema: running average of all variables, or {} if none is kept.
    """

    step: jax.Array
    params: Any
    collections: Any
    opt_state: Any
    ema: Any

    def variables(self) -> dict[str, Any]:
        """Returns what evaluation uses: the average if there is one, else the current variables."""
        return self.ema or {"params": self.params, **self.collections}


class Sums(NamedTuple):
    """Sums over the steps of one epoch, kept on the device.

    Attributes:
      loss: float32, sum of the per-example losses.
      correct: int32, examples whose largest logit is their (largest) target's.
      count: int32, examples.
      steps: int32.
      grad_norm: float32, sum over steps of the gradient's global norm, before clipping.
      update_norm: float32, sum over steps of the update's global norm.
      bad: int32, steps whose loss or gradient was not finite.
      first_bad: int32, the first such step, or the largest int32.
    """

    loss: jax.Array
    correct: jax.Array
    count: jax.Array
    steps: jax.Array
    grad_norm: jax.Array
    update_norm: jax.Array
    bad: jax.Array
    first_bad: jax.Array

    @classmethod
    def zero(cls) -> "Sums":
        """Returns empty sums."""
        real, whole = jnp.float32, jnp.int32
        none = jnp.array(np.iinfo(np.int32).max, whole)
        types = (real, whole, whole, whole, real, real, whole)
        return cls(*(jnp.zeros((), t) for t in types), first_bad=none)  # one buffer each: they are donated

    def add(self, other: "Sums") -> "Sums":
        """Returns the sums over both."""
        total = jax.tree.map(jnp.add, self, other)
        return total._replace(first_bad=jnp.minimum(self.first_bad, other.first_bad))


class Result(NamedTuple):
    """What `fit` returns: one row per epoch, and the row with the best validation accuracy."""

    history: list[dict[str, Any]]
    best: dict[str, Any]
    variables: Any


def init_state(variables: Mapping[str, Any], tx: optax.GradientTransformation, *, ema: bool = False) -> TrainState:
    """Returns the state of step 0.

    Args:
      variables: {"params": …, other collections}.
      tx: the optimiser.
      ema: whether an average of the variables is kept.
    """
    params = variables["params"]
    collections = {k: v for k, v in variables.items() if k != "params"}
    average = jax.tree.map(jnp.array, dict(variables)) if ema else {}
    return TrainState(jnp.zeros((), jnp.int32), params, collections, tx.init(params), average)


def make_train_step(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    augment: augmentation.Augment | None = None,
    ema_decay: float = 0.0,
    seed: int = 0,
) -> Callable[[TrainState, Arrays], tuple[TrainState, Sums]]:
    """Builds the one pure train step.

    Args:
      apply_fn: apply_fn(variables, x, train=…, mutable=…, rngs=…) -> (logits, changed collections).
      loss_fn: (logits (N, C), targets (N, C)) -> per-example losses (N,).
      tx: the optimiser; pruning, if any, last in its chain.
      num_classes: C.
      mean: per channel, 0..1 scale.
      std: per channel, 0..1 scale.
      augment: (key, batch) -> batch on images in 0..1, before normalisation.
      ema_decay: 0 for none; else the average's decay, with a warm-up min(decay, (1 + step) / (10 + step)).
      seed: of dropout and augmentation.

    Returns:
      step(state, {"images": uint8 (N, H, W, C), "labels": int32 (N,)}) -> (state, sums over the batch), to be jitted.
    """

    def step(state: TrainState, batch: Arrays) -> tuple[TrainState, Sums]:
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
        targets = jax.nn.one_hot(batch["labels"], num_classes, dtype=jnp.float32)
        example = {"images": augmentation.to_float(batch["images"]), "targets": targets}
        if augment is not None:
            example = augment(augment_key, example)
        inputs = augmentation.normalize(example["images"], mean=mean, std=std)

        def mean_loss(params):
            logits, changed = apply_fn(
                {"params": params, **state.collections},
                inputs,
                train=True,
                mutable=list(state.collections),
                rngs={"dropout": dropout_key},
            )
            losses = loss_fn(logits, example["targets"])
            return losses.mean(), (losses.sum(), logits, changed)

        (loss, (total, logits, changed)), grads = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        collections = {**state.collections, **changed}
        ema = _average(state.ema, {"params": params, **collections}, ema_decay, state.step)
        grad_norm = optax.tree.norm(grads)
        bad = ~(jnp.isfinite(loss) & jnp.isfinite(grad_norm))
        sums = Sums(
            loss=total.astype(jnp.float32),
            correct=(logits.argmax(-1) == example["targets"].argmax(-1)).sum(dtype=jnp.int32),
            count=jnp.array(logits.shape[0], jnp.int32),
            steps=jnp.array(1, jnp.int32),
            grad_norm=grad_norm.astype(jnp.float32),
            update_norm=optax.tree.norm(updates).astype(jnp.float32),
            bad=bad.astype(jnp.int32),
            first_bad=jnp.where(bad, state.step, np.iinfo(np.int32).max).astype(jnp.int32),
        )
        return TrainState(state.step + 1, params, collections, opt_state, ema), sums

    return step


def make_eval_step(
    apply_fn: ApplyFn, *, mean: Sequence[float], std: Sequence[float]
) -> Callable[[Any, jax.Array], jax.Array]:
    """Builds (variables, images uint8 (N, H, W, C)) -> logits float32 (N, classes), jitted."""

    @jax.jit
    def step(variables: Any, images: jax.Array) -> jax.Array:
        inputs = augmentation.normalize(augmentation.to_float(images), mean=mean, std=std)
        return apply_fn(variables, inputs, train=False).astype(jnp.float32)

    return step


def predict(
    eval_step: Callable[[Any, jax.Array], jax.Array], variables: Any, images: Any, *, batch_size: int = 256
) -> np.ndarray:
    """Runs each image exactly once; the last batch is padded to full size and its padding dropped.

    Args:
      eval_step: from `make_eval_step`.
      variables: the model's variables.
      images: uint8 (N, H, W, C), N at least 1.
      batch_size: images per call.

    Returns:
      float32 logits (N, classes).

    Raises:
      InputError: if there are no images.
    """
    count = len(images)
    if not count:
        raise cli.InputError("there is no image to evaluate: the split is empty")
    size = min(batch_size, count)
    logits = []
    for start in range(0, count, size):
        batch = np.asarray(images[start : start + size])
        padding = [(0, size - len(batch))] + [(0, 0)] * (batch.ndim - 1)
        logits.append(eval_step(variables, np.pad(batch, padding)))
    return np.concatenate([np.asarray(l) for l in logits])[:count]


def make_resident_steps(
    train_step: Callable[[TrainState, Arrays], tuple[TrainState, Sums]], *, batch_size: int, mesh: Mesh
) -> Callable[..., tuple[TrainState, Sums, jax.Array]]:
    """Builds the dispatch that takes several steps over data resident on the device.

    Returns:
      run(state, sums, data, order, position, steps=K) -> (state, sums, flag): batch i holds the examples
      order[position + i · B : …]; `flag` is first_bad, cheap to wait for. State and sums are donated. On CPU the steps
      are unrolled: XLA's CPU scan over convolutions is far too slow.
    """
    spread = NamedSharding(mesh, PartitionSpec("data"))

    @functools.partial(jax.jit, static_argnames="steps", donate_argnums=(0, 1))
    def run(state: TrainState, sums: Sums, data: Arrays, order: jax.Array, position: jax.Array, *, steps: int):
        def one(carry, index):
            state, sums = carry
            chosen = jax.lax.dynamic_slice_in_dim(order, position + index * batch_size, batch_size)
            batch = {k: jax.lax.with_sharding_constraint(v[chosen], spread) for k, v in data.items()}
            state, new = train_step(state, batch)
            return (state, sums.add(new)), None

        carry = (state, sums)
        if steps == 1 or mesh.devices.flat[0].platform == "cpu":
            for index in range(steps):
                carry, _ = one(carry, jnp.array(index, jnp.int32))
        else:
            carry, _ = jax.lax.scan(one, carry, jnp.arange(steps, dtype=jnp.int32))
        state, sums = carry
        return state, sums, sums.first_bad + 0

    return run


@functools.partial(jax.jit, static_argnames=("seed", "count"))
def epoch_order(*, seed: int, epoch: jax.Array, count: int) -> jax.Array:
    """Returns the order int32 (count,) in which an epoch takes its examples."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0x5EED), epoch)
    return jax.random.permutation(key, count).astype(jnp.int32)


def fit(
    apply_fn: ApplyFn,
    variables: Mapping[str, Any],
    optimizer: Optimizer,
    loss_fn: LossFn,
    *,
    train: Arrays,
    validation: Arrays,
    spec: ModelSpec,
    workdir: pathlib.Path,
    epochs: int,
    batch_size: int,
    eval_apply_fn: ApplyFn | None = None,
    augment: augmentation.Augment | None = None,
    ema_decay: float = 0.0,
    patience: int = 0,
    seed: int = 0,
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
      optimizer: from `ferjax.optim.create`.
      loss_fn: see `make_train_step`.
      train: {"images": uint8 (N, H, W, C), "labels": int32 (N,)}, put on the device once.
      validation: the same for the split that selects the best epoch.
      spec: the contract, stored with the checkpoints; its accuracy and hash are filled in here.
      workdir: where checkpoints and metrics.jsonl go.
      epochs: passes over the training set; an incomplete last batch is left out, other examples each epoch.
      batch_size: examples per step.
      eval_apply_fn: the network for validation, in float32 where training computes in bfloat16.
      augment: see `make_train_step`.
      ema_decay: see `make_train_step`; evaluation then uses the average.
      patience: stop after so many epochs without a better validation accuracy; 0 never stops early.
      seed: of shuffling, augmentation and dropout.
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
    count = len(train["labels"])
    steps_per_epoch = count // batch_size
    if epochs < 1 or batch_size < 1 or not steps_per_epoch:
        raise cli.InputError(f"cannot train {epochs} epochs with batches of {batch_size} on {count} training images")
    mesh = mesh or Mesh(np.array(jax.devices()[:1]), ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    chunk = steps_per_dispatch or (1 if mesh.devices.flat[0].platform == "cpu" else 32)
    train_step = make_train_step(
        apply_fn,
        loss_fn,
        optimizer.tx,
        num_classes=len(spec.class_names),
        mean=spec.mean,
        std=spec.std,
        augment=augment,
        ema_decay=ema_decay,
        seed=seed,
    )
    run = make_resident_steps(train_step, batch_size=batch_size, mesh=mesh)
    eval_step = make_eval_step(eval_apply_fn or apply_fn, mean=spec.mean, std=spec.std)
    book = _Book(workdir, spec, config or {}, checkpoint_minutes)
    state, sums, history = book.resume(init_state(variables, optimizer.tx, ema=bool(ema_decay)))
    state, sums = jax.device_put((state, sums), everywhere, may_alias=False)  # the steps donate them
    data = jax.device_put({k: np.asarray(train[k]) for k in ("images", "labels")}, everywhere)
    bar = _progress_bar(epochs * steps_per_epoch * batch_size, int(state.step) * batch_size, enabled=progress)
    with bar:
        while len(history) < epochs and not _exhausted(history, patience):
            epoch, start = len(history), time.perf_counter()
            order = epoch_order(seed=seed, epoch=jnp.array(epoch, jnp.int32), count=count)
            position, first, flag = int(state.step) - epoch * steps_per_epoch, int(state.step), None
            while position < steps_per_epoch:
                steps = min(chunk, steps_per_epoch - position)
                at = jnp.array(position * batch_size, jnp.int32)
                state, sums, new_flag = run(state, sums, data, order, at, steps=steps)
                # Wait for the dispatch before this one: the device never idles and a bad step shows at once.
                _stop_if_bad(flag, sums, workdir)
                flag, position = new_flag, position + steps
                bar.update(steps * batch_size)
                if position < steps_per_epoch and book.due():
                    _stop_if_bad(flag, sums, workdir)
                    book.save_last(state, sums, history)
            _stop_if_bad(flag, sums, workdir)
            speed = (int(state.step) - first) * batch_size / (time.perf_counter() - start)
            row = _row(epoch, state, sums, optimizer)
            row.update(_validate(eval_step, state.variables(), validation, spec, eval_batch_size))
            history, sums = [*history, row], jax.device_put(Sums.zero(), everywhere, may_alias=False)
            book.close_epoch(state, sums, history)
            bar.write(_line(row, epochs, speed))
            if on_epoch is not None:
                on_epoch(history)
    _, best_variables, _ = checkpoint.load(workdir)
    return Result(history, best_row(history), best_variables)


def best_row(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the epoch with the highest validation accuracy; the earliest of equals."""
    return max(history, key=lambda row: (row["validation_accuracy"], -row["epoch"]))


class _Book:
    """Keeps a run's files: metrics.jsonl mirrors the history that the checkpoint holds, so neither runs ahead."""

    def __init__(self, workdir: pathlib.Path, spec: ModelSpec, config: Mapping[str, Any], minutes: float):
        self.workdir, self.spec, self.config, self.seconds = workdir, spec, config, 60 * minutes
        self.saved = time.monotonic()

    def resume(self, state: TrainState) -> tuple[TrainState, Sums, list[dict[str, Any]]]:
        checkpoint.remove_unfinished(self.workdir)
        found = checkpoint.restore(self.workdir, {**state._asdict(), "sums": Sums.zero()._asdict()})
        history: list[dict[str, Any]] = []
        sums = Sums.zero()
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

    def _write_metrics(self, history: list[dict[str, Any]]) -> None:
        path = self.workdir / "metrics.jsonl"
        part = path.with_suffix(".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in history))
        os.replace(part, path)


def _average(ema: Any, variables: Any, decay: float, step: jax.Array) -> Any:
    if not decay:
        return ema
    now = step.astype(jnp.float32)
    keep = jnp.minimum(decay, (1.0 + now) / (10.0 + now))
    return jax.tree.map(lambda a, v: keep * a + (1.0 - keep) * v, ema, variables)


def _stop_if_bad(flag: jax.Array | None, sums: Sums, workdir: pathlib.Path) -> None:
    if flag is None or int(flag) == np.iinfo(np.int32).max:
        return
    raise cli.InputError(
        f"the loss or its gradient is not finite at step {int(flag)} ({int(sums.bad)} bad of the epoch's last "
        f"{int(sums.steps)} steps); {workdir} keeps the last good checkpoint. Lower optim.learning_rate, or set "
        "optim.clip_norm, under another --workdir"
    )


def _validate(
    eval_step: Callable[..., jax.Array], variables: Any, data: Arrays, spec: ModelSpec, batch_size: int
) -> dict[str, float]:
    logits = predict(eval_step, variables, data["images"], batch_size=batch_size).astype(np.float64)
    labels = np.asarray(data["labels"])
    shifted = logits - logits.max(1, keepdims=True)
    loss = np.log(np.exp(shifted).sum(1)) - np.take_along_axis(shifted, labels[:, None], 1)[:, 0]
    counts = metrics.confusion(labels, logits.argmax(1), len(spec.class_names))
    return {
        "validation_loss": float(loss.mean()),
        "validation_accuracy": metrics.accuracy(counts),
        "validation_macro_f1": metrics.macro_f1(counts),
    }


def _row(epoch: int, state: TrainState, sums: Sums, optimizer: Optimizer) -> dict[str, Any]:
    total = jax.device_get(sums)
    step = int(state.step)
    return {
        "epoch": epoch + 1,
        "step": step,
        "learning_rate": float(optimizer.schedule(step - 1)),
        "train_loss": float(total.loss) / int(total.count),
        "train_accuracy": int(total.correct) / int(total.count),
        "grad_norm": float(total.grad_norm) / int(total.steps),
        "update_norm": float(total.update_norm) / int(total.steps),
        "param_norm": float(optax.tree.norm(state.params)),
    }


def _exhausted(history: Sequence[dict[str, Any]], patience: int) -> bool:
    return bool(patience and history) and len(history) - best_row(history)["epoch"] >= patience


def _progress_bar(total: int, initial: int, *, enabled: bool) -> tqdm.tqdm:
    disable = None if enabled else True  # None: tqdm is quiet when standard error is no terminal
    return tqdm.tqdm(total=total, initial=initial, disable=disable, unit="img", unit_scale=True, smoothing=0.05)


def _line(row: Mapping[str, Any], epochs: int, speed: float) -> str:
    return (
        f"epoch {row['epoch']:3d}/{epochs}  loss {row['train_loss']:.4f}  accuracy {row['train_accuracy']:.4f}  "
        f"validation loss {row['validation_loss']:.4f}  accuracy {row['validation_accuracy']:.4f}  "
        f"({speed:.0f} images/s)"
    )

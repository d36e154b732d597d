"""Builds the train step, a pure function: state and batch -> next state and the batch's sums.

Gradient accumulation splits a batch into micro-batches. The mean of their gradients is the gradient of the batch, so
learning rate and schedule stay the same. Batch normalization takes its statistics over a micro-batch (ghost batch
normalization, Hoffer et al. 2017), and running statistics are updated once per micro-batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ferjax import augment as augmentation
from ferjax import errors, prune
from ferjax.evaluate.inference import ApplyFn
from ferjax.spec import ModelSpec
from ferjax.train import stages
from ferjax.train.stages import WHOLE, Stage
from ferjax.train.state import Arrays, Sums, TrainState

_COLUMNS = 256  # of the array that norms are computed from


class Outputs(NamedTuple):
    """The outputs of a network for a batch: logits (N, C), and intermediates by name."""

    logits: jax.Array
    taps: Mapping[str, jax.Array]


LossFn = Callable[[jax.Array, jax.Array], jax.Array]
TaughtLossFn = Callable[[Outputs, jax.Array, Outputs], jax.Array]
TeacherFn = Callable[[Any, Mapping[str, jax.Array]], Outputs]
TrainStep = Callable[..., tuple[TrainState, Sums]]
Scan = Callable[..., tuple[Any, Any]]  # `jax.lax.scan` or an equivalent


class Teacher(NamedTuple):
    """One or more trained networks that a student learns from, see `ferjax.train.teacher.load`.

    Attributes:
      apply: (variables, augmented batch) -> `Outputs`; takes the student's images in 0..1, before normalization. Taps
        are prefixed by the teacher's number: "0/stage3".
      variables: of all teachers; an argument of the compiled step, not stored in checkpoints.
      specs: one per teacher.
      stored_views: K, see `ferjax.train.stored_views`; 0 if the teacher runs in the step.
      clean: whether it sees the images without the faults of `Task.camera`.
      modules: the linen modules of the networks that run in the step.
    """

    apply: TeacherFn
    variables: Any
    specs: tuple[ModelSpec, ...] = ()
    stored_views: int = 0
    clean: bool = False
    modules: tuple[Any, ...] = ()


class Task(NamedTuple):
    """The network to train and the pure functions around it.

    Attributes:
      apply: apply(variables, x, train=…, mutable=…, rngs=…) -> (logits, changed collections). The variables may have a
        collection "frozen", see `ferjax.train.stages.frozen_modules`.
      loss: a `LossFn`, (logits (N, C), targets (N, C)) -> losses (N,); with a teacher a `TaughtLossFn`, (student's
        `Outputs`, targets, teacher's `Outputs`) -> losses (N,).
      spec: the C classes, mean and standard deviation.
      augment: (key, batch) -> batch; on images in 0..1, before normalization.
      camera: (key, images) -> images with camera faults, after `augment`; see `ferjax.augment.camera`.
      teacher: None to learn from labels alone.
      taps: names of the student's intermediates that a `TaughtLossFn` reads.
      eval_apply: apply function for validation, in float32 (default: `apply`).
      compiler_options: XLA's options for the step, see `ferjax.models.compiler_options`.
    """

    apply: ApplyFn
    loss: Callable[..., jax.Array]
    spec: ModelSpec
    augment: augmentation.Augment | None = None
    camera: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    teacher: Teacher | None = None
    taps: Sequence[str] = ()
    eval_apply: ApplyFn | None = None
    compiler_options: dict[str, Any] | None = None


def make_train_step(
    task: Task,
    tx: optax.GradientTransformation,
    *,
    ema_decay: float = 0.0,
    seed: int = 0,
    accumulate: int = 1,
    stage: Stage = WHOLE,
    scan: Scan = jax.lax.scan,
) -> TrainStep:
    """Builds the train step of training and distillation.

    Args:
      task: the network and its loss.
      tx: the optimizer, with pruning last in its chain. Its update receives `stage` and `gradients` (for pruning).
      ema_decay: decay of the moving average, in [0, 1), at most (1 + step) / (10 + step); 0 for none.
      seed: seed of dropout and augmentation.
      accumulate: micro-batches per batch; augmentation sees the whole batch.
      stage: the trained parameters. The others and their modules' statistics stay bit for bit, without gradients.
      scan: the loop over micro-batches.

    Returns:
      step(state, {"images": uint8 (N, H, W, C), "labels": int32 (N,)}) -> (state, sums), to be jitted. With a teacher,
      its variables are the third argument. "targets" float32 (N, C) in the batch replace the one-hot labels.
    """
    update = optax.with_extra_args_support(tx).update

    def step(state: TrainState, batch: Arrays, teacher_variables: Any = None) -> tuple[TrainState, Sums]:
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
        example = _example(task, batch, augment_key)
        mask, statistics = stages.trained(stage, state.params, state.collections)
        learn = _learner(task, state.params, mask, stages.frozen_modules(statistics), teacher_variables)
        if accumulate == 1:
            learned = learn(state.collections, example, dropout_key)
        else:
            learned = learn_in_parts(learn, state.collections, example, dropout_key, parts=accumulate, scan=scan)
        grads = learned.grads
        updates, opt_state = update(grads, state.opt_state, state.params, stage=stage, gradients=grads)
        params = stages.select(mask, optax.apply_updates(state.params, updates), state.params)
        collections = stages.select(statistics, {**state.collections, **learned.changed}, state.collections)
        ema = _average(state.ema, {"params": params, **collections}, ema_decay, state.step)
        if ema and prune.prunes(opt_state):  # in a moving average, pruned weights only decay
            ema = {**ema, "params": prune.apply_masks(ema["params"], prune.find_masks(opt_state))}
        sums = _sums(learned, updates, examples=len(example["targets"]), step=state.step)
        return TrainState(state.step + 1, params, collections, opt_state, ema), sums

    return step


class Learned(NamedTuple):
    """The results of one batch or micro-batch.

    Attributes:
      grads: gradient of the mean loss.
      changed: the updated collections.
      loss: scalar, mean of the per-example losses.
      total: scalar, their sum.
      correct: int32, see `ferjax.train.state.Sums`.
      agreed: int32, or () without a teacher.
    """

    grads: Any
    changed: Any
    loss: jax.Array
    total: jax.Array
    correct: jax.Array
    agreed: Any


Learn = Callable[[Any, Mapping[str, jax.Array], jax.Array], Learned]


def learn_in_parts(
    learn: Learn, collections: Any, batch: Mapping[str, jax.Array], key: jax.Array, *, parts: int, scan: Scan
) -> Learned:
    """Processes micro-batches one after the other; returns mean gradients and loss, sums of counts, final collections.

    Micro-batch i holds the examples i, i + parts, i + 2 · parts, …, so that examples stay on their devices. It uses
    fold_in(key, i) and continues with the collections of the previous one. N must be a multiple of `parts`.
    """
    cut = {name: a.reshape(len(a) // parts, parts, *a.shape[1:]) for name, a in batch.items()}

    def one(carry: Any, index: jax.Array) -> tuple[Any, None]:
        so_far, collections = carry
        place = _after(so_far.grads, index)
        piece = {name: jax.lax.dynamic_index_in_dim(a, place, 1, keepdims=False) for name, a in cut.items()}
        new = learn(collections, piece, jax.random.fold_in(key, index))
        so_far = jax.tree.map(jnp.add, so_far, new._replace(changed=()))
        return (so_far, {**collections, **new.changed}), None

    example = {name: jax.ShapeDtypeStruct(a[:, 0].shape, a.dtype) for name, a in cut.items()}
    shapes = jax.eval_shape(learn, collections, example, key)._replace(changed=())
    start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (sums, collections), _ = scan(one, (start, collections), jnp.arange(parts, dtype=jnp.int32))
    grads, loss = jax.tree.map(lambda a: a / parts, (sums.grads, sums.loss))
    return sums._replace(grads=grads, loss=loss, changed=collections)


def pick(state: Mapping[str, Any], names: Sequence[str]) -> dict[str, jax.Array]:
    """Returns the named intermediates from the state of linen's `apply`; raises InputError for an unknown name."""
    found = state.get("intermediates", {})
    if missing := [name for name in names if name not in found]:
        have = [name for name, value in found.items() if isinstance(value, tuple)]
        raise errors.unknown("intermediate of the network", missing[0], have)
    return {name: found[name][0] for name in names}


def _example(task: Task, batch: Arrays, key: jax.Array) -> Mapping[str, jax.Array]:
    """Returns the augmented batch: images in 0..1, targets (N, C), and "clean" images for a teacher that sees those."""
    real = jnp.result_type(float)  # float32, or float64 with jax_enable_x64
    classes = len(task.spec.class_names)
    targets = batch.get("targets", jax.nn.one_hot(batch["labels"], classes, dtype=jnp.float32)).astype(real)
    example = {**batch, "images": augmentation.to_float(batch["images"]).astype(real), "targets": targets}
    if task.augment is not None:
        example = task.augment(key, example)
    if task.camera is None:
        return example
    clean = {"clean": example["images"]} if task.teacher is not None and task.teacher.clean else {}
    return {**example, **clean, "images": task.camera(key, example["images"])}


def _learner(task: Task, params: Any, mask: Any, frozen: Mapping[str, Any], teacher_variables: Any) -> Learn:
    """Returns the function that computes loss and gradient of a batch; `mask` is True for trained parameters."""
    extra = {"frozen": frozen} if frozen else {}

    def learn(collections: Any, example: Mapping[str, jax.Array], key: jax.Array) -> Learned:
        inputs = augmentation.normalize(example["images"], mean=task.spec.mean, std=task.spec.std)
        taught = None if task.teacher is None else task.teacher.apply(teacher_variables, example)

        def mean_loss(params: Any) -> tuple[jax.Array, Any]:
            params = stages.select(mask, params, jax.lax.stop_gradient(params))
            logits, changed = task.apply(
                {"params": params, **collections, **extra},
                inputs,
                train=True,
                mutable=[*collections, *(["intermediates"] if task.taps else [])],
                rngs={"dropout": key},
            )
            if taught is None:
                losses = task.loss(logits, example["targets"])
            else:
                losses = task.loss(Outputs(logits, pick(changed, task.taps)), example["targets"], taught)
            return losses.mean(), (losses.sum(), logits, {k: changed[k] for k in collections})

        (loss, (total, logits, changed)), grads = jax.value_and_grad(mean_loss, has_aux=True)(params)
        correct = _same_answer(logits, example["targets"])
        agreed = () if taught is None else _same_answer(logits, taught.logits)
        return Learned(grads, changed, loss, total, correct, agreed)

    return learn


def _sums(learned: Learned, updates: Any, *, examples: int, step: jax.Array) -> Sums:
    real = jnp.result_type(float)
    grad_norm = _norm(learned.grads)
    bad = ~(jnp.isfinite(learned.loss) & jnp.isfinite(grad_norm))
    return Sums(
        loss=learned.total.astype(real),
        correct=learned.correct,
        examples=jnp.array(examples, jnp.int32),
        steps=jnp.array(1, jnp.int32),
        grad_norm=grad_norm.astype(real),
        update_norm=_norm(updates).astype(real),
        bad=bad.astype(jnp.int32),
        first_bad=jnp.where(bad, step, np.iinfo(np.int32).max).astype(jnp.int32),
        agreed=learned.agreed,
    )


def _after(grads: Any, index: jax.Array) -> jax.Array:
    """Returns the index with a data dependency on the gradients; equal for finite gradients.

    In an unrolled loop, XLA would compute all micro-batches at once, which saves no memory. Its CPU backend drops
    `jax.lax.optimization_barrier` before scheduling. Temporary memory of a step in eight parts (jax 0.10): 13.3 MB in
    one part, 12.1 MB with the barrier, 1.7 MB with this dependency.
    """
    some = sum(jnp.isnan(leaf.reshape(-1)[0]).astype(jnp.int32) for leaf in jax.tree.leaves(grads) if leaf.size)
    return index + some


def _norm(tree: Any) -> jax.Array:
    """Returns the global norm, from the sums of the columns of one array.

    XLA on CPUs adds the squares of a vector one after the other: for 1.2 million values, that takes twice as long, and
    the norm is up to 0.8 % too small. Adding up the leaves instead compiles to three loops per parameter.
    """
    flat = [leaf.ravel() for leaf in jax.tree.leaves(tree)]
    gap = jnp.zeros(-sum(each.size for each in flat) % _COLUMNS, flat[0].dtype)
    return jnp.sqrt(jnp.square(jnp.concatenate([*flat, gap]).reshape(-1, _COLUMNS)).sum(0).sum())


def _same_answer(logits: jax.Array, others: jax.Array) -> jax.Array:
    return (logits.argmax(-1) == others.argmax(-1)).sum(dtype=jnp.int32)


def _average(ema: Any, variables: Any, decay: float, step: jax.Array) -> Any:
    if not decay:
        return ema
    now = step.astype(jnp.float32)
    keep = jnp.minimum(decay, (1.0 + now) / (10.0 + now))
    # In this form the average of a frozen parameter equals it bit for bit.
    return jax.tree.map(lambda a, v: a + (1.0 - keep) * (v - a), ema, variables)

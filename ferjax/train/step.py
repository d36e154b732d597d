"""The train step: a pure function from the state and a batch to the next state and the batch's sums.

A batch that does not fit a device at once is learned from in micro-batches (gradient accumulation). The mean of their
gradients is the batch's gradient, so learning rate and schedule stay the same. What the network does across examples,
it does within a micro-batch: batch normalization takes its mean and variance over one (Hoffer et al. 2017 call it ghost
batch normalization), and running statistics move once for each.
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


class Outputs(NamedTuple):
    """What a network returns for a batch: logits (N, C), and the intermediates that were asked for, by name."""

    logits: jax.Array
    taps: Mapping[str, jax.Array]


LossFn = Callable[[jax.Array, jax.Array], jax.Array]
TaughtLossFn = Callable[[Outputs, jax.Array, Outputs], jax.Array]
TeacherFn = Callable[[Any, Mapping[str, jax.Array]], Outputs]
TrainStep = Callable[..., tuple[TrainState, Sums]]
Scan = Callable[..., tuple[Any, Any]]  # `jax.lax.scan`, or what does the same


class Teacher(NamedTuple):
    """Trained networks whose answers are learned beside the labels, see `ferjax.train.teacher.load`.

    Attributes:
      apply: (variables, batch as augmented) -> `Outputs`, from the student's images in 0..1, before normalization; no
        gradient reaches it. Its taps are named by the teacher's number: "0/stage3".
      variables: of all teachers, an argument of the compiled step, never stored.
      specs: the spec of each.
      stored_views: K if it answers K stored views of each image, see `ferjax.train.stored_views`; 0 if it answers in
        the step.
    """

    apply: TeacherFn
    variables: Any
    specs: tuple[ModelSpec, ...] = ()
    stored_views: int = 0


class Task(NamedTuple):
    """What is learned: the network and the pure functions around it.

    Attributes:
      apply: apply(variables, x, train=…, mutable=…, rngs=…) -> (logits, changed collections). The variables have a
        collection "frozen" where a stage freezes statistics, see `ferjax.train.stages.frozen_modules`.
      loss: a `LossFn`, (logits (N, C), targets (N, C)) -> per-example losses (N,); with a teacher a `TaughtLossFn`,
        (the student's `Outputs`, targets, the teacher's `Outputs`) -> per-example losses.
      spec: names the C classes, and says how pixels are normalized.
      augment: (key, batch) -> batch on images in 0..1, before normalization.
      teacher: None where the labels alone are learned.
      taps: names of the network's intermediates that the loss with a teacher reads.
      eval_apply: the network for validation, in float32 where training computes in bfloat16; `apply` if None.
      compiler_options: XLA's for the step, by name, see `ferjax.models.compiler_options`.
    """

    apply: ApplyFn
    loss: Callable[..., jax.Array]
    spec: ModelSpec
    augment: augmentation.Augment | None = None
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
    """Builds the one pure train step, of training and of distillation.

    Args:
      task: what is learned.
      tx: the optimizer; pruning, if any, last in its chain. Its update is given the stage, and the gradients, which
        a pruning score may need.
      ema_decay: 0 for none; else the average's decay below 1, with a warm-up min(decay, (1 + step) / (10 + step)).
      seed: of dropout and augmentation.
      accumulate: micro-batches in which a batch, augmented as a whole, is learned from.
      stage: which parameters are trained. The others, and the statistics of their modules, stay as they are to the
        bit, and no gradient is computed for them.
      scan: the loop over the micro-batches, `jax.lax.scan` or what does the same.

    Returns:
      step(state, {"images": uint8 (N, H, W, C), "labels": int32 (N,)}) -> (state, sums over the batch), to be jitted;
      with a teacher, its variables are the third argument.
      A batch may have "targets" float32 (N, C) in the place of one-hot labels, such as the votes of FER+.
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
        if ema and prune.prunes(opt_state):  # in an average, pruned weights only fade
            ema = {**ema, "params": prune.apply_masks(ema["params"], prune.find_masks(opt_state))}
        sums = _sums(learned, updates, examples=len(example["targets"]), step=state.step)
        return TrainState(state.step + 1, params, collections, opt_state, ema), sums

    return step


class Learned(NamedTuple):
    """What one batch or micro-batch gives.

    Attributes:
      grads: of the mean loss by the parameters.
      changed: the collections after it.
      loss: scalar, the mean over the examples.
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
    """Learns from micro-batches, one after the other.

    Micro-batch i holds the examples i, i + parts, i + 2 · parts, …: each device keeps the examples that it has.

    Args:
      learn: (collections, batch, key) -> `Learned`.
      collections: what the first micro-batch starts from; each goes on from the one before.
      batch: arrays (N, …), N a multiple of `parts`.
      key: micro-batch i takes fold_in(key, i).
      parts: micro-batches.
      scan: the loop over them.

    Returns:
      Mean gradients and loss, sums of the rest, and the collections after the last.
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
    """Returns the intermediates of these names from the state that linen's `apply` returned.

    Raises:
      InputError: for a name that the network does not have.
    """
    found = state.get("intermediates", {})
    if missing := [name for name in names if name not in found]:
        have = [name for name, value in found.items() if isinstance(value, tuple)]
        raise errors.unknown("intermediate of the network", missing[0], have)
    return {name: found[name][0] for name in names}


def _example(task: Task, batch: Arrays, key: jax.Array) -> Mapping[str, jax.Array]:
    """Returns the batch as augmented: images in 0..1, targets (N, C)."""
    real = jnp.result_type(float)  # float32; float64 where JAX is told to compute in it
    classes = len(task.spec.class_names)
    targets = batch.get("targets", jax.nn.one_hot(batch["labels"], classes, dtype=jnp.float32)).astype(real)
    example = {**batch, "images": augmentation.to_float(batch["images"]).astype(real), "targets": targets}
    return example if task.augment is None else task.augment(key, example)


def _learner(task: Task, params: Any, mask: Any, resting: Mapping[str, Any], teacher_variables: Any) -> Learn:
    """Returns what learns from a batch or micro-batch: forward pass, loss and gradient.

    Args:
      task: what is learned.
      params: of the network.
      mask: which of them are trained.
      resting: the collection "frozen" of the network.
      teacher_variables: of the teacher, if there is one.
    """
    extra = {"frozen": resting} if resting else {}

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
    """Returns the index, in a way that needs the gradients: where they are not finite, the run stops anyway.

    Without a loop in the program, XLA would work on all micro-batches at once, which saves no memory, and its CPU
    backend drops `jax.lax.optimization_barrier` before it orders the operations: a step of 13.3 MB took 12.1 MB in
    eight parts behind the barrier, and takes 1.7 MB (temporary memory, jax 0.10).
    """
    some = sum(jnp.isnan(leaf.reshape(-1)[0]).astype(jnp.int32) for leaf in jax.tree.leaves(grads) if leaf.size)
    return index + some


def _norm(tree: Any) -> jax.Array:
    """The global norm as one product: XLA on CPUs compiles three loops for the sum over each of the parameters."""
    flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
    return jnp.sqrt(jnp.vdot(flat, flat))


def _same_answer(logits: jax.Array, others: jax.Array) -> jax.Array:
    return (logits.argmax(-1) == others.argmax(-1)).sum(dtype=jnp.int32)


def _average(ema: Any, variables: Any, decay: float, step: jax.Array) -> Any:
    if not decay:
        return ema
    now = step.astype(jnp.float32)
    keep = jnp.minimum(decay, (1.0 + now) / (10.0 + now))
    # In this form the average of a frozen parameter is the parameter, to the bit.
    return jax.tree.map(lambda a, v: a + (1.0 - keep) * (v - a), ema, variables)

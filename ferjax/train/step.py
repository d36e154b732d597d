"""The training core: arrays-only state and the pure steps over it.

State holds arrays only and every random key is `fold_in(key(seed), step)`, so a run that was killed and resumed equals
the uninterrupted one bit for bit.
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
from ferjax.train import stages
from ferjax.train.accumulation import Learned, Loop, learn_in_parts
from ferjax.train.stages import WHOLE, Stage

LossFn = Callable[[jax.Array, jax.Array], jax.Array]
Arrays = Mapping[str, Any]


class Outputs(NamedTuple):
    """What a network says about a batch: logits (N, C), and the intermediates that were asked for, by name."""

    logits: jax.Array
    taps: Mapping[str, jax.Array]


TeacherFn = Callable[[Any, Mapping[str, jax.Array]], Outputs]
TaughtLossFn = Callable[[Outputs, jax.Array, Outputs], jax.Array]


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
      examples: int32.
      steps: int32.
      grad_norm: float32, sum over steps of the gradient's global norm, before clipping.
      update_norm: float32, sum over steps of the update's global norm.
      bad: int32, steps whose loss or gradient was not finite.
      first_bad: int32, the first such step, or the largest int32.
      agreed: int32, examples on which student and teacher answer the same; () without a teacher.
    """

    loss: jax.Array
    correct: jax.Array
    examples: jax.Array
    steps: jax.Array
    grad_norm: jax.Array
    update_norm: jax.Array
    bad: jax.Array
    first_bad: jax.Array
    agreed: Any = ()

    @classmethod
    def zero(cls, *, taught: bool = False) -> "Sums":
        """Returns empty sums, of a run with or without a teacher."""
        real, whole = jnp.result_type(float), jnp.int32
        zeros = [jnp.zeros((), t) for t in (real, whole, whole, whole, real, real, whole)]  # one buffer each: donated
        first_bad = jnp.array(np.iinfo(np.int32).max, whole)
        return cls._make([*zeros, first_bad, jnp.zeros((), whole) if taught else ()])

    def add(self, other: "Sums") -> "Sums":
        """Returns the sums over both."""
        total = jax.tree.map(jnp.add, self, other)
        return total._replace(first_bad=jnp.minimum(self.first_bad, other.first_bad))


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
    loss_fn: Callable[..., jax.Array],
    tx: optax.GradientTransformation,
    *,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    augment: augmentation.Augment | None = None,
    teacher: TeacherFn | None = None,
    taps: Sequence[str] = (),
    ema_decay: float = 0.0,
    seed: int = 0,
    stage: Stage = WHOLE,
    accumulate: int = 1,
    loop: Loop = jax.lax.scan,
) -> Callable[..., tuple[TrainState, Sums]]:
    """Builds the one pure train step.

    Args:
      apply_fn: apply_fn(variables, x, train=…, mutable=…, rngs=…) -> (logits, changed collections). The variables have
        a collection "frozen" where a stage freezes statistics, see `ferjax.train.stages.frozen_modules`.
      loss_fn: (logits (N, C), targets (N, C)) -> per-example losses (N,); with a teacher, (the student's `Outputs`,
        targets, the teacher's `Outputs`) -> per-example losses.
      tx: the optimiser; pruning, if any, last in its chain. Its update is given the stage, and the gradients, which
        a pruning score may need.
      num_classes: C.
      mean: per channel, 0..1 scale.
      std: per channel, 0..1 scale.
      augment: (key, batch) -> batch on images in 0..1, before normalisation.
      teacher: (its variables, batch as augmented) -> `Outputs`; it sees the student's images in 0..1, before
        normalisation, and no gradient reaches it. See `ferjax.train.teacher.load`.
      taps: names of the student's intermediates that the loss with a teacher reads.
      ema_decay: 0 for none; else the average's decay below 1, with a warm-up min(decay, (1 + step) / (10 + step)).
      seed: of dropout and augmentation.
      stage: which parameters are trained. The others, and the statistics of their modules, stay as they are to the
        bit, and no gradient is computed for them.
      accumulate: micro-batches in which a batch, augmented as a whole, is learned from; see `accumulation`.
      loop: over the micro-batches, `jax.lax.scan` or what does the same.

    Returns:
      step(state, {"images": uint8 (N, H, W, C), "labels": int32 (N,)}) -> (state, sums over the batch), to be jitted;
      with a teacher, its variables are the third argument.
      A batch may have "targets" float32 (N, C) in the place of one-hot labels, such as the votes of FER+.
    """
    update = optax.with_extra_args_support(tx).update
    real = jnp.result_type(float)  # float32; float64 where JAX is told to compute in it

    def step(state: TrainState, batch: Arrays, teacher_variables: Any = None) -> tuple[TrainState, Sums]:
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
        mask, statistics = stages.trained(stage, state.params, state.collections)
        targets = batch.get("targets", jax.nn.one_hot(batch["labels"], num_classes, dtype=jnp.float32)).astype(real)
        example = {**batch, "images": augmentation.to_float(batch["images"]).astype(real), "targets": targets}
        if augment is not None:
            example = augment(augment_key, example)
        resting = stages.frozen_modules(statistics)
        extra = {"frozen": resting} if resting else {}

        def learn(collections: Any, example: Arrays, key: jax.Array) -> Learned:
            inputs = augmentation.normalize(example["images"], mean=mean, std=std)
            taught = None if teacher is None else teacher(teacher_variables, example)

            def mean_loss(params):
                params = stages.select(mask, params, jax.lax.stop_gradient(params))
                logits, changed = apply_fn(
                    {"params": params, **collections, **extra},
                    inputs,
                    train=True,
                    mutable=[*collections, *(["intermediates"] if taps else [])],
                    rngs={"dropout": key},
                )
                if taught is None:
                    losses = loss_fn(logits, example["targets"])
                else:
                    losses = loss_fn(Outputs(logits, pick(changed, taps)), example["targets"], taught)
                return losses.mean(), (losses.sum(), logits, {k: changed[k] for k in collections})

            (loss, (total, logits, changed)), grads = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
            correct = _same_answer(logits, example["targets"])
            agreed = () if taught is None else _same_answer(logits, taught.logits)
            return Learned(grads, changed, loss, total, correct, agreed)

        if accumulate == 1:
            learned = learn(state.collections, example, dropout_key)
        else:
            learned = learn_in_parts(learn, state.collections, example, dropout_key, parts=accumulate, loop=loop)
        grads = learned.grads
        updates, opt_state = update(grads, state.opt_state, state.params, stage=stage, gradients=grads)
        params = stages.select(mask, optax.apply_updates(state.params, updates), state.params)
        collections = stages.select(statistics, {**state.collections, **learned.changed}, state.collections)
        ema = _average(state.ema, {"params": params, **collections}, ema_decay, state.step)
        if ema and prune.prunes(opt_state):  # in an average, pruned weights only fade
            ema = {**ema, "params": prune.apply_masks(ema["params"], prune.find_masks(opt_state))}
        grad_norm = _norm(grads)
        bad = ~(jnp.isfinite(learned.loss) & jnp.isfinite(grad_norm))
        sums = Sums(
            loss=learned.total.astype(real),
            correct=learned.correct,
            examples=jnp.array(len(targets), jnp.int32),
            steps=jnp.array(1, jnp.int32),
            grad_norm=grad_norm.astype(real),
            update_norm=_norm(updates).astype(real),
            bad=bad.astype(jnp.int32),
            first_bad=jnp.where(bad, state.step, np.iinfo(np.int32).max).astype(jnp.int32),
            agreed=learned.agreed,
        )
        return TrainState(state.step + 1, params, collections, opt_state, ema), sums

    return step


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

"""Builds optimizers and learning-rate schedules."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import optax

from ferjax import errors
from ferjax import prune as pruning
from ferjax.train.stages import WHOLE, Stage, create_stages, only_trained, staged
from ferjax.trees import path_mask

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine", "step", "polynomial")


class Optimizer(NamedTuple):
    """An optimizer with its schedule and stages.

    Attributes:
      tx: the optax transform; with stages, its update takes the keyword `stage`.
      schedule: step -> learning rate.
      stages: in order; a single one that trains all parameters by default.
    """

    tx: optax.GradientTransformationExtraArgs
    schedule: optax.Schedule
    stages: tuple[Stage, ...] = (WHOLE,)


def create(
    name: str = "adam",  # "adam" (coupled L2, as in torch), "adamw" (Loshchilov & Hutter 2019), "sgd" (Nesterov, L2)
    *,
    learning_rate: float,  # peak after warm-up
    steps_per_epoch: int,  # optimizer steps
    epochs: float,  # length of the schedule
    schedule: str = "cosine",  # "constant", "cosine", "step" (times `decay_rate` every `decay_epochs`), "polynomial"
    final_learning_rate: float = 0.0,  # final value of "cosine" and "polynomial"
    warmup_epochs: float = 0.0,  # linear warm-up from zero, part of `epochs`
    decay_epochs: float = 10.0,  # period of "step"
    decay_rate: float = 0.5,  # factor of "step", in (0, 1]
    power: float = 1.0,  # exponent of "polynomial"
    weight_decay: float = 0.0,  # 0 or more
    decay_only: Sequence[str] = (".*",),  # regular expressions of decayed parameter paths, such as "^stage1/"
    momentum: float = 0.9,  # of "sgd", in [0, 1)
    b1: float = 0.9,  # Adam's first decay rate, in [0, 1)
    b2: float = 0.999,  # Adam's second decay rate, in [0, 1)
    clip_norm: float = 0.0,  # largest global norm of the gradient, before weight decay; 0 disables clipping
    stages: Sequence[Sequence[Any]] = (),  # see `ferjax.train.stages.create_stages`
) -> Optimizer:
    """Builds the optimizer: gradient clipping, weight decay, adaptation, learning rate.

    Raises:
      InputError: for an unknown name or a value outside its range; at initialization, for a rule without a match.
    """
    if name not in OPTIMIZERS:
        raise errors.unknown("optimizer", name, OPTIMIZERS)
    lengths = {"epochs": epochs, "steps_per_epoch": steps_per_epoch, "decay_epochs": decay_epochs}
    for key, value in {"learning_rate": learning_rate, **lengths, "power": power}.items():
        if not 0 < value < math.inf:
            raise errors.InputError(f"optim.{key} must be positive and finite, got {value}")
    strengths = {"weight_decay": weight_decay, "clip_norm": clip_norm, "warmup_epochs": warmup_epochs}
    for key, value in {**strengths, "final_learning_rate": final_learning_rate}.items():
        if not 0 <= value < math.inf:
            raise errors.InputError(f"optim.{key} must be 0 or more and finite, got {value}")
    for key, value in {"momentum": momentum, "b1": b1, "b2": b2}.items():
        if not 0 <= value < 1:
            raise errors.InputError(f"optim.{key} must be in [0, 1), got {value}")
    if not 0 < decay_rate <= 1:
        raise errors.InputError(f"optim.decay_rate must be in (0, 1], got {decay_rate}")
    rate = create_schedule(
        schedule,
        peak=learning_rate,
        final=final_learning_rate,
        total_steps=max(1, round(epochs * steps_per_epoch)),
        warmup_steps=round(warmup_epochs * steps_per_epoch),
        decay_steps=max(1, round(decay_epochs * steps_per_epoch)),
        decay_rate=decay_rate,
        power=power,
    )
    plan = create_stages(stages, epochs=epochs) if stages else (WHOLE,)
    core = optax.trace(momentum, nesterov=True) if name == "sgd" else optax.scale_by_adam(b1, b2)
    core = staged(core, plan) if stages else core
    decay = optax.add_decayed_weights(weight_decay, mask=lambda params: path_mask(decay_only, params))
    decays = (decay,) if weight_decay else ()
    adapt = (core, *decays) if name == "adamw" else (*decays, core)
    clip = (optax.clip_by_global_norm(clip_norm),) if clip_norm else ()
    last = (optax.scale_by_learning_rate(rate), *((only_trained(),) if stages else ()))
    return Optimizer(optax.chain(*clip, *adapt, *last), rate, plan)


def prune(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    epochs: float,
    sparsity: float = 0.0,
    begin_epochs: float = 0.0,
    ramp_epochs: float = 0.0,
    frequency: int = 100,
    score: str = "magnitude",
    distribution: str = "global",
    structure: str = "weight",
    rules: Sequence[str] = ("kernel$",),
    keep: Sequence[str] = (),
    keep_zeros: bool = False,
) -> Optimizer:
    """Appends pruning to an optimizer if `sparsity` or `keep_zeros` is set.

    Args:
      optimizer: from `create`.
      steps_per_epoch: optimizer steps per epoch.
      epochs: epochs of the run.
      sparsity: final share of pruned units, in [0, 1); 0 prunes nothing.
      begin_epochs: epochs before pruning begins.
      ramp_epochs: epochs over which sparsity then rises; 0 prunes at once.
      frequency: steps between updates of the masks.
      score: see `ferjax.prune.prune`, also for the following arguments.
      distribution: "global", "uniform" or "erdos_renyi_kernel".
      structure: "weight", "filter", or N:M such as "2:4".
      rules: regular expressions over the paths of pruned parameters.
      keep: regular expressions over the paths of exceptions.
      keep_zeros: whether weights that are zero at the start stay zero.

    Raises:
      InputError: for an invalid value; at initialization, for a rule without a match or a pruned, frozen parameter.
    """
    if not begin_epochs >= 0 or not ramp_epochs >= 0 or begin_epochs + ramp_epochs > epochs:
        raise errors.InputError(
            f"prune.begin_epochs and prune.ramp_epochs must be 0 or more, with a sum of at most {epochs} epochs; "
            f"got {begin_epochs} and {ramp_epochs}"
        )
    begin = round(begin_epochs * steps_per_epoch)
    last = round(epochs * steps_per_epoch) - 1  # the last update of the run prunes, too
    begin, end = min(begin, last), min(begin + round(ramp_epochs * steps_per_epoch), last)
    transform = pruning.prune(
        sparsity,
        begin=begin,
        end=end,
        frequency=frequency,
        score=score,
        distribution=distribution,
        structure=structure,
        rules=rules,
        keep=keep,
        keep_zeros=keep_zeros,
    )
    if sparsity:
        transform = _refuse_frozen(transform, _overlapping(optimizer.stages, begin, end, steps_per_epoch, epochs))
    return optimizer._replace(tx=optax.chain(optimizer.tx, transform)) if sparsity or keep_zeros else optimizer


def create_schedule(
    name: str,
    *,
    peak: float,
    final: float,
    total_steps: int,
    warmup_steps: int,
    decay_steps: int,
    decay_rate: float,
    power: float,
) -> optax.Schedule:
    """Returns step -> learning rate: a linear warm-up, then the named decay over the remaining steps."""
    if name not in SCHEDULES:
        raise errors.unknown("schedule", name, SCHEDULES)
    rest = total_steps - warmup_steps
    if rest < 1:
        raise errors.InputError(f"optim.warmup_epochs takes {warmup_steps} of {total_steps} steps: lower it")
    if name == "constant":
        body = optax.constant_schedule(peak)
    elif name == "cosine":
        body = optax.cosine_decay_schedule(peak, rest, alpha=final / peak)
    elif name == "step":
        body = optax.exponential_decay(peak, decay_steps, decay_rate, staircase=True)
    else:
        body = optax.polynomial_schedule(peak, final, power, rest)
    if not warmup_steps:
        return body
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), body], [warmup_steps])


def _overlapping(stages: Sequence[Stage], begin: int, end: int, steps_per_epoch: int, epochs: float) -> list[Stage]:
    """Returns the stages that overlap the steps from begin to end."""
    ends = [*(stage.first_epoch for stage in stages[1:]), epochs]
    return [
        stage
        for stage, done in zip(stages, ends, strict=True)
        if stage.first_epoch * steps_per_epoch <= end and begin < done * steps_per_epoch
    ]


def _refuse_frozen(
    transform: optax.GradientTransformationExtraArgs, stages: Sequence[Stage]
) -> optax.GradientTransformationExtraArgs:
    """Raises at initialization if one of the stages freezes a pruned parameter, which would keep its value."""

    def init(params: Any) -> Any:
        state = transform.init(params)
        for stage in stages:
            trained = pruning.layers.flat(path_mask(stage.trainable, params))
            if frozen := [name for name in state.masks if not trained[name]]:
                raise errors.InputError(
                    f"optim.stages[{stage.number}] freezes {frozen[0]} while it is pruned ({len(frozen)} parameters): "
                    "exclude it with prune.rules or prune.keep, or move pruning to another stage with "
                    "prune.begin_epochs and prune.ramp_epochs"
                )
        return state

    return optax.GradientTransformationExtraArgs(init, transform.update)

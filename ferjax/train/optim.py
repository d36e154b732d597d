"""Optimisers and schedules, in the words of the papers."""

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
    """What `create` returns.

    Attributes:
      tx: the optax transform; where there are several stages, its update takes the keyword `stage`.
      schedule: step -> learning rate.
      stages: in order; one in which all is trained if none were asked for.
    """

    tx: optax.GradientTransformationExtraArgs
    schedule: optax.Schedule
    stages: tuple[Stage, ...] = (WHOLE,)


def create(
    name: str = "adam",
    *,
    learning_rate: float,
    steps_per_epoch: int,
    epochs: float,
    schedule: str = "cosine",
    final_learning_rate: float = 0.0,
    warmup_epochs: float = 0.0,
    decay_epochs: float = 10.0,
    decay_rate: float = 0.5,
    power: float = 1.0,
    weight_decay: float = 0.0,
    decay_only: Sequence[str] = (".*",),
    momentum: float = 0.9,
    b1: float = 0.9,
    b2: float = 0.999,
    clip_norm: float = 0.0,
    stages: Sequence[Sequence[Any]] = (),
) -> Optimizer:
    """Builds the optimizer: clip, decay, adapt, scale by the learning rate.

    Args:
      name: "adam" (weight decay is torch's coupled L2, added to the gradient before Adam, as Tormalm and Paraschiv mean
        it), "adamw" (decoupled, Loshchilov & Hutter 2019) or "sgd" (Nesterov momentum, coupled L2).
      learning_rate: the peak, after warm-up.
      steps_per_epoch: optimizer steps in one pass over the training set.
      epochs: passes that the whole schedule takes.
      schedule: "constant"; "cosine" to `final_learning_rate`; "step", times `decay_rate` every `decay_epochs`;
        "polynomial" of the given power to `final_learning_rate`.
      final_learning_rate: where cosine and polynomial end.
      warmup_epochs: linear rise from zero, part of `epochs`.
      decay_epochs: the step schedule's period.
      decay_rate: the step schedule's factor, above 0 and at most 1.
      power: the polynomial's exponent.
      weight_decay: 0 or more.
      decay_only: regular expressions over parameter paths such as "stage1/block0/conv1/kernel"; a parameter that one of
        them finds is decayed. The default decays all, as torch does.
      momentum: for sgd, in [0, 1).
      b1: Adam's first moment, in [0, 1).
      b2: Adam's second moment, in [0, 1).
      clip_norm: largest global norm of the gradient, before weight decay; 0 switches it off.
      stages: what is trained when: (epochs, rules) or (epochs, rules, factor on the learning rate) each, such as
        `((5, ("^head/",)), (None, (".*",)))` for a backbone that is frozen for five epochs. Rules are regular
        expressions over parameter paths; the last stage may say None for the epochs that are left. The schedule runs
        through; a parameter's moments and their count start when it is first trained, as torch's do.

    Returns:
      The optax transform, the schedule and the stages.

    Raises:
      InputError: for an unknown name or a value outside its range; when initialized, for a rule that finds nothing.
    """
    if name not in OPTIMIZERS:
        raise errors.unknown("optimizer", name, OPTIMIZERS)
    lengths = {"epochs": epochs, "steps_per_epoch": steps_per_epoch, "decay_epochs": decay_epochs}
    for key, value in {"learning_rate": learning_rate, **lengths, "power": power}.items():
        if not 0 < value < math.inf:
            raise errors.InputError(f"optim.{key} must be finite and positive, got {value}")
    strengths = {"weight_decay": weight_decay, "clip_norm": clip_norm, "warmup_epochs": warmup_epochs}
    for key, value in {**strengths, "final_learning_rate": final_learning_rate}.items():
        if not 0 <= value < math.inf:
            raise errors.InputError(f"optim.{key} must be finite and not negative, got {value}")
    for key, value in {"momentum": momentum, "b1": b1, "b2": b2}.items():
        if not 0 <= value < 1:
            raise errors.InputError(f"optim.{key} must be in [0, 1), got {value}")
    if not 0 < decay_rate <= 1:
        raise errors.InputError(f"optim.decay_rate must be above 0 and at most 1, got {decay_rate}")
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
    """Appends pruning to an optimizer, if that is asked for.

    Args:
      optimizer: from `create`.
      steps_per_epoch: optimizer steps in one pass over the training set.
      epochs: of the whole run.
      sparsity: share of units that are pruned in the end, in [0, 1); 0 prunes nothing.
      begin_epochs: epochs after which pruning begins.
      ramp_epochs: over which sparsity rises from then on; 0 reaches it at once.
      frequency: steps from one look at the scores to the next.
      score: see `ferjax.prune.prune`, as all that follow.
      distribution: "global", "uniform" or "erdos_renyi_kernel".
      structure: "weight", "filter", or N:M such as "2:4".
      rules: regular expressions over parameter paths: what is pruned.
      keep: exceptions.
      keep_zeros: whether what is zero at the start stays so, also where `sparsity` is 0.

    Raises:
      InputError: for an unknown name or a value outside its range; when initialized, for a rule that finds nothing, or
        for what a stage freezes while it is pruned.
    """
    if not begin_epochs >= 0 or not ramp_epochs >= 0 or begin_epochs + ramp_epochs > epochs:
        raise errors.InputError(
            f"prune.begin_epochs={begin_epochs} and prune.ramp_epochs={ramp_epochs} must not be negative and must end "
            f"within the run's {epochs} epochs"
        )
    begin = round(begin_epochs * steps_per_epoch)
    last = round(epochs * steps_per_epoch) - 1  # the run's last update has to prune, too
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
        meanwhile = _overlapping(optimizer.stages, begin, end, steps_per_epoch, epochs)
        transform = _of_what_is_trained(transform, meanwhile)
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
    """Returns step -> learning rate: a linear warm-up, then the named decay over the remaining steps.

    Raises:
      InputError: if the name is unknown or the warm-up leaves no step.
    """
    if name not in SCHEDULES:
        raise errors.unknown("schedule", name, SCHEDULES)
    rest = total_steps - warmup_steps
    if rest < 1:
        raise errors.InputError(f"the warm-up takes {warmup_steps} of {total_steps} steps: lower optim.warmup_epochs")
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
    """Returns the stages that train in any of the steps from begin to end."""
    ends = [*(stage.first_epoch for stage in stages[1:]), epochs]
    return [
        stage
        for stage, done in zip(stages, ends, strict=True)
        if stage.first_epoch * steps_per_epoch <= end and begin < done * steps_per_epoch
    ]


def _of_what_is_trained(
    transform: optax.GradientTransformationExtraArgs, stages: Sequence[Stage]
) -> optax.GradientTransformationExtraArgs:
    """Has pruning refuse, when initialized, what one of these stages freezes: it would count as zero and stay."""

    def init(params: Any) -> Any:
        state = transform.init(params)
        for stage in stages:
            trained = pruning.layers.flat(path_mask(stage.trainable, params))
            if frozen := [name for name in state.masks if not trained[name]]:
                raise errors.InputError(
                    f"optim.stages[{stage.number}] freezes {frozen[0]} while it is pruned ({len(frozen)} are): leave "
                    "it out by prune.rules or prune.keep, or prune while it is trained, by prune.begin_epochs and "
                    "prune.ramp_epochs"
                )
        return state

    return optax.GradientTransformationExtraArgs(init, transform.update)

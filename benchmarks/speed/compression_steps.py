"""Measures what compression costs while training: steps with fake quantization and with pruning beside the plain step.

    python -m benchmarks.speed.compression_steps                         ResNet-20 and mini-Xception
    python -m benchmarks.speed.compression_steps --models microexpnet    one more row, merged into the results

Four contenders take turns, a block of steps each. Shown are medians over the rounds, and medians of the rounds' ratios
to the plain step.

- step: the train step with Adam and coupled weight decay, without augmentation.
- qat: the same step of the network with folded BatchNorm, weights and activations rounded, ranges observed.
- prune: the same step with pruning by global magnitude, between two updates of the masks.
- look: a step of it that updates the masks. One in 100 does: `prune / step` counts a hundredth of what it takes more.

Do not run it beside a training.
"""

import statistics
from collections.abc import Callable
from typing import Any

import optax

from benchmarks.speed import train_contenders, turns
from ferjax import cli, losses, models, prune
from ferjax.quant import rounding
from ferjax.train import experiment, optim
from ferjax.train.state import init_state
from ferjax.train.step import Task, make_train_step

CLASSES, FREQUENCY = train_contenders.CLASSES, 100
COLUMNS = (
    ("network", "{name}"),
    ("input, batch", "{input}, {batch}"),
    ("plain step, ms", "{step_ms:.1f}"),
    ("QAT step, ms", "{qat_ms:.1f}"),
    ("QAT / plain", "{qat_ratio:.2f}"),
    ("pruning step, ms", "{prune_ms:.1f}"),
    ("pruning / plain", "{prune_ratio:.2f}"),
)


def main() -> None:
    turns.report(__doc__, "compression_steps", COLUMNS, measure, ["jax", "flax", "optax"])


def measure(name: str, batch_size: int, rounds: int, steps: int) -> dict[str, Any]:
    """Returns one row: milliseconds per step of every contender for one network."""
    times = turns.milliseconds(contenders(name, batch_size), rounds=rounds, steps=steps)
    together = [dict(zip(times, values, strict=True)) for values in zip(*times.values(), strict=True)]
    return {
        "name": name,
        "input": "×".join(map(str, models.default_input_shape(name))),
        "batch": batch_size,
        **turns.medians(times),
        "qat_ratio": statistics.median(t["qat"] / t["step"] for t in together),
        "prune_ratio": statistics.median(
            (t["prune"] + max(0.0, t["look"] - t["prune"]) / FREQUENCY) / t["step"] for t in together
        ),
    }


def contenders(name: str, batch_size: int) -> dict[str, turns.Block]:
    """Returns blocks of plain, quantized and pruned steps, and of steps that always update the masks."""
    shape = models.default_input_shape(name)
    module = models.create(name, num_classes=CLASSES)
    variables = experiment.init_variables(module, shape, seed=0)
    spec = train_contenders.spec_of(name, shape)
    folded, rounded = rounding.fold(module, variables, shape)
    rounded["ranges"] = rounding.initial_ranges(folded, shape)
    adam = optim.create(
        "adam", learning_rate=1e-3, weight_decay=1e-4, schedule="constant", steps_per_epoch=1000, epochs=1
    ).tx
    never, always = (
        optax.chain(adam, prune.prune(0.9, begin=begin, end=10**9, frequency=frequency))
        for begin, frequency in ((10**8, FREQUENCY), (0, 1))
    )
    batch = train_contenders.noise(shape, batch_size)

    def block(
        apply_fn: Callable[..., Any], start: Any, tx: optax.GradientTransformation, compiled_as: Any = module
    ) -> turns.Block:
        step = make_train_step(Task(apply_fn, losses.cross_entropy, spec), tx)
        return train_contenders.repeated(step, init_state(start, tx), batch, [compiled_as])

    return {
        "step": block(module.apply, variables, adam),
        "qat": block(rounding.make_apply(folded), rounded, adam, folded),
        "prune": block(module.apply, variables, never),
        "look": block(module.apply, variables, always),
    }


if __name__ == "__main__":
    cli.run(main)

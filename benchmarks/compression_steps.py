"""What compression costs while training: steps with fake quantisation and with pruning beside the plain step.

    python -m benchmarks.compression_steps                           ResNet-20 and mini-Xception
    python -m benchmarks.compression_steps --models microexpnet      one more row, merged into the results

Four contenders take turns, a block of steps each, in an order that rotates every round, so that a busy moment of the
machine hits all of them. Shown are medians over the rounds, and medians of the rounds' ratios to the plain step.

- step: the train step with Adam and coupled weight decay, without augmentation.
- qat: the same step of the network with folded normalisations, weights and activations rounded, ranges observed.
- prune: the same step with pruning, global magnitude, between two looks at the scores.
- look: a step of it that looks at the scores. One in 100 does: `prune / step` counts a hundredth of what it takes more.

Times are of the machine at rest: do not run it beside a training.
"""

import argparse
import pathlib
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import optax

from benchmarks import tables, train_contenders
from ferjax import cli, errors, losses, models, prune
from ferjax.quant import rounding
from ferjax.train import experiment, optim
from ferjax.train.state import init_state
from ferjax.train.step import Task, make_train_step

CLASSES, FREQUENCY = 7, 100
COLUMNS = (
    ("network", "{name}"),
    ("input", "{input}"),
    ("batch", "{batch}"),
    ("step, ms", "{step_ms:.1f}"),
    ("with fake quantisation, ms", "{qat_ms:.1f}"),
    ("ratio", "{qat_ratio:.2f}"),
    ("with pruning, ms", "{prune_ms:.1f}"),
    ("a look at the scores, ms", "{look_ms:.1f}"),
    ("pruning every 100 steps, ratio", "{prune_ratio:.3f}"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet20", "mini_xception"], help="names of the registry")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contender")
    parser.add_argument("--steps", type=int, default=4, help="steps in a turn")
    parser.add_argument("--dry-run", action="store_true", help="print the table but leave the results as they are")
    args = parser.parse_args()
    if min(args.batch_size, args.rounds, args.steps) < 1:
        raise errors.InputError("batch size, rounds and steps must be positive")
    rows = [measure(name, args.batch_size, args.rounds, args.steps) for name in args.models]
    with tempfile.TemporaryDirectory() as scratch:
        result = tables.save(
            "compression_steps",
            COLUMNS,
            rows,
            command=shlex.join(["python", "-m", "benchmarks.compression_steps", *sys.argv[1:]]),
            packages=["jax", "flax", "optax"],
            results=pathlib.Path(scratch) if args.dry_run else tables.RESULTS,
        )
    print(tables.render(result))


def measure(name: str, batch_size: int, rounds: int, steps: int) -> dict[str, Any]:
    """Returns one row: milliseconds per step of every contender for one network."""
    blocks = contenders(name, batch_size)
    names = list(blocks)
    for block in blocks.values():
        block(1)  # compiles
    times: dict[str, list[float]] = {k: [] for k in names}
    for turn in range(rounds):
        start = turn % len(names)
        for k in names[start:] + names[:start]:
            started = time.perf_counter()
            blocks[k](steps)
            times[k].append(1000 * (time.perf_counter() - started) / steps)
    turns = [dict(zip(times, values, strict=True)) for values in zip(*times.values(), strict=True)]
    return {
        "name": name,
        "input": "×".join(map(str, models.default_input_shape(name))),
        "batch": batch_size,
        **{f"{k}_ms": statistics.median(values) for k, values in times.items()},
        "qat_ratio": statistics.median(t["qat"] / t["step"] for t in turns),
        "prune_ratio": statistics.median(
            (t["prune"] + max(0.0, t["look"] - t["prune"]) / FREQUENCY) / t["step"] for t in turns
        ),
        "all": {k: [round(v, 2) for v in values] for k, values in times.items()},
    }


def contenders(name: str, batch_size: int) -> dict[str, train_contenders.Block]:
    """Returns blocks of steps of the plain, the quantised and the pruned training, and of one that always looks."""
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
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (batch_size, *shape), np.uint8)
    batch = {"images": pixels, "labels": rng.integers(0, CLASSES, batch_size).astype(np.int32)}

    def block(
        apply_fn: Callable[..., Any], start: Any, tx: optax.GradientTransformation, compiled_as: Any = module
    ) -> train_contenders.Block:
        step = make_train_step(Task(apply_fn, losses.cross_entropy, spec), tx)
        return train_contenders.repeated(step, init_state(start, tx), batch, compiled_as)

    return {
        "step": block(module.apply, variables, adam),
        "qat": block(rounding.make_apply(folded), rounded, adam, folded),
        "prune": block(module.apply, variables, never),
        "look": block(module.apply, variables, always),
    }


if __name__ == "__main__":
    cli.run(main)

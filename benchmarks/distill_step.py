"""What a teacher costs: the distillation step against the student's step and the teacher's forward pass.

    python -m benchmarks.distill_step                                     mini-Xception and ResNet-20 from ResNet-20
    python -m benchmarks.distill_step --pairs microexpnet:resnet18        STUDENT:TEACHER, one or several

Three contenders take turns, a block of steps each, in an order that rotates every round: the student's train step, the
teacher's forward pass on the same images, and the step that does both. Shown are medians over the rounds, and the
median of the rounds' ratios distillation / (student + teacher). All augment alike: flip, rotation, translation.
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

import jax
import numpy as np

from benchmarks import tables, train_contenders
from ferjax import augment, cli, errors, losses, models
from ferjax.spec import ModelSpec
from ferjax.train import experiment, optim
from ferjax.train import teacher as train_teacher
from ferjax.train.state import init_state
from ferjax.train.step import Task, Teacher, make_train_step
from ferjax.weights import checkpoint

CLASSES = 7
COLUMNS = (
    ("student", "{student}"),
    ("teacher", "{teacher}"),
    ("batch", "{batch}"),
    ("student's step, ms", "{step_ms:.1f}"),
    ("teacher's pass, ms", "{teacher_ms:.1f}"),
    ("distillation step, ms", "{distill_ms:.1f}"),
    ("step / (student + teacher)", "{ratio:.2f}"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=["mini_xception:resnet20", "resnet20:resnet20"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contender")
    parser.add_argument("--steps", type=int, default=4, help="steps in a turn")
    parser.add_argument("--dry-run", action="store_true", help="print the table but leave the results as they are")
    args = parser.parse_args()
    if min(args.batch_size, args.rounds, args.steps) < 1:
        raise errors.InputError("batch size, rounds and steps must be positive")
    rows = [measure(*pair.split(":"), args.batch_size, args.rounds, args.steps) for pair in args.pairs]
    with tempfile.TemporaryDirectory() as scratch:
        result = tables.save(
            "distill_step",
            COLUMNS,
            rows,
            command=shlex.join(["python", "-m", "benchmarks.distill_step", *sys.argv[1:]]),
            packages=["jax", "flax"],
            results=pathlib.Path(scratch) if args.dry_run else tables.RESULTS,
        )
    print(tables.render(result))


def measure(student: str, teacher: str, batch_size: int, rounds: int, steps: int) -> dict[str, Any]:
    """Returns one row: milliseconds of the three contenders."""
    blocks = contenders(student, teacher, batch_size)
    names = list(blocks)
    for block in blocks.values():
        block(1)  # compiles
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % 3 :] + names[: turn % 3]:
            started = time.perf_counter()
            blocks[name](steps)
            times[name].append(1000 * (time.perf_counter() - started) / steps)
    apart = [a + b for a, b in zip(times["step"], times["teacher"], strict=True)]
    return {
        "name": f"{student}:{teacher}",
        "student": student,
        "teacher": teacher,
        "batch": batch_size,
        **{f"{name}_ms": statistics.median(values) for name, values in times.items()},
        "ratio": statistics.median(both / a for both, a in zip(times["distill"], apart, strict=True)),
        "all": {name: [round(v, 2) for v in values] for name, values in times.items()},
    }


def contenders(student: str, teacher: str, batch_size: int) -> dict[str, Callable[[int], None]]:
    """Returns the student's step, the teacher's pass and both in one, each as a block of so many steps."""
    shape = models.default_input_shape(student)
    spec = train_contenders.spec_of(student, shape)
    module = models.create(student, num_classes=CLASSES)
    variables = experiment.init_variables(module, shape, seed=0)
    optimizer = optim.create("adam", learning_rate=1e-3, schedule="constant", steps_per_epoch=1000, epochs=1)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (batch_size, *shape), np.uint8)
    batch = jax.device_put({"images": pixels, "labels": rng.integers(0, CLASSES, batch_size).astype(np.int32)})
    wise = _teacher(teacher, spec)
    augmentation = augment.create(flip=0.5, rotate=10.0, translate=0.1)
    task = Task(module.apply, losses.cross_entropy, spec, augmentation)
    taught = task._replace(
        loss=lambda own, targets, other: losses.distillation(own.logits, targets, other.logits), teacher=wise
    )

    def train_block(task: Task, *more: Any) -> train_contenders.Block:
        step, state = make_train_step(task, optimizer.tx), init_state(variables, optimizer.tx)
        return train_contenders.repeated(step, state, batch, module, *more)

    images = jax.device_put(pixels)
    passes = jax.jit(lambda v, x: wise.apply(v, {"images": augment.to_float(x)}).logits)

    def teacher_block(steps: int) -> None:
        for _ in range(steps):
            jax.block_until_ready(passes(wise.variables, images))

    return {"step": train_block(task), "teacher": teacher_block, "distill": train_block(taught, wise.variables)}


def _teacher(name: str, student: ModelSpec) -> Teacher:
    """An untrained teacher, which costs what a trained one does, through a checkpoint as in any run."""
    own = train_contenders.spec_of(name, student.input_shape)
    variables = experiment.init_variables(models.create(name, num_classes=CLASSES), student.input_shape, seed=1)
    with tempfile.TemporaryDirectory() as workdir:
        checkpoint.save(pathlib.Path(workdir), "best", 1, variables, {"spec": own.to_json()}, keep=1)
        return train_teacher.load([workdir], spec=student)


if __name__ == "__main__":
    cli.run(main)

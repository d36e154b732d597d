"""Measures what a teacher costs: the distillation step beside the student's step and the teacher's forward pass.

    python -m benchmarks.speed.distill_step                                 mini-Xception, ResNet-20 from ResNet-20
    python -m benchmarks.speed.distill_step --pairs microexpnet:resnet18    STUDENT:TEACHER, one or several

Three contenders take turns, a block of steps each: the student's train step, the teacher's forward pass on the same
images, and the step that does both. Shown are medians over the rounds, and the median of the rounds' ratios
distillation / (student + teacher). Both steps augment: flip, rotation, translation. Do not run it beside a training.
"""

import pathlib
import statistics
import tempfile
from typing import Any

import jax

from benchmarks.speed import train_contenders, turns
from ferjax import augment, cli, losses, models
from ferjax.spec import ModelSpec
from ferjax.train import experiment, optim
from ferjax.train import teacher as train_teacher
from ferjax.train.state import init_state
from ferjax.train.step import Task, Teacher, make_train_step
from ferjax.weights import checkpoint
from tools import tables

CLASSES = train_contenders.CLASSES
COLUMNS = (
    ("student", "{student}"),
    ("teacher", "{teacher}"),
    ("batch", "{batch}"),
    ("student step, ms", "{step_ms:.1f}"),
    ("teacher pass, ms", "{teacher_ms:.1f}"),
    ("distillation step, ms", "{distill_ms:.1f}"),
    ("step / (student + teacher)", "{ratio:.2f}"),
)


def main() -> None:
    parser = turns.arguments(__doc__)
    parser.add_argument("--pairs", nargs="+", default=["mini_xception:resnet20", "resnet20:resnet20"])
    args = turns.parse(parser)
    pairs = [pair.partition(":") for pair in args.pairs]
    rows = [measure(student, teacher, args.batch_size, args.rounds, args.steps) for student, _, teacher in pairs]
    command = tables.command("benchmarks.speed.distill_step")
    packages = ["jax", "flax"]
    table = tables.save("distill_step", COLUMNS, rows, command=command, packages=packages, results=args.results)
    print(tables.render(table))


def measure(student: str, teacher: str, batch_size: int, rounds: int, steps: int) -> dict[str, Any]:
    """Returns one row: milliseconds of the three contenders."""
    times = turns.milliseconds(contenders(student, teacher, batch_size), rounds=rounds, steps=steps)
    apart = [a + b for a, b in zip(times["step"], times["teacher"], strict=True)]
    return {
        "name": f"{student}:{teacher}",
        "student": student,
        "teacher": teacher,
        "batch": batch_size,
        **turns.medians(times),
        "ratio": statistics.median(both / a for both, a in zip(times["distill"], apart, strict=True)),
    }


def contenders(student: str, teacher: str, batch_size: int) -> dict[str, turns.Block]:
    """Returns the student's step, the teacher's pass and both in one, each as a block of so many steps."""
    shape = models.default_input_shape(student)
    spec = train_contenders.spec_of(student, shape)
    module = models.create(student, num_classes=CLASSES)
    variables = experiment.init_variables(module, shape, seed=0)
    optimizer = optim.create("adam", learning_rate=1e-3, schedule="constant", steps_per_epoch=1000, epochs=1)
    batch = jax.device_put(train_contenders.noise(shape, batch_size))
    wise = _teacher(teacher, spec)
    task = Task(module.apply, losses.cross_entropy, spec, train_contenders.augmentation())
    taught = task._replace(
        loss=lambda own, targets, other: losses.distillation(own.logits, targets, other.logits), teacher=wise
    )

    def train_block(task: Task) -> turns.Block:
        step, state = make_train_step(task, optimizer.tx), init_state(variables, optimizer.tx)
        modules, given = ([], []) if task.teacher is None else (task.teacher.modules, [task.teacher.variables])
        return train_contenders.repeated(step, state, batch, [module, *modules], *given)

    passes = jax.jit(lambda v, x: wise.apply(v, {"images": augment.to_float(x)}).logits)

    def teacher_block(steps: int) -> None:
        for _ in range(steps):
            jax.block_until_ready(passes(wise.variables, batch["images"]))

    return {"step": train_block(task), "teacher": teacher_block, "distill": train_block(taught)}


def _teacher(name: str, student: ModelSpec) -> Teacher:
    """Returns an untrained teacher, which costs what a trained one does, loaded from a checkpoint as in any run."""
    own = train_contenders.spec_of(name, student.input_shape)
    variables = experiment.init_variables(models.create(name, num_classes=CLASSES), student.input_shape, seed=1)
    with tempfile.TemporaryDirectory() as workdir:
        checkpoint.save(pathlib.Path(workdir), "best", 1, variables, {"spec": own.to_json()}, keep=1)
        return train_teacher.load([workdir], spec=student)


if __name__ == "__main__":
    cli.run(main)

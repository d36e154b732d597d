"""Measures what augmentation costs: the train step without it, with it, and with the faults of cameras as well.

    python -m benchmarks.speed.augment_step                      ResNet-20 and mini-Xception
    python -m benchmarks.speed.augment_step --models microexpnet

The contenders take turns. The geometry is flip, rotation and translation; each fault has the probability of
`configs/NAME.py:robust`, which does not change the cost. Do not run it beside a training.
"""

import statistics
from typing import Any

from benchmarks.speed import train_contenders, turns
from ferjax import cli, losses, memory, models
from ferjax.augment import camera
from ferjax.train import experiment, optim
from ferjax.train.state import init_state
from ferjax.train.step import Task, make_train_step
from tools import tables

COLUMNS = (
    ("network", "{name}"),
    ("input, batch", "{input}, {batch}"),
    ("plain step, ms", "{step_ms:.1f}"),
    ("with geometry, ms", "{geometry_ms:.1f}"),
    ("with camera faults, ms", "{camera_ms:.1f}"),
    ("geometry / plain", "{geometry_ratio:.2f}"),
    ("faults / geometry", "{camera_ratio:.2f}"),
)


def main() -> None:
    parser = turns.arguments(__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet20", "mini_xception"], help="names of the registry")
    args = turns.parse(parser)
    memory.keep_freed()  # as `ferjax train` does
    rows = [measure(name, args.batch_size, args.rounds, args.steps) for name in args.models]
    command = tables.command("benchmarks.speed.augment_step")
    table = tables.save("augment_step", COLUMNS, rows, command=command, packages=["jax"], results=args.results)
    print(tables.render(table))


def measure(name: str, batch_size: int, rounds: int, steps: int) -> dict[str, Any]:
    """Returns one row: milliseconds per step of the three contenders for one network."""
    times = turns.milliseconds(contenders(name, batch_size), rounds=rounds, steps=steps)

    def ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(times[a], times[b], strict=True))

    return {
        "name": name,
        "input": "×".join(map(str, models.default_input_shape(name))),
        "batch": batch_size,
        **turns.medians(times),
        "geometry_ratio": ratio("geometry", "step"),
        "camera_ratio": ratio("camera", "geometry"),
    }


def contenders(name: str, batch_size: int) -> dict[str, turns.Block]:
    """Returns blocks of the step without augmentation, with geometry, and with camera faults too."""
    shape = models.default_input_shape(name)
    module = models.create(name, num_classes=train_contenders.CLASSES)
    variables = experiment.init_variables(module, shape, seed=0)
    tx = optim.create("adam", learning_rate=1e-3, schedule="constant", steps_per_epoch=1000, epochs=1).tx
    plain = Task(module.apply, losses.cross_entropy, train_contenders.spec_of(name, shape))
    geometry = plain._replace(augment=train_contenders.augmentation())
    tasks = {"step": plain, "geometry": geometry, "camera": geometry._replace(camera=camera.create(probability=0.25))}
    batch = train_contenders.noise(shape, batch_size)
    return {
        key: train_contenders.repeated(make_train_step(task, tx), init_state(variables, tx), batch, module)
        for key, task in tasks.items()
    }


if __name__ == "__main__":
    cli.run(main)

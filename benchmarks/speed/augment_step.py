"""Measures the cost of augmentation: a train step without it, with geometry, and with geometry and camera faults.

    python -m benchmarks.speed.augment_step                      ResNet-20 and mini-Xception
    python -m benchmarks.speed.augment_step --models microexpnet

The contenders take turns. Geometry is flip, rotation and translation. Each camera fault has the probability 0.25, as in
`configs/NAME.py:robust`. Do not run it beside a training.
"""

import statistics
from typing import Any

from benchmarks.speed import train_contenders, turns
from ferjax import cli, losses, models
from ferjax.augment import camera
from ferjax.train import experiment, optim
from ferjax.train.state import init_state
from ferjax.train.step import Task, make_train_step

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
    turns.report(__doc__, "augment_step", COLUMNS, measure, ["jax"])


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
    """Returns blocks of the step without augmentation, with geometry, and with geometry and camera faults."""
    shape = models.default_input_shape(name)
    module = models.create(name, num_classes=train_contenders.CLASSES)
    variables = experiment.init_variables(module, shape, seed=0)
    tx = optim.create("adam", learning_rate=1e-3, schedule="constant", steps_per_epoch=1000, epochs=1).tx
    plain = Task(module.apply, losses.cross_entropy, train_contenders.spec_of(name, shape))
    geometry = plain._replace(augment=train_contenders.augmentation())
    tasks = {"step": plain, "geometry": geometry, "camera": geometry._replace(camera=camera.create(probability=0.25))}
    batch = train_contenders.noise(shape, batch_size)
    return {
        key: train_contenders.repeated(make_train_step(task, tx), init_state(variables, tx), batch, [module])
        for key, task in tasks.items()
    }


if __name__ == "__main__":
    cli.run(main)

"""Training speed in images per second: `fit`, its bare step, and PyTorch, side by side in one process.

    python -m benchmarks.train_throughput                          ResNet-18 and ResNet-20
    python -m benchmarks.train_throughput --models deit_tiny       one more row, merged into the results

Four contenders take turns, a block of steps each, in an order that rotates every round, so that a busy moment of the
machine hits all of them. Shown are medians over the rounds, and medians of the rounds' ratios.

- fit: `ferjax.fitting.fit` with flip, rotation and translation, from order of the epoch to the end of its last step,
  and the validation of one image; checkpoints are not written, as a real epoch is much longer than a block.
- bare step: the same train step with the same augmentation, jitted, on one batch that never leaves the device.
- ferjax: the bare step without augmentation.
- PyTorch: the same work as ferjax, eager, on as many threads as there are cores (CPU only).

The first step is the bare step's, with its compilation.

All four run in one process that keeps the memory it frees, as train.py does (`ferjax.memory`): PyTorch gains by it too.

Optimiser: Adam with coupled weight decay. Times are of the machine at rest: do not run it beside a training.
"""

import argparse
import contextlib
import functools
import importlib.util
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

# PyTorch's idle OpenMP threads spin by default and take the cores from whoever has its turn: it cost ferjax a third.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import tables
from ferjax import augment, checkpoint, cli, fitting, losses, memory, models, optim, training
from ferjax.spec import ModelSpec

CLASSES = 7
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-4
COLUMNS = (
    ("network", "{name}"),
    ("input", "{input}"),
    ("batch", "{batch}"),
    ("`fit`, images/s", "{fit:.1f}"),
    ("bare step", "{step:.1f}"),
    ("`fit` / bare step", "{fit_over_step:.2f}"),
    ("ferjax, no augmentation", "{ferjax:.1f}"),
    ("PyTorch eager", "{torch:.1f}"),
    ("ferjax / PyTorch", "{ferjax_over_torch:.2f}"),
    ("first step, s", "{first_step_seconds:.1f}"),
)

Block = Callable[[int], None]  # takes so many train steps and waits for the last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet20"], help="names of the registry")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="ferjax computes in it")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender")
    parser.add_argument(
        "--block-seconds", type=float, default=4.0, help="about how long a turn takes, at least 2 steps"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the table but leave the results as they are")
    args = parser.parse_args()
    memory.keep_freed()
    rows = [measure(name, args.batch_size, args.dtype, args.rounds, args.block_seconds) for name in args.models]
    with tempfile.TemporaryDirectory() as scratch:
        result = tables.save(
            "train_throughput",
            COLUMNS,
            rows,
            command=" ".join(["python -m benchmarks.train_throughput", *sys.argv[1:]]),
            packages=["jax", "flax", *(["torch"] if _torch_is_here() else [])],
            results=pathlib.Path(scratch) if args.dry_run else tables.RESULTS,
        )
    print(tables.render(result))


def measure(name: str, batch_size: int, dtype: str, rounds: int, block_seconds: float) -> dict[str, Any]:
    """Returns one row: images per second of every contender for one network."""
    if rounds < 1 or batch_size < 1:
        raise cli.InputError(f"rounds and batch size must be positive, got {rounds} and {batch_size}")
    shape = models.default_input_shape(name)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, *shape), np.uint8)
    labels = rng.integers(0, CLASSES, batch_size).astype(np.int32)
    job = _Job(name, dtype, images, labels)
    rivals = {"step": job.bare_block(_augmentation()), "ferjax": job.bare_block(None)}
    if _torch_is_here() and jax.default_backend() == "cpu":
        rivals["torch"] = torch_block(name, images, labels)
    first = {key: _seconds(block, 1) for key, block in rivals.items()}  # compiles
    steps = max(2, round(block_seconds / min(_seconds(block, 1) for block in rivals.values())))
    times = _take_turns(job, rivals, steps, rounds)
    speed = {k: [steps * batch_size / t for t in v] for k, v in times.items()}
    ratio = {
        f"{a}_over_{b}": statistics.median(x / y for x, y in zip(speed[a], speed[b], strict=True))
        if b in speed
        else None
        for a, b in (("fit", "step"), ("ferjax", "torch"))
    }
    medians = {k: statistics.median(speed[k]) if k in speed else None for k in ("fit", "step", "ferjax", "torch")}
    return {
        "name": name if dtype == "float32" else f"{name}, {dtype}",
        "input": "×".join(map(str, shape)),
        "batch": batch_size,
        "steps": steps,
        "rounds": rounds,
        **medians,
        **ratio,
        "first_step_seconds": first["step"],
        "all": {k: [round(x, 2) for x in v] for k, v in speed.items()},
    }


class _Job:
    """One network with its optimiser, and the ways to train it."""

    def __init__(self, name: str, dtype: str, images: np.ndarray, labels: np.ndarray):
        self.images, self.labels = images, labels
        height, width, channels = images.shape[1:]
        self.spec = ModelSpec(
            class_names=tuple(str(c) for c in range(CLASSES)),
            input_size=(height, width),
            color_order="gray" if channels == 1 else "rgb",
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
            architecture=name,
        )
        self.module = models.create(name, num_classes=CLASSES, dtype=jnp.dtype(dtype))
        example = np.zeros((1, height, width, channels), np.float32)
        self.variables = jax.device_get(
            jax.jit(functools.partial(self.module.init, train=False))(jax.random.key(0), example)
        )
        self.optimizer = optim.create(
            "adam",
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            schedule="constant",
            steps_per_epoch=1000,
            epochs=1,
        )

    def bare_block(self, augmentation: augment.Augment | None) -> Block:
        train_step = training.make_train_step(
            self.module.apply,
            losses.cross_entropy,
            self.optimizer.tx,
            num_classes=CLASSES,
            mean=self.spec.mean,
            std=self.spec.std,
            augment=augmentation,
        )
        step = jax.jit(train_step, donate_argnums=0)
        # may_alias: the step donates its state, which must not be the memory that the other contenders start from.
        state = jax.device_put(training.init_state(self.variables, self.optimizer.tx), may_alias=False)
        batch = jax.device_put({"images": self.images, "labels": self.labels})

        def block(steps: int) -> None:
            nonlocal state
            for _ in range(steps):
                state, _ = step(state, batch)
            jax.block_until_ready(state)

        return block

    def fit(self, steps: int, epochs: int, on_epoch: Callable[[Any], None]) -> None:
        order = np.arange(steps * len(self.labels)) % len(self.labels)
        with tempfile.TemporaryDirectory() as workdir:
            fitting.fit(
                self.module.apply,
                self.variables,
                self.optimizer,
                losses.cross_entropy,
                train={"images": self.images[order], "labels": self.labels[order]},
                validation={"images": self.images[:1], "labels": self.labels[:1]},
                spec=self.spec,
                workdir=pathlib.Path(workdir),
                epochs=epochs,
                batch_size=len(self.labels),
                augment=_augmentation(),
                on_epoch=on_epoch,
                progress=False,
            )


class _Enough(Exception):
    """Ends `fit` after the last round."""


def _take_turns(job: _Job, rivals: dict[str, Block], steps: int, rounds: int) -> dict[str, list[float]]:
    """Returns seconds per block: an epoch of `fit` is its block, the rivals run between two epochs."""
    times: dict[str, list[float]] = {"fit": [], **{k: [] for k in rivals}}
    names, started = list(rivals), 0.0

    def on_epoch(history: list[dict[str, Any]]) -> None:
        nonlocal started
        if len(history) > 1:  # the first epoch compiles
            times["fit"].append(time.perf_counter() - started)
            turn = len(history) % len(names)
            for name in names[turn:] + names[:turn]:
                times[name].append(_seconds(rivals[name], steps))
        if len(history) > rounds:
            raise _Enough
        started = time.perf_counter()

    quiet = contextlib.redirect_stdout(sys.stderr)
    with contextlib.suppress(_Enough), mock.patch.object(checkpoint, "save"), quiet:
        job.fit(steps, rounds + 1, on_epoch)
    return times


def torch_block(name: str, images: np.ndarray, labels: np.ndarray) -> Block:
    """Returns blocks of eager PyTorch steps on one batch: normalise, forward, backward, Adam."""
    import torch

    from benchmarks import torch_models

    torch.set_num_threads(os.cpu_count() or 1)
    model = torch_models.create(name, CLASSES).train()
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    targets = torch.from_numpy(labels.astype(np.int64))

    def block(steps: int) -> None:
        for _ in range(steps):
            inputs = (pixels.float() / 255 - 0.5) / 0.25
            loss = torch.nn.functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return block


def _augmentation() -> augment.Augment:
    return augment.create(flip=0.5, rotate=10.0, translate=0.1)


def _seconds(block: Block, steps: int) -> float:
    start = time.perf_counter()
    block(steps)
    return time.perf_counter() - start


def _torch_is_here() -> bool:
    return importlib.util.find_spec("torch") is not None


if __name__ == "__main__":
    cli.run(main)

"""Ways to train one network, as blocks of steps: by `fit`, by the bare train step, and by PyTorch."""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed import turns
from ferjax import augment, losses, models
from ferjax.data import on_disk
from ferjax.spec import ModelSpec
from ferjax.train import experiment, loop, optim
from ferjax.train.monitor import Monitor
from ferjax.train.options import FitOptions
from ferjax.train.state import init_state
from ferjax.train.step import Task, make_train_step

CLASSES = 7
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-4


class Job:
    """One network with its optimizer, and the ways to train it."""

    def __init__(self, name: str, dtype: str, images: np.ndarray, labels: np.ndarray):
        self.images, self.labels = images, labels
        self.spec = spec_of(name, images.shape[1:])
        self.module = models.create(name, num_classes=CLASSES, dtype=jnp.dtype(dtype))
        self.variables = jax.device_get(experiment.init_variables(self.module, images.shape[1:], seed=0))
        self.optimizer = optim.create(
            "adam",
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            schedule="constant",
            steps_per_epoch=1000,
            epochs=1,
        )

    def bare_block(self, augmentation: augment.Augment | None) -> turns.Block:
        """Returns blocks of the bare step on one batch."""
        task = Task(self.module.apply, losses.cross_entropy, self.spec, augmentation)
        bare = make_train_step(task, self.optimizer.tx)
        batch = {"images": self.images, "labels": self.labels}
        return repeated(bare, init_state(self.variables, self.optimizer.tx), batch, self.module)

    def fit(self, steps: int, epochs: int, on_epoch: Callable[[Any], None], workers: int | None) -> None:
        """Trains from memory, or from disk with so many workers."""
        order = np.arange(steps * len(self.labels)) % len(self.labels)
        with tempfile.TemporaryDirectory() as folder:
            images: np.ndarray | on_disk.DiskImages = self.images[order]
            if workers is not None:
                path = pathlib.Path(folder) / "images.npy"
                np.save(path, images)
                images = dataclasses.replace(on_disk.open_array(path), workers=workers)
            task = Task(
                self.module.apply,
                losses.cross_entropy,
                self.spec,
                augmentation(),
                compiler_options=models.compiler_options(self.module),
            )
            loop.fit(
                task,
                self.variables,
                self.optimizer,
                FitOptions(epochs=epochs, batch_size=len(self.labels)),
                train={"images": images, "labels": self.labels[order]},
                validation={"images": self.images[:1], "labels": self.labels[:1]},
                workdir=pathlib.Path(folder),
                monitor=Monitor(progress=False, on_epoch=on_epoch),
            )


def spec_of(name: str, shape: tuple[int, ...]) -> ModelSpec:
    """Returns the spec of a network for images (height, width, channels)."""
    height, width, channels = shape
    return ModelSpec(
        class_names=tuple(str(c) for c in range(CLASSES)),
        input_size=(height, width),
        color_order="gray" if channels == 1 else "rgb",
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        architecture=name,
    )


def repeated(
    train_step: Callable[..., Any], state: Any, batch: dict[str, np.ndarray], module: Any, *more: Any
) -> turns.Block:
    """Returns blocks of a train step on one batch, compiled as `fit` compiles that of this network."""
    step = jax.jit(train_step, donate_argnums=0, compiler_options=models.compiler_options(module))
    # may_alias: the step donates its state, which must not be the memory that the other contenders start from.
    state = jax.device_put(state, may_alias=False)
    batch = jax.device_put(batch)

    def block(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, _ = step(state, batch, *more)
        jax.block_until_ready(state)

    return block


def torch_block(name: str, images: np.ndarray, labels: np.ndarray) -> turns.Block:
    """Returns blocks of eager PyTorch steps on one batch: normalize, forward, backward, Adam."""
    import torch

    from benchmarks.speed import torch_models

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


def augmentation() -> augment.Augment:
    """Returns flip, rotation and translation."""
    return augment.create(flip=0.5, rotate=10.0, translate=0.1)


def noise(shape: tuple[int, ...], batch_size: int) -> dict[str, np.ndarray]:
    """Returns a batch of random images (N, H, W, C), uint8, and labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, *shape), np.uint8)
    return {"images": images, "labels": rng.integers(0, CLASSES, batch_size).astype(np.int32)}

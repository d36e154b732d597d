"""Ways to train one network, as blocks of steps: by `fit`, by the bare train step, and by PyTorch."""

import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed import turns
from ferjax import augment, losses, models
from ferjax.data import on_disk
from ferjax.models import costs
from ferjax.spec import ModelSpec
from ferjax.train import experiment, loop, optim
from ferjax.train.monitor import Monitor
from ferjax.train.options import FitOptions
from ferjax.train.state import init_state
from ferjax.train.step import Task, make_train_step

CLASSES = 7
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-4


@dataclasses.dataclass(frozen=True)
class TorchForm:
    """How PyTorch runs.

    Attributes:
      channels_last: keeps activations as (N, H, W, C).
      compiled: by torch.compile, which requires a C++ compiler.
      autocast: computes in bfloat16 where PyTorch considers it safe.
      device: "cpu" or "cuda".
    """

    channels_last: bool = False
    compiled: bool = False
    autocast: bool = False
    device: str = "cpu"


TORCH_FORMS = {
    "eager": TorchForm(),
    "channels last": TorchForm(channels_last=True),
    "compiled": TorchForm(compiled=True),
    "compiled, channels last": TorchForm(channels_last=True, compiled=True),
}


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

    def flops(self) -> int:
        """Returns the FLOPs of training on one image: 2 per multiply-accumulate forward, twice as many backward."""
        return 6 * costs.cost(self.module, self.images.shape[1:]).macs

    def bare_block(self, augmentation: augment.Augment | None) -> turns.Block:
        """Returns blocks of the bare step on one batch."""
        task = Task(self.module.apply, losses.cross_entropy, self.spec, augmentation)
        bare = make_train_step(task, self.optimizer.tx)
        batch = {"images": self.images, "labels": self.labels}
        return repeated(bare, init_state(self.variables, self.optimizer.tx), batch, [self.module])

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


class _Enough(Exception):
    """Ends `fit` after the last round."""


class Epochs:
    """Blocks of a `fit` that waits in a thread of its own: each is an epoch."""

    def __init__(self, fit: Callable[[Callable[[Any], None]], None]):
        """Takes the first epoch, which compiles."""
        self._fit, self._enough = fit, False
        self._error: BaseException | None = None
        self._turn, self._over = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._wait()

    def __call__(self, steps: int) -> None:
        """Runs the next epoch, of the length that `fit` has; `steps` changes nothing."""
        self._turn.release()
        self._wait()

    def end(self) -> None:
        """Ends `fit` before its next epoch."""
        self._enough = True
        self._turn.release()
        self._thread.join()

    def _run(self) -> None:
        try:
            with contextlib.suppress(_Enough):
                self._fit(self._on_epoch)
        except BaseException as error:  # raised again where the block was asked for
            self._error = error
        finally:
            self._over.release()

    def _on_epoch(self, history: list[dict[str, Any]]) -> None:
        self._over.release()
        self._turn.acquire()
        if self._enough:
            raise _Enough

    def _wait(self) -> None:
        self._over.acquire()
        if self._error is not None:
            raise self._error


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
    train_step: Callable[..., Any], state: Any, batch: dict[str, np.ndarray], modules: Sequence[Any], *more: Any
) -> turns.Block:
    """Returns blocks of a train step on one batch, compiled as `fit` compiles that of these networks."""
    step = jax.jit(train_step, donate_argnums=0, compiler_options=models.compiler_options(*modules))
    # may_alias: the step donates its state, which must not be the memory that the other contenders start from.
    state = jax.device_put(state, may_alias=False)
    batch = jax.device_put(batch)

    def block(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, _ = step(state, batch, *more)
        jax.block_until_ready(state)

    return block


def torch_is_here() -> bool:
    """Returns whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def torch_block(name: str, images: np.ndarray, labels: np.ndarray, form: TorchForm) -> turns.Block:
    """Returns blocks of PyTorch steps on one batch: normalize, forward, backward, Adam.

    Args:
      name: of `torch_models`.
      images: (N, H, W, C), uint8.
      labels: (N,), int32.
      form: how PyTorch runs.
    """
    import torch

    from benchmarks.speed import torch_models

    torch.set_num_threads(os.cpu_count() or 1)
    layout = torch.channels_last if form.channels_last else torch.contiguous_format
    model = torch_models.create(name, CLASSES).train().to(form.device, memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    forward = torch.compile(model) if form.compiled else model
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=layout).to(form.device)
    targets = torch.from_numpy(labels.astype(np.int64)).to(form.device)

    def block(steps: int) -> None:
        for _ in range(steps):
            with torch.autocast(form.device, torch.bfloat16, enabled=form.autocast):
                inputs = (pixels.float() / 255 - 0.5) / 0.25
                loss = torch.nn.functional.cross_entropy(forward(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if form.device == "cuda":
            torch.cuda.synchronize()

    return block


def augmentation() -> augment.Augment:
    """Returns flip, rotation and translation."""
    return augment.create(flip=0.5, rotate=10.0, translate=0.1)


def noise(shape: tuple[int, ...], batch_size: int) -> dict[str, np.ndarray]:
    """Returns a batch of random images (N, H, W, C), uint8, and labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, *shape), np.uint8)
    return {"images": images, "labels": rng.integers(0, CLASSES, batch_size).astype(np.int32)}

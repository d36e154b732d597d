"""Measures training on one GPU: `fit` in bfloat16 beside PyTorch (channels last, autocast, compiled).

    python -m benchmarks.speed.gpu                    five networks, within five minutes on a data-center GPU
    python -m benchmarks.speed.gpu --tiny             one small network on any device, to try the program

Each network has its own input size. Shown are medians over the epochs of `fit` and over the blocks of PyTorch's steps.

- fit: `ferjax.train.loop.fit` in bfloat16 with flip, rotation and translation; the images lie on the device and 32
  steps are one compiled call. Its first epoch, which compiles, is left out. Checkpoints are not written.
- PyTorch: forward, backward and Adam on one batch that lies on the device, without augmentation.
- model FLOPs utilization: see `Job.flops`; as a share of what a large matrix product in bfloat16 reaches on the same
  device in the same run.
- compile: the first epoch of `fit`, less a later one.
"""

import contextlib
import functools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks.speed import train_contenders, turns
from benchmarks.speed.train_contenders import Job
from ferjax import cli, memory, models
from ferjax.weights import checkpoint
from tools import tables

NETWORKS = ("resnet18", "resnet20", "microexpnet", "efficientnet_lite0", "deit_tiny")
EPOCHS = 5  # of `fit`; the first one compiles
COLUMNS = (
    ("network", "{network}"),
    ("device", "{device}"),
    ("input, batch", "{input}, {batch}"),
    ("`fit`, images/s", "{fit:.0f}"),
    ("PyTorch step, images/s", "{torch:.0f}"),
    ("ratio", "{fit_over_torch:.2f}"),
    ("model FLOPs utilization", "{utilization:.1%}"),
    ("compile, s", "{compile_seconds:.0f}"),
)


def main() -> None:
    parser = tables.arguments(__doc__)
    parser.add_argument("--models", nargs="+", default=NETWORKS, help="names of the registry")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=128, help="steps of an epoch")
    parser.add_argument("--tiny", action="store_true", help="mini_xception, epochs of 2 steps, any device")
    args = parser.parse_args()
    if args.tiny:
        args.models, args.batch_size, args.steps = ["mini_xception"], 8, 2
    memory.keep_freed()
    peak = matmul_flops(512 if args.tiny else 8192)
    command, torch = tables.command("benchmarks.speed.gpu"), train_contenders.torch_is_here()
    packages = ["jax", "flax", *(["torch"] if torch else [])]
    for name in args.models:
        row = measure(name, args.batch_size, args.steps, peak, torch=torch)
        table = tables.save("gpu", COLUMNS, [row], command=command, packages=packages, results=args.results)
    print(tables.render(table))


def measure(
    name: str, batch_size: int, steps: int, peak: float, *, torch: bool, epochs: int = EPOCHS
) -> dict[str, Any]:
    """Returns one row.

    Args:
      name: of the registry.
      batch_size: images of a step.
      steps: steps of an epoch, and of a block of PyTorch's.
      peak: FLOP/s of a matrix product on this device.
      torch: whether to measure PyTorch too.
      epochs: of `fit`, at least 2.
    """
    shape = models.default_input_shape(name)
    batch = train_contenders.noise(shape, batch_size)
    job = Job(name, "bfloat16", **batch)
    first, *later = fit_seconds(job, steps, epochs)
    speed = steps * batch_size / statistics.median(later)
    rival = None
    if torch:
        block = train_contenders.torch_block(name, **batch, form=_torch_form())
        block(1)  # compiles
        rival = steps * batch_size / statistics.median(turns.seconds(block, steps) for _ in later)
    device = jax.devices()[0].device_kind
    return {
        "name": f"{name}, {device}",
        "network": name,
        "device": device,
        "input": "×".join(map(str, shape)),
        "batch": batch_size,
        "fit": speed,
        "torch": rival,
        "fit_over_torch": speed / rival if rival else None,
        "utilization": job.flops() * speed / peak,
        "peak_flops": peak,
        "compile_seconds": first - statistics.median(later),
    }


def fit_seconds(job: Job, steps: int, epochs: int) -> list[float]:
    """Returns the seconds of each epoch of `fit`."""
    with mock.patch.object(checkpoint, "save"), contextlib.redirect_stdout(sys.stderr):
        start = time.perf_counter()
        fit = train_contenders.Epochs(functools.partial(job.fit, steps, epochs, workers=None))
        first = time.perf_counter() - start
        later = [turns.seconds(fit, steps) for _ in range(epochs - 1)]
        fit.end()
    return [first, *later]


def matmul_flops(side: int, products: int = 10) -> float:
    """Returns the FLOP/s of a product of two square bfloat16 matrices, the best of three blocks."""
    matrix = jnp.ones((side, side), jnp.bfloat16)
    product: Callable[[jax.Array], jax.Array] = jax.jit(lambda a: a @ matrix / side)

    def block(count: int) -> None:
        result = matrix
        for _ in range(count):
            result = product(result)
        result.block_until_ready()

    block(1)
    return 2 * side**3 * products / min(turns.seconds(block, products) for _ in range(3))


def _torch_form() -> train_contenders.TorchForm:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return train_contenders.TorchForm(channels_last=True, compiled=True, autocast=True, device=device)


if __name__ == "__main__":
    cli.run(main)

"""Measures training speed in images per second: `fit`, its bare step, and PyTorch, side by side in one process.

    python -m benchmarks.speed.train_throughput                        ResNet-18 and ResNet-20
    python -m benchmarks.speed.train_throughput --models deit_tiny     one more row, merged into the results

The contenders take turns, a block of steps each. Shown are medians over the rounds, and medians of the rounds' ratios.

- fit: `ferjax.train.loop.fit` with flip, rotation and translation, from order of the epoch to the end of its last step,
  and the validation of one image; checkpoints are not written, as a real epoch is much longer than a block.
- from disk: the same `fit` on images that stay on disk, read ahead by a thread or by `--workers` processes.
- bare step: the same train step with the same augmentation, jitted, on one batch that never leaves the device.
- ferjax: the bare step without augmentation.
- PyTorch: the same work as ferjax on as many threads as there are cores (CPU only): eager, channels last, compiled, and
  both. The fastest counts.
- share of peak: the FLOPs of the ferjax step (`Job.flops`) as a share of what a large matrix product reaches in the
  same run, see `benchmarks.speed.peak`.

The first step is the bare step's, with its compilation.

All run in one process that keeps the memory it frees, as train.py does (`ferjax.memory`): PyTorch gains by it too.

The optimizer is Adam with coupled weight decay. Do not run it beside a training.
"""

import contextlib
import functools
import os
import statistics
import sys
from typing import Any
from unittest import mock

# PyTorch's idle OpenMP threads spin by default and take the cores from the other contenders: it cost ferjax a third.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax

from benchmarks.speed import peak, train_contenders, turns
from ferjax import cli, errors, memory, models
from ferjax.weights import checkpoint
from tools import tables

COLUMNS = (
    ("network", "{name}"),
    ("input, batch", "{input}, {batch}"),
    ("`fit`, images/s", "{fit:.1f}"),
    ("ferjax step, images/s", "{ferjax:.1f}"),
    ("PyTorch's best step, images/s", "{torch:.1f} ({torch_form})"),
    ("ratio of steps", "{ferjax_over_torch:.2f}"),
    ("share of peak", "{share:.0%}"),
)


def main() -> None:
    parser = tables.arguments(__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet20"], help="names of the registry")
    parser.add_argument("--size", type=int, default=0, help="side of the images; the network's own if not given")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="ferjax computes in it")
    parser.add_argument("--workers", type=int, default=0, help="processes that read for the fit from disk")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender")
    parser.add_argument(
        "--block-seconds", type=float, default=4.0, help="about how long a turn takes, at least 2 steps"
    )
    args = parser.parse_args()
    memory.keep_freed()
    limit = peak.operations("float32", os.cpu_count() or 1)
    command = tables.command("benchmarks.speed.train_throughput")
    packages = ["jax", "flax", *(["torch"] if train_contenders.torch_is_here() else [])]
    for name in args.models:  # each row is kept as soon as it is measured
        work = {"workers": args.workers, "size": args.size, "limit": limit}
        row = measure(name, args.batch_size, args.dtype, args.rounds, args.block_seconds, **work)
        table = tables.save(
            "train_throughput", COLUMNS, [row], command=command, packages=packages, results=args.results
        )
    print(tables.render(table))


def measure(
    name: str,
    batch_size: int,
    dtype: str,
    rounds: int,
    block_seconds: float,
    *,
    limit: float,
    workers: int = 0,
    size: int = 0,
) -> dict[str, Any]:
    """Returns one row: images per second of every contender for one network; `limit` is the peak in FLOP/s."""
    if rounds < 1 or batch_size < 1 or size < 0:
        raise errors.InputError(f"rounds, batch size and size must be positive, got {rounds}, {batch_size} and {size}")
    shape = models.default_input_shape(name)
    if size:
        shape = (size, size, shape[-1])
    batch = train_contenders.noise(shape, batch_size)
    job = train_contenders.Job(name, dtype, **batch)
    rivals = {"step": job.bare_block(train_contenders.augmentation()), "ferjax": job.bare_block(None)}
    forms = {}
    if train_contenders.torch_is_here() and jax.default_backend() == "cpu":
        forms = {
            form: train_contenders.torch_block(name, **batch, form=how)
            for form, how in train_contenders.TORCH_FORMS.items()
        }
    rivals |= forms
    first = {key: turns.seconds(block, 1) for key, block in rivals.items()}  # compiles
    steps = max(2, round(block_seconds / min(turns.seconds(block, 1) for block in rivals.values())))
    times = _take_turns(job, rivals, steps, rounds, workers)
    speed = {k: [steps * batch_size / t for t in v] for k, v in times.items()}
    medians = {k: statistics.median(v) for k, v in speed.items()}
    best = max(forms, key=medians.__getitem__, default=None)
    ratio = {
        f"{a}_over_{b}": statistics.median(x / y for x, y in zip(speed[a], speed[other], strict=True))
        if other
        else None
        for a, b, other in (("fit", "step", "step"), ("disk", "fit", "fit"), ("ferjax", "torch", best))
    }
    return {
        "name": ", ".join([name, *([f"{size}×{size}"] if size else []), *([dtype] if dtype != "float32" else [])]),
        "input": "×".join(map(str, shape)),
        "batch": batch_size,
        "steps": steps,
        "rounds": rounds,
        "workers": workers,
        **{key: medians[key] for key in ("fit", "disk", "step", "ferjax")},
        "torch": medians[best] if best else None,
        "torch_form": best,
        **ratio,
        "share": job.flops() * medians["ferjax"] / limit,
        "first_step_seconds": first["step"],
        "all": {k: [round(x, 2) for x in v] for k, v in speed.items()},
    }


def _take_turns(
    job: train_contenders.Job, rivals: dict[str, turns.Block], steps: int, rounds: int, workers: int
) -> dict[str, list[float]]:
    """Returns the seconds of each contender's turns, the two kinds of `fit` among them."""
    with mock.patch.object(checkpoint, "save"), contextlib.redirect_stdout(sys.stderr):
        fits = {
            key: train_contenders.Epochs(functools.partial(job.fit, steps, rounds + 1, workers=how))
            for key, how in (("fit", None), ("disk", workers))
        }
        try:
            return turns.take({**fits, **rivals}, rounds=rounds, steps=steps)
        finally:
            for epochs in fits.values():
                epochs.end()


if __name__ == "__main__":
    cli.run(main)

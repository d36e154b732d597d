"""Measures the reading of images alone, as training reads them: images a second, and memory, for sets of several sizes.

    python -m benchmarks.speed.streaming                           30,000 and 300,000 images of 48×48, read from arrays
    python -m benchmarks.speed.streaming --array-record --counts 30000

For each size a set is generated and stored as `prepare` stores it. Then a fresh process for each number of workers
loads it with nothing resident and takes one epoch of batches as `fit` does, in the shuffled order, each put on the
device; the step there only adds up pixels. Images a second are counted from the second batch on: before the first the
workers start, which is shown apart. Memory is the largest resident set that the process (Python, JAX and libraries
included) and the sum of its workers had, as Linux counts it.
"""

import argparse
import json
import multiprocessing
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ferjax import cli, data, devices
from ferjax.data import manifest, store
from ferjax.train import feed as train_feed
from ferjax.train.sampling import sampler
from ferjax.train.state import Sums
from tools import tables

CLASSES = data.EXPRESSIONS
SHAPE = (48, 48, 1)
HELD = 700  # images of validation
COLUMNS = (
    ("set", "{set}"),
    ("images, MB", "{megabytes:.0f}"),
    ("workers", "{workers}"),
    ("images/s", "{speed:,.0f}"),
    ("first batch, s", "{first:.1f}"),
    ("process, MB", "{process:.0f}"),
    ("its workers, MB", "{children:.0f}"),
)


def main() -> None:
    parser = tables.arguments(__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[30_000, 300_000], help="training images")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="reading processes")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--array-record", action="store_true", help="store array_record files in the place of arrays")
    parser.add_argument("--folder", type=pathlib.Path, help="keep the sets here, and use those that are here")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)  # data_dir, workers, batch size
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(pathlib.Path(args.measure[0]), *map(int, args.measure[1:]))))
        return
    command = tables.command("benchmarks.speed.streaming", without=["--folder"])
    packages = ["jax", "grain", "array_record", "numpy"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or pathlib.Path(scratch)
        rows = [
            row(folder, count, workers, args.batch_size, array_record=args.array_record)
            for count in args.counts
            for workers in args.workers
        ]
    table = tables.save("streaming", COLUMNS, rows, command=command, packages=packages, results=args.results)
    print(tables.render(table))


def row(folder: pathlib.Path, count: int, workers: int, batch_size: int, *, array_record: bool) -> dict[str, Any]:
    """Returns a row of the table, measured in a process of its own."""
    kind = "array_record" if array_record else "array"
    data_dir = folder / f"{count}-{kind}"
    if store.read_manifest(data_dir, "generated") is None:
        cli.note(f"generating {count:,} images")
        generate(data_dir, count, array_record=array_record)
    cli.note(f"reading {count:,} images, {workers} workers")
    return {
        "name": f"{count}, {kind}, {workers}",
        "set": f"{count:,} images, {kind}",
        "megabytes": count * int(np.prod(SHAPE)) / 1e6,
        "workers": workers,
        "batch": batch_size,
        **measure_apart(data_dir, workers, batch_size),
    }


def generate(data_dir: pathlib.Path, count: int, *, array_record: bool = False) -> None:
    """Stores noise that is a little alike, so that PNG has something to do, as a prepared set named "generated"."""
    with store.staging(data_dir, "generated") as folder:
        for split, images in (("train", count), ("validation", HELD)):
            rng = np.random.default_rng([images, split == "train"])
            with store.SplitWriter(folder / split, SHAPE) as writer:
                for i in range(images):
                    image = rng.integers(0, 32, SHAPE, np.uint8) + np.uint8(i % 200)
                    writer.add(image, i % len(CLASSES), f"{split}_{i:06d}", {})
        manifest.complete(folder, "generated", CLASSES)
        if array_record:
            store.use_records(folder, CLASSES)


def measure_apart(data_dir: pathlib.Path, workers: int, batch_size: int) -> dict[str, float]:
    """Measures in a fresh process."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.speed.streaming",
        "--measure",
        str(data_dir),
        str(workers),
        str(batch_size),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=tables.ROOT, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(data_dir: pathlib.Path, workers: int, batch_size: int) -> dict[str, float]:
    """Takes one epoch of batches from disk; returns speed, and memory in MB."""
    faces = data.load("generated", data_dir, resident_bytes=0, workers=workers)
    train = faces.splits["train"]._asdict()
    steps = len(train["labels"]) // batch_size
    feed = train_feed.create(
        train,
        {"labels": train["labels"]},
        sampler("shuffled", train["labels"], faces.class_names, seed=0),
        batch_size=batch_size,
        steps_per_epoch=steps,
        epochs=1,
        steps_per_dispatch=1,
        mesh=devices.mesh(1),
    )
    run = feed.compile(lambda state, batch: (state + jnp.sum(batch["images"], dtype=jnp.uint32), Sums.zero()))
    state: Any = jnp.zeros((), jnp.uint32)
    sums, moments = Sums.zero(), [time.perf_counter()]
    for taken, arguments in feed.dispatches(0, steps):
        state, sums, _ = run(state, sums, *arguments, steps=taken)
        if len(moments) == 1:
            jax.block_until_ready(state)
            moments.append(time.perf_counter())
    jax.block_until_ready(state)
    moments.append(time.perf_counter())
    found = {
        "speed": (steps - 1) * batch_size / (moments[2] - moments[1]),
        "first": moments[1] - moments[0],
        "process": peak_megabytes("self"),
        "children": sum(peak_megabytes(child.pid) for child in multiprocessing.active_children()),
    }
    feed.close()
    return found


def peak_megabytes(process: int | str | None) -> float:
    """Returns the largest resident set that a process has had; of Linux.

    Not `getrusage`, which counts for a child what its parent had when it was started.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path(f"/proc/{process}/status").read_text())
    return int(found[1]) * 1024 / 1e6 if found else 0.0


if __name__ == "__main__":
    cli.run(main)

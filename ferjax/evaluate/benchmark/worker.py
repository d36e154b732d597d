"""Measures one file in its own process: python -m ferjax.evaluate.benchmark.worker FILE THREADS PROVIDER WARMUP.

It loads the file, warms up and prints a report as one line of JSON. Then, for each number on standard input, it runs
this many inferences and prints their times. It imports only what a serving process imports.
"""

import contextlib
import importlib
import json
import pathlib
import sys
import time

import numpy as np

from ferjax import memory
from ferjax.errors import InputError
from ferjax.runtime.engine import Engine, MissingProvider, open_engine

PACKAGES = {".tflite": "ai_edge_litert.interpreter", ".onnx": "onnxruntime"}


def main() -> None:
    """Runs the worker until standard input ends."""
    path, threads, provider, warmup, *more = sys.argv[1:]
    for name in (PACKAGES[pathlib.Path(path).suffix.lower()], *more):
        with contextlib.suppress(ImportError):  # open_engine reports a missing package
            importlib.import_module(name)
    try:
        started = time.perf_counter()
        engine = open_engine(path, threads=int(threads), provider=provider)
        loaded = time.perf_counter()
        batch = example(engine, path)
        first = run(engine, batch, 1)[0]
    except InputError as error:
        print(json.dumps({"error": str(error), "provider": isinstance(error, MissingProvider)}), flush=True)
        return
    run(engine, batch, int(warmup) - 1)
    report = {"runtime": engine.runtime, "load_ms": 1e3 * (loaded - started), "first_ms": first}
    print(json.dumps(report | {"memory": memory.peak()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(engine, batch, int(line))), flush=True)


def run(engine: Engine, batch: np.ndarray, passes: int) -> list[float]:
    """Returns the milliseconds of each inference."""
    times = []
    for _ in range(passes):
        started = time.perf_counter_ns()
        engine.run(batch)
        times.append((time.perf_counter_ns() - started) / 1e6)
    return times


def example(engine: Engine, name: str) -> np.ndarray:
    """Returns a deterministic input in the range of normalized pixels."""
    shape, dtype = engine.input.shape, engine.input.dtype
    if min(shape) < 1:
        raise InputError(f"{name} has a dynamic input shape {shape}: export it with a fixed shape")
    ramp = (np.arange(np.prod(shape)) * 37 % 256).reshape(shape)
    if dtype.kind == "f":
        return ((ramp / 255 - 0.5) / 0.25).astype(dtype)
    return (ramp + min(0, np.iinfo(dtype).min)).clip(np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)


if __name__ == "__main__":
    main()

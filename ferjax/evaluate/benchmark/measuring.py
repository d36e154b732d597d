"""Measures latency and memory of model files, each in its own process, in alternating blocks."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ferjax import cli, errors
from ferjax.runtime.engine import MissingProvider

BLOCKS = 10


class Contender(NamedTuple):
    """One file on one provider."""

    path: pathlib.Path
    provider: str


def contenders(files: Sequence[pathlib.Path], providers: Sequence[str]) -> list[Contender]:
    """Returns all pairs of file and provider that run; prints a note for each unavailable provider.

    Raises InputError if a file cannot be loaded, or no pair runs.
    """
    found: list[Contender] = []
    missing: dict[tuple[str, str], str] = {}
    for provider in providers:
        for path in files:
            try:
                with Process(path, 1, provider, warmup=1):
                    found.append(Contender(path, provider))
            except MissingProvider as error:
                missing.setdefault((provider, path.suffix.lower()), str(error))
    for line in missing.values():
        cli.note(line)
    if not found:
        raise errors.InputError(f"no provider runs any of the files: {', '.join(providers)}")
    return found


def measure(
    chosen: Sequence[Contender], *, threads: int, passes: int = 1000, warmup: int = 100
) -> list[dict[str, Any]]:
    """Measures files by MicroExpNet's protocol: 1,000 passes after 100 warm-up passes.

    Each file runs in its own process. The passes are divided into ten blocks; the files alternate block by block, in an
    order that rotates each round, so that other load on the machine affects all files.

    Args:
      chosen: from `contenders`.
      threads: threads of each inference.
      passes: timed inferences per file, at least 1.
      warmup: untimed inferences before them, at least 1.

    Returns:
      For each file, `runtime`, `load_ms` (without importing the runtime), `first_ms` (first inference), `p50_ms`,
      `p95_ms`, `p99_ms`, `memory` (peak bytes of the process after warm-up).

    Raises:
      InputError: if a number is too small or a process does not start.
    """
    if passes < 1 or warmup < 1:
        raise errors.InputError(f"passes and warmup must be at least 1, got {passes} and {warmup}")
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(Process(c.path, threads, c.provider, warmup=warmup)) for c in chosen]
        times: list[list[float]] = [[] for _ in running]
        for block, size in enumerate(_blocks(passes)):
            for turn in range(len(running)):
                index = (turn + block) % len(running)
                times[index] += running[index].times(size)
        return [{**process.report, **_percentiles(t)} for process, t in zip(running, times, strict=True)]


def memory_beside_opencv(contender: Contender, *, threads: int, warmup: int = 100) -> int | None:
    """Returns the peak bytes of a process that has loaded OpenCV and run the file; None on Windows."""
    with Process(contender.path, threads, contender.provider, "cv2", warmup=warmup) as process:
        return process.report["memory"]


class Process:
    """A worker process, as a context manager that ends it.

    Attributes:
      report: the first report of the worker: `runtime`, `load_ms`, `first_ms`, `memory`.
    """

    report: Mapping[str, Any]

    def __init__(self, path: pathlib.Path, threads: int, provider: str, *modules: str, warmup: int):
        arguments = [str(path), str(threads), provider, str(warmup), *modules]
        # The worker inherits sys.path, so that it finds the package from any working directory.
        paths = os.pathsep.join(filter(None, [*sys.path, os.environ.get("PYTHONPATH")]))
        self._path = path
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ferjax.evaluate.benchmark.worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )

    def __enter__(self) -> "Process":
        try:
            self.report = self._answer()
            if "error" in self.report:
                kind = MissingProvider if self.report["provider"] else errors.InputError
                raise kind(self.report["error"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def times(self, passes: int) -> list[float]:
        """Returns the milliseconds of each inference."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # `_answer` reports a process that has died
            self._process.stdin.write(f"{passes}\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None and self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            last = self._process.stderr.read().strip().splitlines()[-1:]
            raise errors.InputError(
                f"the process that measures {self._path} died (exit code {self._process.wait()}) {' '.join(last)}"
            )
        return json.loads(line)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def _blocks(passes: int) -> Iterator[int]:
    for block in range(min(BLOCKS, passes)):
        yield passes * (block + 1) // min(BLOCKS, passes) - passes * block // min(BLOCKS, passes)


def _percentiles(times: Sequence[float]) -> dict[str, float]:
    values = np.percentile(times, (50, 95, 99))
    return dict(zip(("p50_ms", "p95_ms", "p99_ms"), map(float, values), strict=True))

"""Traces a few steps of a run and measures the peak memory of its devices."""

import pathlib
from typing import Any

import jax
from jax.sharding import Mesh

from ferjax import cli, memory


class Trace:
    """Traces a number of dispatches of a run, after the first ones, which compile."""

    def __init__(self, folder: pathlib.Path, *, skip: int = 3, dispatches: int = 5):
        """Traces `dispatches` dispatches (0 for none) into a folder, after `skip` others.

        `tensorboard --logdir` reads the folder; https://ui.perfetto.dev opens its .trace.json.gz.
        """
        self._folder, self._begin, self._end, self._seen, self._running = folder, skip, skip + dispatches, 0, False

    def note(self, result: Any) -> None:
        """Counts a dispatch; waits for its result where the trace begins and ends."""
        self._seen += 1
        if self._begin == self._end:
            return
        if self._seen == self._begin:
            jax.block_until_ready(result)
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif self._seen == self._end:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends a running trace and reports where it is."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            cli.note(f"trace of {_dispatches(self._seen - self._begin)}: {self._folder}")
        elif self._seen < self._begin < self._end:
            cli.note(f"no trace: it begins after {_dispatches(self._begin)}, the run took {self._seen}")


def peak_memory(mesh: Mesh) -> int | None:
    """Returns the peak memory in bytes of this process's devices (CPUs: of the process); None if unknown."""
    own = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in own]
    known = [peak for peak in peaks if peak is not None]
    return max(known) if known else memory.peak()


def _dispatches(count: int) -> str:
    return f"{count} dispatch{'es' * (count != 1)}"

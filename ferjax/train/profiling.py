"""What a run costs its devices: a trace of a few steps, and the most memory that they held."""

import pathlib
from typing import Any

import jax
from jax.sharding import Mesh

from ferjax import cli, memory


class Trace:
    """Traces some dispatches of a run, after the first ones, which compile."""

    def __init__(self, folder: pathlib.Path, *, skip: int = 3, dispatches: int = 5):
        """Keeps where and when.

        Args:
          folder: for `tensorboard --logdir`, or https://ui.perfetto.dev for the trace.json.gz in it.
          skip: dispatches before.
          dispatches: to be traced; 0 for none.
        """
        self._folder, self._begin, self._end, self._seen, self._running = folder, skip, skip + dispatches, 0, False

    def note(self, result: Any) -> None:
        """Counts a dispatch by what it returned; waits for it where the trace begins and ends."""
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
        """Writes a trace that still runs: the run was shorter."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            cli.note(f"the trace of {_dispatches(self._seen - self._begin)} is in {self._folder}")
        elif self._seen < self._begin < self._end:
            taken = _dispatches(self._seen)
            cli.note(f"the run took {taken}, too few for a trace, which begins after {self._begin}")


def peak_memory(mesh: Mesh) -> int | None:
    """Returns the most bytes that any of this process's devices has held so far; on CPUs, that the process has.

    None where neither is counted.
    """
    own = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in own]
    known = [peak for peak in peaks if peak is not None]
    return max(known) if known else memory.peak()


def _dispatches(count: int) -> str:
    return f"{count} dispatch{'es' * (count != 1)}"

"""Monitors a run: progress bar, trace, check for non-finite losses, one line per epoch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from ferjax import errors
from ferjax.train import profiling
from ferjax.train.history import describe
from ferjax.train.options import FitOptions
from ferjax.train.run_folder import RunFolder
from ferjax.train.state import Sums


class Monitor(NamedTuple):
    """What process 0 shows of a run.

    Attributes:
      progress: whether to show a progress bar on a terminal.
      on_epoch: called with the history after each epoch.
      profile: number of dispatches to trace into WORKDIR/profile; 0 for none.
    """

    progress: bool = True
    on_epoch: Callable[[list[dict[str, Any]]], None] | None = None
    profile: int = 0


class Watch:
    """Counts the dispatches of a run; as a context manager, closes the progress bar and the trace.

    Attributes:
      step: number of steps dispatched since the run's start.
    """

    def __init__(self, monitor: Monitor, folder: RunFolder, steps_per_epoch: int, options: FitOptions, step: int):
        """Opens the progress bar of a run that begins or resumes at `step`."""
        self.step, self._monitor, self._folder, self._options = step, monitor, folder, options
        self._flag: jax.Array | None = None
        self._bar = tqdm.tqdm(
            total=options.batch_size * steps_per_epoch * options.epochs,
            initial=options.batch_size * step,
            disable=None if monitor.progress and folder.writes else True,  # None: quiet without a terminal
            unit="img",
            unit_scale=True,
            smoothing=0.05,
        )
        traced = monitor.profile if folder.writes else 0
        self._trace = profiling.Trace(folder.workdir / "profile", dispatches=traced)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._trace.close()
        self._bar.close()

    def dispatched(self, steps: int, flag: jax.Array, sums: Sums) -> None:
        """Counts a dispatch of `steps` steps and waits for the previous one, so one is always queued on the device.

        `flag` is its `Sums.first_bad`; `sums` are those of the epoch so far. Raises InputError if a loss or gradient of
        the previous dispatch is not finite.
        """
        self._trace.note(flag)
        self.wait(sums)
        self._flag = flag
        self.step += steps
        self._bar.update(steps * self._options.batch_size)

    def wait(self, sums: Sums) -> None:
        """Waits for the last dispatch; raises InputError if a loss or gradient in it is not finite."""
        flag, self._flag = self._flag, None
        if flag is None or int(flag) == np.iinfo(np.int32).max:
            return
        raise errors.InputError(
            f"the loss or its gradient is not finite at step {int(flag)} ({int(sums.bad)} of the epoch's "
            f"{int(sums.steps)} steps so far); {self._folder.workdir} keeps the last good checkpoint. Lower "
            "optim.learning_rate or set optim.clip_norm, with another --workdir"
        )

    def epoch_ended(self, history: list[dict[str, Any]], speed: float) -> None:
        """Prints the last row of the history and calls `on_epoch`; speed in images per second."""
        if not self._folder.writes:
            return
        self._bar.write(describe(history[-1], self._options.epochs, speed))
        if self._monitor.on_epoch is not None:
            self._monitor.on_epoch(history)

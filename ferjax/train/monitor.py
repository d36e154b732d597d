"""Watches a run while it trains: progress bar, trace, the check for losses that are not finite, a line per epoch."""

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
    """What a run shows; of several processes, the first one shows it.

    Attributes:
      progress: whether to show a bar on a terminal.
      on_epoch: called with the history after each epoch.
      profile: dispatches to trace, into WORKDIR/profile; 0 for none.
    """

    progress: bool = True
    on_epoch: Callable[[list[dict[str, Any]]], None] | None = None
    profile: int = 0


class Watch:
    """Follows the dispatches of one run; a context that closes the bar and the trace.

    Attributes:
      step: of the run, those dispatched counted.
    """

    def __init__(self, monitor: Monitor, folder: RunFolder, steps_per_epoch: int, options: FitOptions, step: int):
        """Opens the bar.

        Args:
          monitor: what is shown, by the process that writes the folder.
          folder: of the run.
          steps_per_epoch: of the run.
          options: of the run.
          step: at which the run begins or resumes.
        """
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
        """Counts a dispatch and waits for the one before it: the device never idles and a bad step shows at once.

        Args:
          steps: of the dispatch.
          flag: its `Sums.first_bad`, see `Feed.compile`.
          sums: of the epoch so far.

        Raises:
          InputError: if a loss or its gradient was not finite in the dispatch before.
        """
        self._trace.note(flag)
        self.wait(sums)
        self._flag = flag
        self.step += steps
        self._bar.update(steps * self._options.batch_size)

    def wait(self, sums: Sums) -> None:
        """Waits for the last dispatch.

        Raises:
          InputError: if a loss or its gradient was not finite in it.
        """
        flag, self._flag = self._flag, None
        if flag is None or int(flag) == np.iinfo(np.int32).max:
            return
        raise errors.InputError(
            f"the loss or its gradient is not finite at step {int(flag)} ({int(sums.bad)} bad of the epoch's last "
            f"{int(sums.steps)} steps); {self._folder.workdir} keeps the last good checkpoint. Lower "
            "optim.learning_rate, or set optim.clip_norm, under another --workdir"
        )

    def epoch_ended(self, history: list[dict[str, Any]], speed: float) -> None:
        """Prints the last row of the history, and hands the history to the caller; speed in images per second."""
        if not self._folder.writes:
            return
        self._bar.write(describe(history[-1], self._options.epochs, speed))
        if self._monitor.on_epoch is not None:
            self._monitor.on_epoch(history)

"""Reads and writes the files of a run: checkpoints, metrics, times. Only process 0 does."""

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from ferjax import cli, errors, folders
from ferjax.evaluate.metrics import best_row
from ferjax.spec import ModelSpec
from ferjax.train import distributed
from ferjax.train.state import Sums, TrainState
from ferjax.weights import checkpoint

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None  # type: ignore[assignment]


class InUse(errors.InputError):
    """Another process is training in the workdir."""


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Holds an exclusive lock on a workdir, created if missing; raises InUse if another process holds it."""
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("a") as file:  # never removed: a third process would lock a new file
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(
                f"another process is training in {workdir}: wait for it, stop it, or choose another --workdir"
            ) from None
        except OSError:  # some network file systems have no locks
            pass
        yield


def training_seconds(workdir: pathlib.Path, epoch_images: int) -> float:
    """Returns the training time of a run of `epoch_images` images per epoch in seconds, without scoring and saving.

    Uses the last measured speed of each epoch, so that a resumed epoch counts once.

    Raises:
      InputError: if timing.jsonl is missing or damaged.
    """
    path = workdir / "timing.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        speeds = {row["epoch"]: row["images_per_second"] for row in rows}
        return sum(epoch_images / speed for speed in speeds.values())
    except FileNotFoundError as error:
        raise errors.InputError(f"{path} is missing: the training time is unknown") from error
    except (ValueError, LookupError, TypeError, ZeroDivisionError) as error:
        raise errors.InputError(f"{path} is damaged ({error!r}): the training time is unknown") from error


class RunFolder:
    """The files of a run; metrics.jsonl mirrors the history in the last checkpoint.

    All processes make the same calls; only process 0 reads and writes, so the folder need not be shared. The state is
    replicated, so a run resumes on any number of devices.
    """

    def __init__(self, workdir: pathlib.Path, spec: ModelSpec, config: Mapping[str, Any], minutes: float):
        self.workdir, self.spec, self.config, self.seconds = workdir, spec, config, 60 * minutes
        self.saved, self.writes = time.monotonic(), distributed.is_first()
        if self.writes:
            workdir.mkdir(parents=True, exist_ok=True)

    def resume(self, state: TrainState, sums: Sums) -> tuple[TrainState, Sums, list[dict[str, Any]]]:
        """Returns process 0's last checkpoint (state, sums, history), or the given initial values for a new run."""
        history: list[dict[str, Any]] = []
        if self.writes:
            state, sums, history = self._restore(state, sums)
        state, sums = distributed.arrays_of_first((state, sums))
        return state, sums, distributed.value_of_first(history)

    def due(self) -> bool:
        """Returns whether it is time to save the state; False except in process 0."""
        return self.writes and time.monotonic() - self.saved > self.seconds

    def close_epoch(self, state: TrainState, sums: Sums, history: list[dict[str, Any]]) -> None:
        """Writes best, last, and the metrics, in this order: after a kill in between, the epoch is repeated."""
        if not self.writes:
            return
        row = history[-1]
        if best_row(history) is row:
            variables = jax.device_get(state.variables())
            spec = self.spec.replace(
                accuracy={"validation": row["validation_accuracy"]}, params_sha256=checkpoint.fingerprint(variables)
            )
            meta = {"spec": spec.to_json(), "config": self.config, "history": history}
            checkpoint.save(self.workdir, "best", row["step"], variables, meta, keep=1)
        self.save_last(state, sums, history)
        self._write_metrics(history)

    def save_last(self, state: TrainState, sums: Sums, history: list[dict[str, Any]]) -> None:
        """Writes the checkpoint from which a stopped run resumes."""
        tree = jax.device_get({**state._asdict(), "sums": sums._asdict()})
        meta = {"spec": self.spec.to_json(), "config": self.config, "history": history}
        checkpoint.save(self.workdir, "last", int(tree["step"]), tree, meta, keep=2)
        self.saved = time.monotonic()

    def best_variables(self, like: Any) -> Any:
        """Returns the best epoch's variables as numpy arrays, in every process; `like` has their structure."""
        return distributed.arrays_of_first(checkpoint.read(self.workdir)[0].variables if self.writes else like)

    def note_time(self, **values: float | None) -> None:
        """Appends values to timing.jsonl, which is separate from the metrics because times differ between machines."""
        if self.writes:
            known = {k: round(v, 3) for k, v in values.items() if v is not None}
            with open(self.workdir / "timing.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(known) + "\n")

    def _restore(self, state: TrainState, sums: Sums) -> tuple[TrainState, Sums, list[dict[str, Any]]]:
        checkpoint.remove_unfinished(self.workdir)
        found = checkpoint.restore(self.workdir, {**state._asdict(), "sums": sums._asdict()})
        history: list[dict[str, Any]] = []
        if found is not None:
            arrays, meta = found
            self._check_data(ModelSpec.from_json(meta["spec"]))
            sums, history = Sums(**arrays.pop("sums")), meta["history"]
            state = TrainState(**arrays)
            cli.note(f"resuming {self.workdir} after step {int(state.step)}")
        self._write_metrics(history)
        return state, sums, history

    def _check_data(self, stored: ModelSpec) -> None:
        there, here = stored.dataset_sha256, self.spec.dataset_sha256
        if there and here and there != here:  # the hash is optional in a spec
            raise errors.InputError(
                f"{self.workdir} holds a run on other data: {stored.dataset} has SHA-256 {there[:12]}… there and "
                f"{here[:12]}… here: choose another --workdir, or prepare the original data again"
            )

    def _write_metrics(self, history: list[dict[str, Any]]) -> None:
        path = self.workdir / "metrics.jsonl"
        with folders.atomic_file(path) as part:
            part.write_text("".join(json.dumps(row) + "\n" for row in history), encoding="utf-8")

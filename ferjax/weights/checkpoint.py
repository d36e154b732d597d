"""Saves and restores checkpoints with orbax.

    WORKDIR/last/STEP   the two newest training states, history, spec and configuration, to resume a run
    WORKDIR/best/STEP   the variables with the best validation accuracy, spec and configuration

Arrays are stored under their dotted paths and restored as numpy arrays, on any device. A fingerprint detects damaged
files. The state of a run is replicated over its devices, so one process writes it and any number of devices can
resume.
"""

import contextlib
import dataclasses
import gc
import hashlib
import json
import logging
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from ferjax import cli, devices, errors, folders
from ferjax.spec import ModelSpec
from ferjax.trees import path_name
from ferjax.weights.trained import Trained

KINDS = ("best", "last")
_CALIBRATED = ("temperature", "abstention_threshold")


def save(workdir: pathlib.Path, kind: str, step: int, tree: Any, meta: Mapping[str, Any], *, keep: int) -> None:
    """Writes a checkpoint atomically, then removes those of later steps and all but the newest `keep`.

    Later steps exist if a run resumed before checkpoints that it could not read.

    Args:
      workdir: the workdir.
      kind: "best" or "last".
      step: optimizer step.
      tree: a pytree of arrays.
      meta: JSON values stored with the arrays.
      keep: number of checkpoints of this kind to keep.

    Raises:
      InputError: if it cannot be written; earlier checkpoints are unchanged.
    """
    check_path(workdir)
    folder = workdir.absolute() / kind
    arrays = _flatten(tree)
    meta = {**meta, "step": step, "fingerprint": fingerprint(arrays)}
    with _quiet() as failed:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _checkpointer() as checkpointer:
                checkpointer.save(
                    folder / f"{step:09d}",
                    ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta)),
                    force=True,
                )
        except Exception as error:  # orbax and tensorstore raise various types when the disk is full
            failed.append(_reason(error))
    if failed:
        remove_unfinished(workdir)
        good = next(iter(_steps(workdir, "last")), None)
        kept = f"the checkpoint of step {good} is intact" if good is not None else "there is no earlier checkpoint"
        raise errors.InputError(
            f"cannot save the checkpoint of step {step} in {folder}: {failed[0]}; {kept}. Free disk space and repeat "
            "the command to resume"
        )
    steps = _steps(workdir, kind)
    at = steps.index(step)
    for old in steps[:at] + steps[at + keep :]:
        shutil.rmtree(folder / f"{old:09d}", ignore_errors=True)


def restore(workdir: pathlib.Path, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """Restores the newest readable "last" checkpoint into the structure of `like`; prints a note for damaged ones.

    Args:
      workdir: the workdir.
      like: a pytree of arrays or shapes.

    Returns:
      (tree of numpy arrays, meta), or None if there is no readable checkpoint.

    Raises:
      InputError: if the checkpoint belongs to another network or optimizer.
    """
    for step, arrays, meta in _good(workdir, "last"):
        leaves, structure = jax.tree_util.tree_flatten_with_path(like)
        names = [path_name(path, ".") for path, _ in leaves]
        if odd := sorted(set(names) ^ set(arrays)):
            raise errors.InputError(
                f"step {step} in {workdir} belongs to another network or optimizer: {odd[0]} is in one only"
            )
        for name, (_, leaf) in zip(names, leaves, strict=True):
            if arrays[name].shape != leaf.shape:
                raise errors.InputError(f"{name} in {workdir} has shape {arrays[name].shape}, expected {leaf.shape}")
        return jax.tree_util.tree_unflatten(structure, [arrays[n] for n in names]), meta
    if _steps(workdir, "last"):
        cli.note(f"no checkpoint in {workdir / 'last'} is readable: the run starts from the beginning")
    return None


def read(workdir: str | os.PathLike[str], kind: str = "best") -> tuple[Trained, dict[str, Any]]:
    """Reads a trained network and the metadata of its run.

    Args:
      workdir: the workdir.
      kind: "best" (on validation) or "last".

    Returns:
      (network, meta): variables are numpy arrays; meta has the resolved `config`, the `history` and the `step`.

    Raises:
      InputError: if the folder does not exist or has no readable checkpoint.
    """
    workdir = pathlib.Path(workdir)
    if kind not in KINDS:
        raise errors.unknown("checkpoint", kind, KINDS)
    if not workdir.is_dir():
        raise errors.InputError(f"{workdir} is not a folder: give the workdir of a training run")
    order = KINDS if kind == "best" else ("last",)
    for each in order:
        for _, arrays, meta in _good(workdir, each):
            if each != kind:
                cli.note(f"no readable best checkpoint in {workdir}: using the last one, step {meta['step']}")
            tree = traverse_util.unflatten_dict({tuple(k.split(".")): v for k, v in arrays.items()})
            variables = tree if each == "best" else _evaluated(tree)
            if "spec" not in meta:
                raise errors.InputError(f"the checkpoint in {workdir} has no spec: give the workdir of ferjax train")
            return Trained(_calibrated(ModelSpec.from_json(meta["spec"]), workdir), variables), meta
    raise errors.InputError(f"{workdir} has no readable checkpoint: give the workdir of a training run")


def calibrate(workdir: pathlib.Path | str, *, temperature: float, abstention_threshold: float) -> None:
    """Stores the calibration of the best checkpoint in WORKDIR/calibration.json; `read` puts it into the spec.

    The file has the hash of the variables, so it does not apply to a later best epoch.

    Raises:
      InputError: if there is no readable checkpoint, or a value is out of range.
    """
    workdir = pathlib.Path(workdir)
    spec = read(workdir)[0].spec.replace(temperature=temperature, abstention_threshold=abstention_threshold)
    with folders.atomic_file(workdir / "calibration.json") as part:
        part.write_text(
            json.dumps({name: getattr(spec, name) for name in ("params_sha256", *_CALIBRATED)}, indent=1),
            encoding="utf-8",
        )


def _calibrated(spec: ModelSpec, workdir: pathlib.Path) -> ModelSpec:
    path = workdir / "calibration.json"
    if not path.exists():
        return spec
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        fits = stored["params_sha256"] == spec.params_sha256
        return spec.replace(**{name: stored[name] for name in _CALIBRATED}) if fits else spec
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise errors.InputError(f"{path} is damaged ({error}): delete it and run ferjax calibrate") from error


def _evaluated(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables for evaluation of a stored TrainState: the moving average if there is one."""
    return state.get("ema") or {"params": state["params"], **state.get("collections", {})}


def fingerprint(arrays: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of named arrays: names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, array in sorted(_flatten(arrays).items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data if array.size else b"")
    return digest.hexdigest()


def check_path(workdir: pathlib.Path) -> None:
    """Raises InputError if the path contains "[", which orbax takes for a glob pattern when it reads."""
    if "[" in str(workdir.absolute()):
        raise errors.InputError(f"the path of a workdir must not contain '[', got {workdir.absolute()}")


def remove_unfinished(workdir: pathlib.Path) -> None:
    """Removes the temporary folders of an interrupted save."""
    for kind in KINDS:
        for path in (workdir / kind).glob("*orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)


def _good(workdir: pathlib.Path, kind: str) -> Iterator[tuple[int, dict[str, np.ndarray], dict[str, Any]]]:
    """Yields (step, arrays, meta) of the readable checkpoints, newest first; prints a note for the others.

    Raises InputError if JAX, which orbax uses, has no device.
    """
    devices.check_platform()
    for step in _steps(workdir, kind):
        path = workdir.absolute() / kind / f"{step:09d}"
        with _quiet() as failed:
            try:
                with _checkpointer() as checkpointer:
                    found = checkpointer.restore(
                        path, ocp.args.Composite(arrays=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore())
                    )
                arrays = {name: np.asarray(value) for name, value in found.arrays.items()}
                if fingerprint(arrays) != found.meta["fingerprint"]:
                    raise ValueError("the arrays do not match their fingerprint")
            except Exception as error:  # orbax and tensorstore raise many types for a truncated file
                failed.append(_reason(error))
        if failed:
            cli.note(f"the checkpoint {path} is damaged ({failed[0]}): trying the previous one")
            continue
        yield step, arrays, found.meta


def _checkpointer() -> ocp.Checkpointer:
    """Returns a Checkpointer without barriers: by default, orbax waits for all processes of a distributed run."""
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
    )
    handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=alone))
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _steps(workdir: pathlib.Path, kind: str) -> list[int]:
    folder = workdir / kind
    return sorted((int(p.name) for p in folder.glob("*") if p.name.isdigit()), reverse=True)


def _flatten(tree: Any) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path, "."): np.asarray(leaf) for path, leaf in leaves}


@contextlib.contextmanager
def _quiet() -> Iterator[list[str]]:
    """Yields a list for error messages; after an error, silently collects orbax's unfinished coroutines.

    Otherwise each would print a traceback when it is collected, at the latest at exit. What orbax's threads log with
    absl is not shown, because they also raise it.
    """
    failed: list[str] = []
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        yield failed
        if failed:
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # asyncio logs futures that nothing awaited
            gc.collect()
    finally:
        if not failed:  # orbax's threads may log later
            logger.setLevel(level)
        sys.unraisablehook = hook
        if failed and not isinstance(hook, _LateErrorFilter):
            sys.unraisablehook = _LateErrorFilter(hook)


@dataclasses.dataclass(frozen=True)
class _LateErrorFilter:
    """A hook that drops the errors of tensorstore's threads that call orbax's event loop after it was closed."""

    hook: Callable[[Any], None]

    def __call__(self, unraisable: Any) -> None:
        late = isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"
        if not late:
            self.hook(unraisable)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 160 else text[:157] + "…"

"""Checkpoints by orbax: the last states of a run, its best variables, and the contract beside the arrays.

    WORKDIR/last/STEP   what a killed run needs to go on: the two newest states, history, spec and configuration
    WORKDIR/best/STEP   what a user needs: the variables that did best on validation, spec and configuration

Arrays are stored under their dotted paths and come back as numpy arrays, so that a run made on a GPU opens on a laptop.
A fingerprint of the arrays is stored with them: a damaged file is noticed, not used.

A state is replicated over the devices of a run, so that one process has all of it: of several that train together the
first writes, see `ferjax.train.run_folder`, and what was saved on eight devices goes on on two.
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

from ferjax import cli, errors, folders
from ferjax.spec import ModelSpec
from ferjax.trees import path_name
from ferjax.weights.trained import Trained

KINDS = ("best", "last")
_CALIBRATED = ("temperature", "abstention_threshold")


def save(workdir: pathlib.Path, kind: str, step: int, tree: Any, meta: Mapping[str, Any], *, keep: int) -> None:
    """Writes one checkpoint atomically, then removes those of later steps, and all but the newest `keep`.

    Later ones are there if they could not be read, so that the run went back: the one just written outlives them.

    Args:
      workdir: the run's folder.
      kind: "best" or "last".
      step: optimiser steps taken.
      tree: any pytree of arrays.
      meta: JSON-able values stored beside the arrays.
      keep: how many of this kind to leave.

    Raises:
      InputError: if it cannot be written (a full disk, no permission); the earlier ones are untouched.
    """
    check_path(workdir)
    folder = workdir.absolute() / kind
    arrays = _flatten(tree)
    meta = {**meta, "step": step, "fingerprint": fingerprint(arrays)}
    with _without_echoes() as failed:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _checkpointer() as checkpointer:
                checkpointer.save(
                    folder / f"{step:09d}",
                    ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta)),
                    force=True,
                )
        except Exception as error:  # orbax and tensorstore raise what they like when a disk is full
            failed.append(_reason(error))
    if failed:
        remove_unfinished(workdir)
        good = next(iter(_steps(workdir, "last")), None)
        kept = f"the checkpoint of step {good} is intact" if good is not None else "there is no earlier checkpoint"
        raise errors.InputError(
            f"cannot save the checkpoint of step {step} in {folder}: {failed[0]}; {kept}. "
            "Make room and repeat the command: it continues from there"
        )
    steps = _steps(workdir, kind)
    at = steps.index(step)
    for old in steps[:at] + steps[at + keep :]:
        shutil.rmtree(folder / f"{old:09d}", ignore_errors=True)


def restore(workdir: pathlib.Path, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """Reads the newest good "last" checkpoint into the structure of `like`.

    A damaged one is named on standard error and the one before it is used; that none is left is said too.

    Args:
      workdir: the run's folder.
      like: a pytree of arrays or shapes with the structure to fill.

    Returns:
      (tree of numpy arrays, meta), or None if the run has no usable checkpoint.

    Raises:
      InputError: if the stored arrays belong to another network or optimiser.
    """
    for step, arrays, meta in _good(workdir, "last"):
        leaves, structure = jax.tree_util.tree_flatten_with_path(like)
        names = [path_name(path, ".") for path, _ in leaves]
        if odd := sorted(set(names) ^ set(arrays)):
            raise errors.InputError(
                f"step {step} in {workdir} is of another network or optimiser: {odd[0]} does not fit"
            )
        for name, (_, leaf) in zip(names, leaves, strict=True):
            if arrays[name].shape != leaf.shape:
                raise errors.InputError(f"{name} in {workdir} has shape {arrays[name].shape}, expected {leaf.shape}")
        return jax.tree_util.tree_unflatten(structure, [arrays[n] for n in names]), meta
    if _steps(workdir, "last"):
        cli.note(f"no checkpoint in {workdir / 'last'} can be used: the run starts over and replaces them")
    return None


def read(workdir: str | os.PathLike[str], kind: str = "best") -> tuple[Trained, dict[str, Any]]:
    """Reads a trained network and what its run knows besides; `ferjax.weights.load` reads the network alone.

    Args:
      workdir: a folder that `train.py` wrote.
      kind: "best" (on validation) or "last".

    Returns:
      (network, meta): variables of numpy arrays; meta holds the resolved `config`, the `history` and the `step`.

    Raises:
      InputError: if there is no such folder or nothing in it can be read.
    """
    workdir = pathlib.Path(workdir)
    if kind not in KINDS:
        raise errors.unknown("checkpoint", kind, KINDS)
    if not workdir.is_dir():
        raise errors.InputError(f"{workdir} is not a folder: give the --workdir of a training run")
    order = KINDS if kind == "best" else ("last",)
    for each in order:
        for _, arrays, meta in _good(workdir, each):
            if each != kind:
                cli.note(f"no usable best checkpoint in {workdir}: using the last one, step {meta['step']}")
            tree = traverse_util.unflatten_dict({tuple(k.split(".")): v for k, v in arrays.items()})
            variables = tree if each == "best" else _evaluated(tree)
            if "spec" not in meta:
                raise errors.InputError(
                    f"{workdir} holds a checkpoint without a model's contract: train it with train.py"
                )
            return Trained(_calibrated(ModelSpec.from_json(meta["spec"]), workdir), variables), meta
    raise errors.InputError(f"{workdir} holds no usable checkpoint: is it the --workdir of a training run?")


def calibrate(workdir: pathlib.Path | str, *, temperature: float, abstention_threshold: float) -> None:
    """Stores how the confidences of a run's best model are to be read; `read` then returns them in its spec.

    They lie in calibration.json beside the checkpoints, with the hash of the variables that they hold for: a better
    epoch of a continued run is not taken for calibrated.

    Raises:
      InputError: if the folder holds no usable checkpoint, or a value is out of range.
    """
    workdir = pathlib.Path(workdir)
    spec = read(workdir)[0].spec.replace(temperature=temperature, abstention_threshold=abstention_threshold)
    with folders.atomic_file(workdir / "calibration.json") as part:
        part.write_text(json.dumps({name: getattr(spec, name) for name in ("params_sha256", *_CALIBRATED)}, indent=1))


def _calibrated(spec: ModelSpec, workdir: pathlib.Path) -> ModelSpec:
    path = workdir / "calibration.json"
    if not path.exists():
        return spec
    try:
        stored = json.loads(path.read_text())
        fits = stored["params_sha256"] == spec.params_sha256
        return spec.replace(**{name: stored[name] for name in _CALIBRATED}) if fits else spec
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise errors.InputError(f"{path} is damaged ({error}): remove it and run ferjax calibrate") from error


def _evaluated(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables of a stored TrainState that are meant for evaluation: the average if there is one."""
    return state.get("ema") or {"params": state["params"], **state.get("collections", {})}


def fingerprint(arrays: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of named arrays: names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, array in sorted(_flatten(arrays).items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data if array.size else b"")
    return digest.hexdigest()


def check_path(workdir: pathlib.Path) -> None:
    """Checks that checkpoints can be kept in a folder.

    Raises:
      InputError: if its path holds a bracket: orbax takes it for a pattern when it merges its files, finds none, and
        what it saved cannot be read.
    """
    if "[" in str(workdir.absolute()):
        raise errors.InputError(f"checkpoints cannot be kept in {workdir.absolute()}, for its [: choose another folder")


def remove_unfinished(workdir: pathlib.Path) -> None:
    """Removes what a killed or failed save left behind."""
    for kind in KINDS:
        for path in (workdir / kind).glob("*orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)


def _good(workdir: pathlib.Path, kind: str) -> Iterator[tuple[int, dict[str, np.ndarray], dict[str, Any]]]:
    """Yields the readable checkpoints, newest first, and names those that are not."""
    for step in _steps(workdir, kind):
        path = workdir.absolute() / kind / f"{step:09d}"
        with _without_echoes() as failed:
            try:
                with _checkpointer() as checkpointer:
                    found = checkpointer.restore(
                        path, ocp.args.Composite(arrays=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore())
                    )
                arrays = {name: np.asarray(value) for name, value in found.arrays.items()}
                if fingerprint(arrays) != found.meta["fingerprint"]:
                    raise ValueError("the arrays do not match their fingerprint")
            except Exception as error:  # a truncated file surfaces as any of a dozen types
                failed.append(_reason(error))
        if failed:
            cli.note(f"the checkpoint {path} is damaged ({failed[0]}); trying the one before it")
            continue
        yield step, arrays, found.meta


def _checkpointer() -> ocp.Checkpointer:
    """Returns orbax's, for this process alone: by default it waits for all that train together to save alike."""
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
def _without_echoes() -> Iterator[list[str]]:
    """Yields a list for what failed; if something did, orbax's unfinished coroutines are collected at once, silently.

    Left alone, each prints a traceback of its own whenever it is collected, at the latest when the program ends.
    """
    failed: list[str] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        yield failed
        if failed:
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it reports futures that are collected unread
            gc.collect()
    finally:
        sys.unraisablehook = hook
        if failed and not isinstance(hook, _WithoutLate):
            sys.unraisablehook = _WithoutLate(hook)


@dataclasses.dataclass(frozen=True)
class _WithoutLate:
    """A hook that leaves out what tensorstore's threads print when they answer orbax's event loop after it was closed.

    They do so whenever they are done, up to the end of the program.
    """

    hook: Callable[[Any], None]

    def __call__(self, unraisable: Any) -> None:
        late = isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"
        if not late:
            self.hook(unraisable)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 160 else text[:157] + "…"

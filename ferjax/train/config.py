"""Configurations: which function each group is for, what a run's folder remembers.

Each group of a configuration holds the keyword arguments of one function:

    data     ferjax.data.load
    model    ferjax.models.create
    teacher  ferjax.train.teacher.load, for a run with a teacher
    init     ferjax.train.start.start
    augment  ferjax.augment.create
    loss     ferjax.train.objective.make_loss
    quant    ferjax.train.quantization.prepare
    optim    ferjax.train.optim.create
    prune    ferjax.train.optim.prune
    fit      ferjax.train.options.FitOptions
"""

import contextlib
import inspect
import json
import numbers
import pathlib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ferjax import augment, data, errors, folders, models
from ferjax.train import objective, optim, options, quantization, start, teacher
from ferjax.weights import checkpoint

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "data": data.load,
    "model": models.create,
    "teacher": teacher.load,
    "init": start.start,
    "augment": augment.create,
    "loss": objective.make_loss,
    "quant": quantization.prepare,
    "optim": optim.create,
    "prune": optim.prune,
    "fit": options.FitOptions,
}
GROUPS = tuple(FUNCTIONS)
_GIVEN = {  # what the program gives beside the configuration, and has a default
    "data": ("data_dir", "splits"),
    "model": ("num_classes", "dtype"),
    "teacher": ("taps", "dtype"),
    "loss": ("teachers", "heads"),
    "quant": ("dtype",),
}
_ELEMENTS: dict[Any, tuple[type, str]] = {Sequence[str]: (str, "strings"), Sequence[float]: (numbers.Real, "numbers")}


def defaults() -> dict[str, dict[str, Any]]:
    """Returns every group with the keys that a configuration may leave out, at the defaults of its function."""
    signatures = {group: inspect.signature(function).parameters for group, function in FUNCTIONS.items()}
    return {
        group: {n: p.default for n, p in known.items() if p.default is not p.empty and n not in _GIVEN.get(group, ())}
        for group, known in signatures.items()
    }


def call(function: Callable[..., Any], group: str, values: Mapping[str, Any], **more: Any) -> Any:
    """Calls a function with the values of a group, and more that the configuration does not say.

    Raises:
      InputError: for a key that the function does not take, one that is given beside the configuration, one that is
        lacking, or a value as `check_value` says.
    """
    if given := [k for k in values if k in more]:
        raise errors.InputError(f"config.{group}.{given[0]} is not set by hand: the data, another key or a flag say it")
    parameters = inspect.signature(function).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    accepted = [p for p in parameters if p not in more]
    if (odd := [k for k in values if k not in accepted]) and not open_ended:
        raise errors.unknown(f"key in config.{group}", odd[0], accepted)
    for name, value in values.items():
        if name in parameters:
            _check_value(parameters[name], group, value)
    needed = [n for n, p in parameters.items() if p.default is p.empty and p.kind not in (p.VAR_KEYWORD,)]
    if missing := [n for n in needed if n not in values and n not in more]:
        raise errors.InputError(f"config.{group} lacks {', '.join(missing)}")
    return function(**values, **more)


def check_value(group: str, key: str, value: Any) -> None:
    """Checks what a configuration's own types let pass: None for a value that must be one, and elements of sequences.

    Raises:
      InputError: if the group's function does not take the value.
    """
    if parameter := inspect.signature(FUNCTIONS[group]).parameters.get(key):
        _check_value(parameter, group, value)


def _check_value(parameter: inspect.Parameter, group: str, value: Any) -> None:
    taken = parameter.annotation
    kind, said = _ELEMENTS.get(taken, (object, ""))
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    if said and not (listed and all(isinstance(element, kind) for element in value)):
        raise errors.InputError(f"config.{group}.{parameter.name} must hold {said}, got {value!r}")
    if value is None and taken not in (parameter.empty, Any) and type(None) not in typing.get_args(taken):
        raise errors.InputError(f"config.{group}.{parameter.name} must be {inspect.formatannotation(taken)}, got None")


@contextlib.contextmanager
def claimed(workdir: pathlib.Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Claims a folder, see `claim`; it is free again if what follows fails for its input before anything is saved."""
    new = not (workdir / "config.json").exists()
    claim(workdir, config)
    try:
        yield
    except errors.InputError:
        if new and not any((workdir / kind).exists() for kind in checkpoint.KINDS):
            (workdir / "config.json").unlink(missing_ok=True)
        raise


def claim(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Writes the configuration into a new run's folder, or checks that the folder is this experiment's.

    A key that one of the two does not have counts as at its default, so that runs of an older ferjax go on. How data
    are read (`data.resident_bytes`, `data.workers`) may change from one start to the next: the batches are the same.

    Raises:
      InputError: if the folder holds another experiment, naming the first difference, or can hold no checkpoint.
    """
    checkpoint.check_path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    path, text = workdir / "config.json", json.dumps(config, indent=1, sort_keys=True)
    if not path.exists():
        if any((workdir / kind).exists() for kind in checkpoint.KINDS):
            raise errors.InputError(f"{workdir} holds checkpoints without a config.json: choose another --workdir")
        with folders.atomic_file(path) as part:
            part.write_text(text)
        return
    try:
        stored = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise errors.InputError(f"{path} is damaged ({error}): choose another --workdir") from error
    check_same(workdir, stored, json.loads(text))


def check_same(workdir: pathlib.Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Checks that two configurations are one experiment, as `claim` says.

    Raises:
      InputError: if they are not, naming the first difference and the folder.
    """
    old, new = flat(stored), flat(asked)
    both = sorted((old.keys() | new.keys()) - {f"data.{key}" for key in data.READ_OPTIONS})
    if differing := [k for k in both if old.get(k, _default(k)) != new.get(k, _default(k))]:
        key = differing[0]
        there, here = (str(side.get(key, _default(key) or "not set")) for side in (old, new))
        raise errors.InputError(
            f"{workdir} holds another experiment: {key} is {there} there and {here} here ({len(differing)} differ): "
            "choose another --workdir or remove that one"
        )


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the values of a configuration by "group.key"."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {k: v for key, value in tree.items() for k, v in flat(value, f"{prefix}.{key}".lstrip(".")).items()}


def run_name(config: str) -> str:
    """Returns what a run of configs/best/resnet20.py:demo is called: best-resnet20-demo."""
    path, _, arguments = config.partition(":")
    parts = pathlib.PurePath(path).with_suffix("").parts
    below = parts[parts.index("configs") + 1 :] if "configs" in parts else parts[-1:]
    return "-".join([*below, *filter(None, arguments.split(","))])


def _default(key: str) -> Any:
    """Returns the default of a configuration's key, as JSON has it; None if there is none."""
    group, _, name = key.partition(".")
    known = inspect.signature(FUNCTIONS[group]).parameters if group in FUNCTIONS else {}
    value = known[name].default if name in known else None
    return list(value) if isinstance(value, tuple) else None if value is inspect.Parameter.empty else value

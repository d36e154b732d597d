"""Maps each configuration group to the function that takes it as keyword arguments, and compares configurations."""

import contextlib
import inspect
import json
import numbers
import pathlib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ferjax import augment, data, errors, folders, models
from ferjax.augment import camera
from ferjax.train import objective, optim, options, quantization, start, teacher
from ferjax.weights import checkpoint

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "data": data.load,
    "model": models.create,
    "teacher": teacher.load,
    "init": start.start,
    "augment": augment.create,
    "camera": camera.create,
    "loss": objective.make_loss,
    "quant": quantization.prepare,
    "optim": optim.create,
    "prune": optim.prune,
    "fit": options.FitOptions,
}
GROUPS = tuple(FUNCTIONS)
_GIVEN = {  # arguments with a default that the program sets, not the configuration
    "data": ("data_dir", "splits"),
    "model": ("num_classes", "dtype"),
    "teacher": ("taps", "dtype"),
    "loss": ("teachers", "heads"),
    "quant": ("dtype",),
}
_ELEMENTS: dict[Any, tuple[type, str]] = {Sequence[str]: (str, "strings"), Sequence[float]: (numbers.Real, "numbers")}


def defaults() -> dict[str, dict[str, Any]]:
    """Returns every group with its optional keys and their defaults."""
    signatures = {group: inspect.signature(function).parameters for group, function in FUNCTIONS.items()}
    return {
        group: {n: p.default for n, p in known.items() if p.default is not p.empty and n not in _GIVEN.get(group, ())}
        for group, known in signatures.items()
    }


def call(function: Callable[..., Any], group: str, values: Mapping[str, Any], **more: Any) -> Any:
    """Calls a function with the values of a group and with further arguments that the program sets.

    Raises:
      InputError: for an unknown key, a key that the program sets, a missing key, or a value that `check_value` rejects.
    """
    if given := [k for k in values if k in more]:
        raise errors.InputError(f"config.{group}.{given[0]} cannot be set: it follows from the data, a key or a flag")
    parameters = inspect.signature(function).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    accepted = [p for p in parameters if p not in more]
    if (odd := [k for k in values if k not in accepted]) and not open_ended:
        raise errors.unknown(f"key in config.{group}", odd[0], accepted)
    for name, value in values.items():
        if name in parameters:
            _check_value(parameters[name], group, value)
    needed = [n for n, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if missing := [n for n in needed if n not in values and n not in more]:
        raise errors.InputError(f"config.{group}.{missing[0]} is missing")
    return function(**values, **more)


def check_value(group: str, key: str, value: Any) -> None:
    """Checks what ml_collections does not: None where a value is required, and the elements of sequences.

    Raises InputError if the group's function does not accept the value.
    """
    if parameter := inspect.signature(FUNCTIONS[group]).parameters.get(key):
        _check_value(parameter, group, value)


def _check_value(parameter: inspect.Parameter, group: str, value: Any) -> None:
    annotation = parameter.annotation
    kind, elements = _ELEMENTS.get(annotation, (object, ""))
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    if elements and not (listed and all(isinstance(element, kind) for element in value)):
        raise errors.InputError(f"config.{group}.{parameter.name} must be a sequence of {elements}, got {value!r}")
    if value is None and annotation not in (parameter.empty, Any) and type(None) not in typing.get_args(annotation):
        accepted = inspect.formatannotation(annotation)
        raise errors.InputError(f"config.{group}.{parameter.name} must be {accepted}, got None")


@contextlib.contextmanager
def claimed(workdir: pathlib.Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Claims a workdir (see `claim`), and releases it if an InputError follows before the first checkpoint."""
    new = not (workdir / "config.json").exists()
    claim(workdir, config)
    try:
        yield
    except errors.InputError:
        if new and not any((workdir / kind).exists() for kind in checkpoint.KINDS):
            (workdir / "config.json").unlink(missing_ok=True)
        raise


def claim(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Writes the configuration into a new workdir, or checks that an existing workdir has the same configuration.

    A missing key counts as its default, so that runs of older versions resume. The keys that control how data is read
    (`data.resident_bytes`, `data.workers`) may differ: the batches are the same.

    Raises:
      InputError: if the workdir holds another experiment, or cannot hold a checkpoint.
    """
    checkpoint.check_path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    path, text = workdir / "config.json", json.dumps(config, indent=1, sort_keys=True)
    if not path.exists():
        if any((workdir / kind).exists() for kind in checkpoint.KINDS):
            raise errors.InputError(f"{workdir} holds checkpoints but no config.json: choose another --workdir")
        with folders.atomic_file(path) as part:
            part.write_text(text, encoding="utf-8")
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise errors.InputError(f"{path} is damaged ({error}): choose another --workdir") from error
    check_same(workdir, stored, json.loads(text))


def check_same(workdir: pathlib.Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raises InputError with the first difference if two configurations are not the same experiment, see `claim`."""
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
    """Returns the name of a configuration's run: best-resnet20-demo for configs/best/resnet20.py:demo."""
    path, _, arguments = config.partition(":")
    parts = pathlib.PurePath(path).with_suffix("").parts
    below = parts[parts.index("configs") + 1 :] if "configs" in parts else parts[-1:]
    return "-".join([*below, *filter(None, arguments.split(","))])


def _default(key: str) -> Any:
    """Returns the default of "group.key" as a JSON value; None if there is none."""
    group, _, name = key.partition(".")
    known = inspect.signature(FUNCTIONS[group]).parameters if group in FUNCTIONS else {}
    value = known[name].default if name in known else None
    return list(value) if isinstance(value, tuple) else None if value is inspect.Parameter.empty else value

"""The runs of a sweep: configurations, each with every combination of the values to try."""

import ast
import dataclasses
import fnmatch
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ferjax import errors
from ferjax.train import config as train_config
from ferjax.train import config_files, objective

Changes = Mapping[str, Any]
_IN_FOLDERS = str.maketrans("/[]", "_()")  # a checkpoint's path may hold no bracket, see `checkpoint.check_path`


@dataclasses.dataclass(frozen=True)
class Job:
    """One row of the table: a configuration with changes, to be run with several seeds.

    Attributes:
      name: the configuration, such as "configs/paraschiv.py:exp09".
      changes: values by "group.key", as the grid chose them.
      config: resolved, changes applied.
      paper: the paper's figure in percent, if the configuration gives one.
    """

    name: str
    changes: Changes
    config: dict[str, Any]
    paper: float | None

    @property
    def taught(self) -> bool:
        """Whether it learns from a teacher: where loss.alpha is set, and not to 0 if 0 leaves the teacher out."""
        alpha = self.config["loss"].get("alpha")
        return alpha is not None and objective.listens(self.config["loss"].get("method", "soft"), alpha)

    def folder(self, root: pathlib.Path, seed: int) -> pathlib.Path:
        """Returns where a seed's run lives."""
        parts = [train_config.run_name(self.name), *(f"{k.split('.')[-1]}={v}" for k, v in self.changes.items())]
        return root / "-".join(parts).translate(_IN_FOLDERS) / f"seed{seed}"


def plan(
    configs: Sequence[str], *, grid: Mapping[str, Sequence[Any]] | None = None, fixed: Changes | None = None
) -> list[Job]:
    """Returns the rows: every configuration with every combination of the grid.

    Args:
      configs: "NAME[:arguments]" or "FILE.py[:arguments]"; a star in an argument stands for the names in the
        file's PAPER.
      grid: values to try by "group.key".
      fixed: one value by "group.key", for all.

    Raises:
      InputError: for a file, argument or key that is not there.
    """
    jobs = []
    for text in configs:
        for name, module, arguments in _expand(text):
            figures = getattr(module, "PAPER", {})
            plain = ",".join(a for a in arguments.split(",") if a != "demo")
            papers_data = module.get_config(plain or None)["data"]["name"]
            paper = next((figures[a] for a in arguments.split(",") if a in figures), None)
            for values in itertools.product(*(grid or {}).values()):
                changes = dict(zip(grid or {}, values, strict=True))
                config = module.get_config(arguments or None)
                for key, value in {**(fixed or {}), **changes}.items():
                    _set(config, key, value, name)
                comparable = config["data"]["name"] == papers_data
                jobs.append(Job(name, changes, config.to_dict(), paper if comparable else None))
    return jobs


def _expand(text: str) -> Iterator[tuple[str, Any, str]]:
    """Yields (name, module, arguments) for a configuration, once for every experiment that a star stands for."""
    file = config_files.find(text)
    module = config_files.load(file)
    names = getattr(module, "PAPER", {})
    choices = [
        [n for n in names if n and fnmatch.fnmatch(n, a)] if "*" in a else [a] for a in file.arguments.split(",")
    ]
    if not all(choices):
        raise errors.InputError(f"{text}: no experiment of that name; there are {', '.join(names) or 'none'}")
    for chosen in itertools.product(*choices):
        arguments = ",".join(chosen)
        yield file.name.partition(":")[0] + (f":{arguments}" if arguments else ""), module, arguments


def _set(config: Any, key: str, value: Any, name: str) -> None:
    group, _, rest = key.partition(".")
    if group not in config:
        raise errors.unknown("config group", group, config)
    if rest not in config[group] and group not in ("data", "model"):
        raise errors.unknown(f"key in config.{group} of {name}", rest, config[group])
    try:
        config[group][rest] = value
    except (TypeError, ValueError, KeyError) as error:  # another type than the configuration's, or no key
        was = config[group].get(rest)
        wanted = f"it is {was!r} there" if was is not None else str(error)
        raise errors.InputError(f"{key} of {name} cannot be {value!r}: {wanted}") from error
    if group in train_config.FUNCTIONS:
        train_config.check_value(group, rest, value)


def read_grid(given: Sequence[str]) -> dict[str, list[Any]]:
    """Returns the values to try by "group.key" of arguments such as loss.alpha=0,0.5.

    Raises:
      InputError: if one is none.
    """
    return {key: [_value(text) for text in _split(values)] for key, values in map(_assignment, given)}


def read_fixed(given: Sequence[str]) -> dict[str, Any]:
    """Returns the one value by "group.key" of arguments such as loss.alpha=0.5.

    Raises:
      InputError: if one is none.
    """
    return {key: _value(text) for key, text in map(_assignment, given)}


def _assignment(text: str) -> tuple[str, str]:
    key, equals, values = text.partition("=")
    if not (equals and "." in key and values):
        raise errors.InputError(f"expected GROUP.KEY=VALUE, such as loss.alpha=0.5, got {text!r}")
    return key, values


def _split(values: str) -> list[str]:
    """Divides at the commas that are in no brackets and no quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in values:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and (depth or not parts[-1].strip()):
            quote = letter
        else:
            depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text

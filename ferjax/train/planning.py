"""Plans the runs of a sweep: configurations times the combinations of a grid."""

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
    """One row of the table: a configuration with changes, run with several seeds.

    Attributes:
      name: the configuration, such as "configs/paraschiv.py:exp09".
      changes: values from the grid, by "group.key".
      config: the resolved configuration with the changes.
      paper: the paper's accuracy in percent, if known.
    """

    name: str
    changes: Changes
    config: dict[str, Any]
    paper: float | None

    @property
    def taught(self) -> bool:
        """Whether the job uses a teacher: loss.alpha is set, and the loss then uses the teacher's logits."""
        alpha = self.config["loss"].get("alpha")
        return alpha is not None and objective.uses_teacher(self.config["loss"].get("method", "soft"), alpha)

    def folder(self, root: pathlib.Path, seed: int) -> pathlib.Path:
        """Returns the workdir of a seed's run."""
        parts = [train_config.run_name(self.name), *(f"{k.split('.')[-1]}={v}" for k, v in self.changes.items())]
        return root / "-".join(parts).translate(_IN_FOLDERS) / f"seed{seed}"


def plan(
    configs: Sequence[str], *, grid: Mapping[str, Sequence[Any]] | None = None, fixed: Changes | None = None
) -> list[Job]:
    """Returns one job for every configuration and every combination of the grid.

    Args:
      configs: "NAME[:arguments]" or "FILE.py[:arguments]"; a star in an argument matches the keys of the file's PAPER.
      grid: values to try, by "group.key".
      fixed: one value for all jobs, by "group.key".

    Raises:
      InputError: for an unknown file, argument or key, or a value of another type.
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
    """Yields (name, module, arguments) for each experiment that a configuration's stars match."""
    file = config_files.find(text)
    module = config_files.load(file)
    names = getattr(module, "PAPER", {})
    choices = [
        [n for n in names if n and fnmatch.fnmatch(n, a)] if "*" in a else [a] for a in file.arguments.split(",")
    ]
    if not all(choices):
        raise errors.InputError(f"no experiment matches {text!r}. Accepted: {', '.join(names) or 'none'}.")
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
        reason = f"its type is that of {was!r}" if was is not None else str(error)
        raise errors.InputError(f"{key} of {name} cannot be {value!r}: {reason}") from error
    if group in train_config.FUNCTIONS:
        train_config.check_value(group, rest, value)


def read_grid(given: Sequence[str]) -> dict[str, list[Any]]:
    """Returns lists of values by "group.key" from arguments such as loss.alpha=0,0.5."""
    return {key: [_value(text) for text in _split(values)] for key, values in map(_assignment, given)}


def read_fixed(given: Sequence[str]) -> dict[str, Any]:
    """Returns values by "group.key" from arguments such as loss.alpha=0.5."""
    return {key: _value(text) for key, text in map(_assignment, given)}


def _assignment(text: str) -> tuple[str, str]:
    key, equals, values = text.partition("=")
    if not (equals and "." in key and values):
        raise errors.InputError(f"expected GROUP.KEY=VALUE, such as loss.alpha=0.5, got {text!r}")
    return key, values


def _split(values: str) -> list[str]:
    """Splits at the commas outside brackets and quotes."""
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

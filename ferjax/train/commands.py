"""Implements the commands `ferjax train` and `ferjax distill`."""

import contextlib
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from ferjax import errors, memory
from ferjax.train import config as train_config
from ferjax.train import config_files, distributed, experiment, teacher

TRACED = 5  # dispatches, with --profile
_TRAIN = """Trains an expression classifier and keeps its best checkpoint.

    ferjax train --config resnet18
    ferjax train --config resnet20:demo --workdir runs/try --config.fit.epochs=3
    ferjax train --list

The same command resumes a stopped run. All visible devices are used; docs/scale.md explains training on several
machines. Every configuration value is a flag: --config.GROUP.KEY=VALUE."""
_DISTILL = """Distills trained models into an expression classifier and keeps its best checkpoint.

    ferjax distill --config resnet20:demo --teacher runs/resnet18
    ferjax distill --config mini_xception --teacher runs/a --teacher runs/b    ensemble of two teachers

The same command resumes a stopped run. Every configuration value is a flag: --config.GROUP.KEY=VALUE."""


def train(argv: Sequence[str]) -> None:
    """Runs `ferjax train`."""
    given = _parse(argv, _TRAIN, _flags(argv))
    config, name, workdir = _resolve(given)
    with _joined(given):
        experiment.train(config, workdir=workdir, name=name, **_options(given))


def distill(argv: Sequence[str]) -> None:
    """Runs `ferjax distill`."""
    values = _flags(argv)
    flags.DEFINE_multi_string(
        "teacher",
        None,
        "Teacher: a workdir or a .safetensors file; repeat the flag, or write A,B, for an ensemble.",
        flag_values=values,
    )
    given = _parse(argv, _DISTILL, values)
    config, name, workdir = _resolve(given, suffix="-distilled")
    with _joined(given):
        experiment.distill(
            config, workdir=workdir, teachers=teacher.paths(given.teacher or ()), name=name, **_options(given)
        )


def _flags(argv: Sequence[str]) -> flags.FlagValues:
    """Defines the flags of both commands."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        None,
        "NAME or FILE.py[:ARGUMENTS], such as resnet18 or configs/resnet20.py:demo; --list prints the names.",
        lock_config=False,
        accept_new_attributes=True,  # for the unlocked groups: data sets and networks have options of their own
        flag_values=values,
        sys_argv=["ferjax", *_underscored(argv)],
    )
    more: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_bool("list", False, "List the shipped configurations.", **more)
    flags.DEFINE_string("workdir", None, "Workdir of the run (default: runs/NAME).", **more)
    flags.DEFINE_string("data_dir", None, "Folder of prepared data (default: $FERJAX_DATA or the cache).", **more)
    flags.DEFINE_bool("tensorboard", False, "Also write TensorBoard events to WORKDIR/events.", **more)
    flags.DEFINE_integer("devices", 0, "Number of devices that share each batch; 0 uses all visible ones.", **more)
    flags.DEFINE_bool("profile", False, "Trace a few steps into WORKDIR/profile.", **more)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0; not needed under Slurm and on TPU pods.", **more)
    flags.DEFINE_integer("num_processes", None, "Number of processes; 1 alone ignores Slurm.", **more)
    flags.DEFINE_integer("process_id", None, "Index of this process, from 0.", **more)
    flags.DEFINE_float("join_seconds", 300.0, "Seconds to wait for the other processes at the start.", **more)
    return values


def _parse(argv: Sequence[str], help_text: str, values: flags.FlagValues) -> flags.FlagValues:
    """Parses the flags, or raises InputError; --some-name and --some_name are equivalent."""
    given = _underscored(argv)
    if any(a in ("--help", "-h", "--helpfull") for a in given):
        print(f"{help_text}\n\n{values.get_help()}")
        sys.exit(0)
    if "--list" in given:
        print(config_files.describe())
        sys.exit(0)
    memory.keep_freed()
    config_files.make_importable()
    try:
        rest = values(["ferjax", *_with_path(given)])
    except KeyError as error:
        raise _unknown(str(error.args[0])) from error
    except (flags.Error, AttributeError) as error:
        raise _plain(error) from error
    if rest[1:]:
        raise errors.InputError(f"unexpected argument {rest[1]!r}; options have the form --name=value, see --help")
    return values


def _with_path(argv: Sequence[str]) -> list[str]:
    """Replaces the configuration's name in the arguments by the path of its file."""
    out = list(argv)
    for i, argument in enumerate(out):
        flag, equals, value = argument.partition("=")
        if flag == "--config" and (equals or i + 1 < len(out)):
            found = config_files.find(value if equals else out[i + 1])
            text = f"{found.path}:{found.arguments}" if found.arguments else str(found.path)
            out[i : i + (1 if equals else 2)] = [f"--config={text}"]
            break
    return out


def _resolve(given: flags.FlagValues, suffix: str = "") -> tuple[dict[str, Any], str, pathlib.Path]:
    """Returns the configuration, its name and the workdir."""
    if not isinstance(given.config, ConfigDict):
        raise errors.InputError(
            "--config is missing: give --config NAME or --config FILE.py; `ferjax train --list` prints the names"
        )
    name = config_files.recorded_name(config_flags.get_config_filename(given["config"]))
    workdir = given.workdir or f"runs/{train_config.run_name(name)}{suffix}"
    return given.config.to_dict(), name, pathlib.Path(workdir)


def _joined(given: flags.FlagValues) -> contextlib.AbstractContextManager[None]:
    return distributed.joined(given.coordinator, given.num_processes, given.process_id, seconds=given.join_seconds)


def _options(given: flags.FlagValues) -> Mapping[str, Any]:
    """Returns the options of `ferjax.train.experiment.train` that the flags set."""
    return {
        "data_dir": given.data_dir,
        "tensorboard": given.tensorboard,
        "device_count": given.devices,
        "profile": TRACED if given.profile else 0,
    }


def _unknown(message: str) -> errors.InputError:
    """Returns the error for an unknown --config.GROUP.KEY; ml_collections' message holds the group, or key and keys."""
    if key := re.match(r'Key "(.+?)" does not exist', message):
        return errors.unknown("config key", key[1], re.findall(r"'(\w+)': ", message))
    if not re.fullmatch(r"'?\w+'?", message):
        return errors.InputError(f"--config.GROUP.KEY: {message}")
    return errors.unknown("config group", message.strip("'"), train_config.GROUPS)


def _plain(error: BaseException) -> errors.InputError:
    """Returns the InputError that a configuration raised; ml_collections wraps it in the text of a traceback."""
    link: BaseException | None = error
    innermost = errors.InputError(str(error).strip().replace("Traceback (most recent call last):", ""))
    while link is not None:
        innermost = link if isinstance(link, errors.InputError) else innermost
        link = link.__context__
    return innermost


def _underscored(argv: Sequence[str]) -> list[str]:
    """Writes the flag names with underscores, as absl expects them."""
    out = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        plain = f"--{name[2:].replace('-', '_')}{equals}{value}"
        out.append(plain if argument.startswith("--") else argument)
    return out

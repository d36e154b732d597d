"""The commands `ferjax train` and `ferjax distill`: their flags, and one call."""

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
_TRAIN = """Trains an emotion network and keeps its best checkpoint.

    ferjax train --config resnet18
    ferjax train --config resnet20:demo --workdir runs/try --config.fit.epochs=3
    ferjax train --list

The same command continues a run that was stopped. It uses every device that it sees; docs/scale.md says how several
machines train together. Any value of the configuration is a flag: --config.GROUP.KEY=VALUE."""
_DISTILL = """Trains an emotion network with trained ones as its teacher and keeps its best checkpoint.

    ferjax distill --config resnet20:demo --teacher runs/resnet18
    ferjax distill --config mini_xception --teacher runs/a --teacher runs/b    the mean of two

The same command continues a run that was stopped. Any value of the configuration is a flag:
--config.GROUP.KEY=VALUE."""


def train(argv: Sequence[str]) -> None:
    """Runs `ferjax train`."""
    given = _parse(argv, _TRAIN, _flags(argv))
    config, name, workdir = _resolve(given)
    with _together(given):
        experiment.train(config, workdir=workdir, name=name, **_options(given))


def distill(argv: Sequence[str]) -> None:
    """Runs `ferjax distill`."""
    values = _flags(argv)
    flags.DEFINE_multi_string(
        "teacher",
        None,
        "The --workdir of a trained run, or its .safetensors; repeated or a,b for an ensemble.",
        flag_values=values,
    )
    given = _parse(argv, _DISTILL, values)
    config, name, workdir = _resolve(given, suffix="-distilled")
    with _together(given):
        experiment.distill(
            config, workdir=workdir, teachers=teacher.paths(given.teacher or ()), name=name, **_options(given)
        )


def _flags(argv: Sequence[str]) -> flags.FlagValues:
    """Returns the flags that both commands take."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        None,
        "NAME or FILE.py[:arguments], such as resnet18 or configs/resnet20.py:demo; --list shows the names.",
        lock_config=False,
        accept_new_attributes=True,  # where the configuration is not locked: data sets and networks have own options
        flag_values=values,
        sys_argv=["ferjax", *_underscored(argv)],
    )
    more: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_bool("list", False, "List the shipped configurations.", **more)
    flags.DEFINE_string("workdir", None, "The run's folder; runs/NAME if not given.", **more)
    flags.DEFINE_string("data_dir", None, "Where prepared data lies; $FERJAX_DATA or the cache if not given.", **more)
    flags.DEFINE_bool("tensorboard", False, "Also write TensorBoard events to WORKDIR/events.", **more)
    flags.DEFINE_integer("devices", 0, "How many devices share each batch; 0 for all that are visible.", **more)
    flags.DEFINE_bool("profile", False, "Trace a few steps into WORKDIR/profile.", **more)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0; not needed under Slurm and on TPU pods.", **more)
    flags.DEFINE_integer("num_processes", None, "Number of processes; 1 alone ignores Slurm.", **more)
    flags.DEFINE_integer("process_id", None, "Index of this process, from 0.", **more)
    flags.DEFINE_float("join_seconds", 300.0, "How long a process waits for the others at the start.", **more)
    return values


def _parse(argv: Sequence[str], help_text: str, values: flags.FlagValues) -> flags.FlagValues:
    """Parses the flags; --some-name and --some_name are the same.

    Raises:
      InputError: for an unknown flag or configuration key, or a value of the wrong type.
    """
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
        raise errors.InputError(f"unexpected argument {rest[1]!r}: options are written --name=value, see --help")
    return values


def _with_path(argv: Sequence[str]) -> list[str]:
    """Returns the arguments with the file in the place of a configuration's name."""
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
    """Returns the configuration that the flags chose, its name, and the run's folder.

    Raises:
      InputError: if there is no configuration.
    """
    if not isinstance(given.config, ConfigDict):
        raise errors.InputError(
            "--config NAME or FILE.py is missing, such as --config resnet18; `ferjax train --list` lists the names"
        )
    name = config_files.recorded_name(config_flags.get_config_filename(given["config"]))
    workdir = given.workdir or f"runs/{train_config.run_name(name)}{suffix}"
    return given.config.to_dict(), name, pathlib.Path(workdir)


def _together(given: flags.FlagValues) -> contextlib.AbstractContextManager[None]:
    """Returns the context in which this process trains with those that the flags or the environment name."""
    place = given.coordinator, given.num_processes, given.process_id
    return distributed.joined(*place, seconds=given.join_seconds)


def _options(given: flags.FlagValues) -> Mapping[str, Any]:
    """Returns what the flags say beside the configuration, see `ferjax.train.experiment.train`."""
    return {
        "data_dir": given.data_dir,
        "tensorboard": given.tensorboard,
        "device_count": given.devices,
        "profile": TRACED if given.profile else 0,
    }


def _unknown(said: str) -> errors.InputError:
    """Returns what is wrong with --config.GROUP.KEY: ml_collections names the group, or the key and those it has."""
    if key := re.match(r'Key "(.+?)" does not exist', said):
        return errors.unknown("config key", key[1], re.findall(r"'(\w+)': ", said))
    if not re.fullmatch(r"'?\w+'?", said):
        return errors.InputError(f"--config.GROUP.KEY: {said}")
    return errors.unknown("config group", said.strip("'"), train_config.GROUPS)


def _plain(error: BaseException) -> errors.InputError:
    """Returns what a configuration said was wrong: ml_collections wraps it in the text of a traceback."""
    link: BaseException | None = error
    innermost = errors.InputError(str(error).strip().replace("Traceback (most recent call last):", ""))
    while link is not None:
        innermost = link if isinstance(link, errors.InputError) else innermost
        link = link.__context__
    return innermost


def _underscored(argv: Sequence[str]) -> list[str]:
    """Returns the arguments with underscores in the names of flags, as absl has them."""
    out = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        plain = f"--{name[2:].replace('-', '_')}{equals}{value}"
        out.append(plain if argument.startswith("--") else argument)
    return out

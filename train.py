"""Trains an emotion network and keeps its best checkpoint.

    python train.py --config configs/resnet18.py
    python train.py --config configs/resnet20.py:demo --workdir runs/try --config.fit.epochs=3

It uses every device that it sees; docs/scale.md says how several machines train together.
The same command continues a run that was stopped.
"""

import contextlib
import pathlib
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from ferjax import cli, errors, memory
from ferjax.train import config as train_config
from ferjax.train import experiment, processes

TRACED = 5  # dispatches, with --profile

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The configuration, such as configs/resnet18.py[:demo].",
    lock_config=False,
    accept_new_attributes=True,  # where the configuration is not locked: data sets and networks have their own options
)
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; runs/NAME for configs/NAME.py if not given.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where prepared data lies; $FERJAX_DATA or the cache if not given.")
TENSORBOARD = flags.DEFINE_bool("tensorboard", False, "Also write TensorBoard events to WORKDIR/events.")
DEVICES = flags.DEFINE_integer("devices", 0, "How many devices share each batch; 0 for all that are visible.")
PROFILE = flags.DEFINE_bool("profile", False, "Trace a few steps, into WORKDIR/profile.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, for several processes; not needed under Slurm and on TPU pods."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes train together.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "The number of this one, from 0.")
JOIN_SECONDS = flags.DEFINE_float("join_seconds", 300.0, "How long the processes wait for each other at the start.")


def main() -> None:
    """Reads the flags and trains."""
    memory.keep_freed()
    train_config.parse_flags(__doc__)
    config, name, workdir = resolve()
    with together():
        experiment.train(config, workdir=workdir, name=name, **options())


def together() -> contextlib.AbstractContextManager[None]:
    """Returns the context in which this process trains with those that the flags or the environment name."""
    seconds = JOIN_SECONDS.value
    place = processes.find_place(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, seconds=seconds)
    return processes.joined(place, seconds=seconds)


def options() -> dict[str, Any]:
    """Returns what the flags say beside the configuration, see `ferjax.train.experiment.train`."""
    return {
        "data_dir": DATA_DIR.value,
        "tensorboard": TENSORBOARD.value,
        "device_count": DEVICES.value,
        "profile": TRACED if PROFILE.value else 0,
    }


def resolve(suffix: str = "") -> tuple[dict[str, Any], str, pathlib.Path]:
    """Returns the configuration that the flags chose, its name, and the run's folder.

    Args:
      suffix: of the folder's name, where --workdir is not given.

    Raises:
      InputError: if there is no configuration.
    """
    if CONFIG.value is None:
        raise errors.InputError("--config FILE is missing; see configs/, such as configs/resnet18.py")
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    if not isinstance(CONFIG.value, ConfigDict):
        raise errors.InputError(
            f"--config {name}: no such configuration file; see configs/, such as configs/resnet18.py"
        )
    return CONFIG.value.to_dict(), name, pathlib.Path(WORKDIR.value or f"runs/{train_config.run_name(name)}{suffix}")


if __name__ == "__main__":
    cli.run(main, interrupted=cli.RESUMES)

"""Trains an emotion network and keeps its best checkpoint.

    python train.py --config configs/resnet18.py
    python train.py --config configs/resnet20.py:demo --workdir runs/try --config.fit.epochs=3

The same command continues a run that was stopped.
"""

import pathlib
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from ferjax import cli, configuration, experiment, memory

CONFIG = config_flags.DEFINE_config_file("config", None, "The configuration, such as configs/resnet18.py[:demo].")
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; runs/NAME for configs/NAME.py if not given.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where prepared data lies; $FERJAX_DATA or the cache if not given.")
TENSORBOARD = flags.DEFINE_bool("tensorboard", False, "Also write TensorBoard events to WORKDIR/events.")


def main() -> None:
    """Reads the flags and trains."""
    memory.keep_freed()
    configuration.parse_flags(__doc__)
    config, name, workdir = resolve()
    experiment.train(config, workdir=workdir, data_dir=DATA_DIR.value, name=name, tensorboard=TENSORBOARD.value)


def resolve(suffix: str = "") -> tuple[dict[str, Any], str, pathlib.Path]:
    """Returns the configuration that the flags chose, its name, and the run's folder.

    Args:
      suffix: of the folder's name, where --workdir is not given.

    Raises:
      InputError: if there is no configuration.
    """
    if CONFIG.value is None:
        raise cli.InputError("--config FILE is missing; see configs/, such as configs/resnet18.py")
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    if not isinstance(CONFIG.value, ConfigDict):
        raise cli.InputError(f"--config {name}: no such configuration file; see configs/, such as configs/resnet18.py")
    return CONFIG.value.to_dict(), name, pathlib.Path(WORKDIR.value or f"runs/{configuration.run_name(name)}{suffix}")


if __name__ == "__main__":
    cli.run(main)

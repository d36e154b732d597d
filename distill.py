"""Trains an emotion network with trained ones as its teacher and keeps its best checkpoint.

    python distill.py --config configs/resnet20.py:demo --teacher runs/resnet18
    python distill.py --config configs/mini_xception.py --teacher runs/a --teacher runs/b    the mean of two
    python distill.py --config configs/mini_xception.py --teacher ferjax/runtime/models/resnet20.safetensors

The same command continues a run that was stopped.
"""

from absl import flags

import train
from ferjax import cli, memory
from ferjax.train import config as train_config
from ferjax.train import experiment, teacher

TEACHER = flags.DEFINE_multi_string(
    "teacher", None, "The --workdir of a trained run, or its .safetensors; repeated or a,b for an ensemble."
)
flags.adopt_module_key_flags(train)


def main() -> None:
    """Reads the flags and trains with the teacher."""
    memory.keep_freed()
    train_config.parse_flags(__doc__)
    config, name, workdir = train.resolve(suffix="-distilled")
    teachers = teacher.paths(TEACHER.value or ())
    with train.together():
        experiment.distill(config, workdir=workdir, teachers=teachers, name=name, **train.options())


if __name__ == "__main__":
    cli.run(main, interrupted=cli.RESUMES)

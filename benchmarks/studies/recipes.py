"""The rows of the compression study, and how each of them is trained."""

import pathlib
from typing import Any, NamedTuple

from configs.compress import finetune, prune, qat
from ferjax import compress, errors, weights
from ferjax.train import experiment
from ferjax.weights import single_file


class Row(NamedTuple):
    """One way to a smaller network.

    Attributes:
      name: in the table.
      quantization: of the exported file.
      sparsity: percent of the weights that are pruned while training on; 0, 50, 80 or 90.
      macs: share of the multiplications that removing channels leaves, before training on.
      bits: of the weights while training on; 0 for floats.
      taught: whether it is trained on with a teacher.
      trained_as: the row whose trained network this is, if not its own.
    """

    name: str
    quantization: str = "none"
    sparsity: int = 0
    macs: float = 1.0
    bits: int = 0
    taught: bool = False
    trained_as: str = ""

    @property
    def folder(self) -> str:
        """Where its runs lie."""
        return "".join(c if c.isalnum() else "-" for c in self.trained_as or self.name)


ROWS = (
    Row("dense"),
    Row("50 % of weights pruned", sparsity=50),
    Row("80 % of weights pruned", sparsity=80),
    Row("90 % of weights pruned", sparsity=90),
    Row("30 % of MACs removed", macs=0.7),
    Row("50 % of MACs removed", macs=0.5),
    Row("int8 (PTQ)", "int8", trained_as="dense"),
    Row("int8 (QAT)", "qat", bits=8),
    Row("int4 weights (QAT)", "int4", bits=4),
    Row("50 % of MACs removed, int8 (QAT)", "qat", macs=0.5, bits=8),
    Row("50 % of MACs removed, int8 (QAT), teacher", "qat", macs=0.5, bits=8, taught=True),
)


class Study(NamedTuple):
    """What all rows share.

    Attributes:
      model: the run, or the .safetensors file, to start from.
      teacher: of the rows with one.
      distil: whether all rows have one.
      runs: folder of the rows' runs.
      epochs: of each row's training.
      batch_size: of it.
      data_dir: where prepared data lie.
      passes: timed inferences.
    """

    model: pathlib.Path
    teacher: pathlib.Path
    distil: bool
    runs: pathlib.Path
    epochs: int
    batch_size: int
    data_dir: str | None
    passes: int

    @property
    def training(self) -> str:
        """What each row gets, in words."""
        return f"{self.epochs} {'epoch' if self.epochs == 1 else 'epochs'}{', teacher' if self.distil else ''}"


def train(row: Row, seed: int, workdir: pathlib.Path, study: Study) -> None:
    """Trains a row's network on from the run, slimmed first where the row says so; a finished one is left as it is.

    What is slimmed and trained in integers gets the first half of its epochs in floats: integers come with folded
    normalizations, without which a network that lost channels hardly recovers.
    """
    row = next(other for other in ROWS if other.name == (row.trained_as or row.name))
    start = study.model
    if row.macs < 1:
        start = study.runs / f"slim-{row.macs:g}"
        if not (start / "compress.json").exists():
            compress.compress(study.model, start, compress.Steps(macs=row.macs), data_dir=study.data_dir)
    if row.macs < 1 and row.bits:
        if study.epochs < 2:
            raise errors.InputError("it needs 2 epochs: one in floats, one in integers")
        floats, integers = workdir.with_name("floats"), study.epochs // 2
        _train(row._replace(bits=0), seed, start, floats, study._replace(epochs=study.epochs - integers))
        start, study = floats, study._replace(epochs=integers)
    _train(row, seed, start, workdir, study)


def _train(row: Row, seed: int, start: pathlib.Path, workdir: pathlib.Path, study: Study) -> None:
    config = recipe(row, seed, start, study)
    options: dict[str, Any] = {
        "workdir": workdir,
        "data_dir": study.data_dir,
        "name": f"benchmarks/studies/compression.py, {row.name}",
    }
    if row.taught or study.distil:
        experiment.distill(config, teachers=[study.teacher], **options)
    else:
        experiment.train(config, **options)


def recipe(row: Row, seed: int, start: pathlib.Path, study: Study) -> dict[str, Any]:
    """Returns the configuration that trains a row: one of configs/compress, its epochs scaled to the study's."""
    if row.bits:
        config = qat.get_config("int4" if row.bits == 4 else None)
    elif row.sparsity:
        config = prune.get_config(f"s{row.sparsity}")
    else:
        config = finetune.get_config()
    spec = weights.load(study.model).spec
    made = config.to_dict()
    made["data"] = {"name": spec.dataset, **spec.dataset_args}
    made["init"]["pretrained" if start.suffix == single_file.SUFFIX else "workdir"] = str(start)
    share = study.epochs / made["fit"]["epochs"]
    for group, key in (("optim", "warmup_epochs"), ("prune", "ramp_epochs"), ("quant", "freeze_epochs")):
        made[group][key] *= share
    made["fit"].update(epochs=study.epochs, batch_size=study.batch_size, seed=seed)
    if row.taught or study.distil:
        made["loss"].update(label_smoothing=0.0, alpha=0.7, temperature=4.0)
    return made

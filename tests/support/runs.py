"""Training runs as they lie on disk, without training."""

from ferjax import models
from ferjax.train import experiment
from ferjax.weights import checkpoint

DATA = {"size": 24, "train": 70, "validation": 70, "test": 7}
MODEL = {"name": "baseline_cnn5", "widths": [8, 8]}
CONFIG = {"fit": {"seed": 5, "epochs": 3}}
SCORED = {"fit": {"seed": 4, "epochs": 3, "batch_size": 6}, "loss": {"alpha": 0.0}, "init": {}}


def write(folder, faces, *, config=CONFIG, history=({"step": 1},) * 3, **change):
    """Writes an untrained run with confident answers; `change` goes into its spec."""
    module = models.create(MODEL["name"], widths=MODEL["widths"])
    variables = experiment.init_variables(module, faces.image_shape, seed=0)
    variables["params"]["head"]["out"]["kernel"] = 20 * variables["params"]["head"]["out"]["kernel"]
    spec = experiment.make_spec(faces, MODEL, variables, name="test", dataset_args={"name": faces.name, **DATA})
    spec = spec.replace(params_sha256=checkpoint.fingerprint(variables), **change)
    meta = {"spec": spec.to_json(), "config": config, "history": list(history)}
    for kind in checkpoint.KINDS:
        checkpoint.save(folder, kind, 20, variables, meta, keep=1)
    return spec, variables


def write_scored(folder, faces, *, accuracy=0.5, epochs=3, **groups):
    """Writes a run whose epochs were timed and scored; `groups` go into its configuration."""
    history = [{"step": 10 * (n + 1), "validation_macro_f1": accuracy - 0.1} for n in range(epochs)]
    config = {**SCORED, **groups}
    spec, _ = write(folder, faces, config=config, history=history, accuracy={"validation": accuracy})
    (folder / "timing.jsonl").write_text(
        '{"epoch": 1, "images_per_second": 1.0}\n{"epoch": 2, "images_per_second": 2.0}\n'
    )
    return spec

"""Networks that were never trained, with sure answers, left as a run leaves them."""

from ferjax import models
from ferjax.train import experiment
from ferjax.weights import checkpoint

DATA = {"size": 24, "train": 70, "validation": 70, "test": 7}
MODEL = {"name": "baseline_cnn5", "widths": [8, 8]}
CONFIG = {"fit": {"seed": 5, "epochs": 3}}
TIMED_CONFIG = {"fit": {"seed": 4, "epochs": 3, "batch_size": 6}, "loss": {"alpha": 0.0}, "init": {}}


def write_run(
    folder, faces, *, model=MODEL, dataset_args=DATA, gain=20, config=CONFIG, history=({"step": 1},) * 3, **change
):
    """Leaves a run on embedded faces, and returns its contract, with these changes, and its variables."""
    module = models.create(model["name"], widths=model["widths"])
    variables = experiment.init_variables(module, faces.image_shape, seed=0)
    variables["params"]["head"]["out"]["kernel"] = gain * variables["params"]["head"]["out"]["kernel"]
    spec = experiment.make_spec(faces, model, variables, name="test", dataset_args={"name": faces.name, **dataset_args})
    spec = spec.replace(params_sha256=checkpoint.fingerprint(variables), **change)
    meta = {"spec": spec.to_json(), "config": config, "history": list(history)}
    for kind in checkpoint.KINDS:
        checkpoint.save(folder, kind, 20, variables, meta, keep=1)
    return spec, variables


def write_timed_run(folder, faces, *, accuracy=0.5, epochs=3, **groups):
    """Leaves a run with an accuracy for each epoch and the time that each took, and returns its contract."""
    history = [{"step": 10 * (n + 1), "validation_macro_f1": accuracy - 0.1} for n in range(epochs)]
    config = {**TIMED_CONFIG, **groups}
    spec, _ = write_run(folder, faces, config=config, history=history, accuracy={"validation": accuracy})
    (folder / "timing.jsonl").write_text(
        '{"epoch": 1, "images_per_second": 1.0}\n{"epoch": 2, "images_per_second": 2.0}\n'
    )
    return spec

"""Exported files with a linear network for the faces that a run learned from."""

from ferjax.spec import ModelSpec
from ferjax.weights import checkpoint
from tests.support import small_files


def exported(path, run, **changes):
    """Writes such a file for the run in the folder `run`, its contract with these changes, and returns its path."""
    spec = checkpoint.read(run / "run")[0].spec
    spec = ModelSpec.from_json(spec.replace(architecture="linear", **changes).to_json())
    return small_files.onnx_file(path, spec)

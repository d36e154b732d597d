"""Exported files run in an environment of numpy and one runtime only."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

import ferjax
from ferjax.runtime import load
from tests.support import small_files

FACE = np.arange(30, dtype=np.uint8).reshape(6, 5)
SERVE = """
import sys
import numpy as np
import ferjax.runtime
model = ferjax.runtime.load(sys.argv[1])
print(model.predict(np.arange(30, dtype=np.uint8).reshape(6, 5)).confidence)
"""


@pytest.mark.slow
@pytest.mark.parametrize("package, suffix", [("onnxruntime", "onnx"), ("ai-edge-litert", "tflite")])
def test_files_run_in_an_environment_of_numpy_and_one_runtime(tmp_path, package, suffix):
    write = small_files.onnx_file if suffix == "onnx" else small_files.tflite_file
    path = write(tmp_path / f"m.{suffix}")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "numpy", package], check=True)
    root = pathlib.Path(ferjax.__file__).parent.parent
    done = subprocess.run([python, "-c", SERVE, path], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(load(path).predict(FACE).confidence, abs=1e-6)
    for heavy in ("jax", "tensorflow", "torch", "cv2"):
        assert subprocess.run([python, "-c", f"import {heavy}"], capture_output=True).returncode == 1

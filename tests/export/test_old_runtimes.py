"""Runs TFLite files in tflite-runtime 2.14, the last version of that package, which many boards have."""

import io
import shutil
import subprocess

import numpy as np
import pytest

from ferjax import spec as specs
from ferjax.export import FORMATS, flatbuffer, formats
from ferjax.runtime import shipped
from tests.support.integer_networks import as_source, observed
from tests.support.small_files import run_tflite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
VERSION = (2, 14)
RUN = """
import sys, numpy, tflite_runtime.interpreter
interpreter = tflite_runtime.interpreter.Interpreter(sys.argv[1])
interpreter.allocate_tensors()
for image in numpy.load(sys.argv[2]):
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
    interpreter.invoke()
    print(*interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Python with tflite-runtime, in an environment of its own: it requires Python 3.11 and NumPy 1."""
    folder = tmp_path_factory.mktemp("old")
    if not shutil.which("python3.11"):
        pytest.skip("tflite-runtime 2.14 requires python3.11, which is not on the path")
    subprocess.run(["python3.11", "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    packages = [f"tflite-runtime=={VERSION[0]}.{VERSION[1]}", "numpy<2"]
    installed = subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"pip cannot install {' '.join(packages)}: {installed.stderr.strip()[-300:]}")
    return python


@pytest.mark.parametrize("name", ["resnet20", "mini_xception", "microexpnet", "deit_tiny"])
def test_a_file_loads_from_the_version_in_its_spec_on(name, python, tmp_path):
    variables, images, _ = observed(name)
    source = as_source(name, variables, images[:4])
    np.save(tmp_path / "images.npy", source.examples)
    spec = source.network.spec
    rows = [row for row in FORMATS if row.format == "tflite" and formats.family(spec) in row.convert]
    loaded = set()
    for convert in dict.fromkeys(form for row in rows for form in row.forms(spec)):
        blob = convert(source)
        (tmp_path / "model.tflite").write_bytes(blob)
        command = [python, "-c", RUN, tmp_path / "model.tflite", tmp_path / "images.npy"]
        done = subprocess.run(command, capture_output=True, text=True)
        least = tuple(map(int, flatbuffer.least_runtime(blob).split(".")[:2]))
        assert (done.returncode == 0) == (least <= VERSION), (convert.__name__, least, done.stderr[-500:])
        if done.returncode == 0:
            loaded.add(convert.__name__)
            expected = run_tflite(blob, source.examples)
            difference = np.abs(np.loadtxt(io.StringIO(done.stdout)) - expected).max()
            assert difference < 0.1 * np.abs(expected).max(), convert.__name__
    assert {"float32", "float16", "dynamic_range", "weight_only", "qat"} <= loaded


@pytest.mark.parametrize("name", shipped.names())
def test_a_model_of_the_package_loads(name, python, tmp_path):
    path = shipped.FOLDER / f"{name}{shipped.SUFFIX}"
    spec = specs.read(path)
    least = spec.least_runtime.removeprefix("TensorFlow Lite ")
    assert least == flatbuffer.least_runtime(path.read_bytes()) and tuple(map(int, least.split(".")[:2])) <= VERSION
    images = np.random.default_rng(0).normal(size=(4, *spec.input_shape)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    done = subprocess.run([python, "-c", RUN, path, tmp_path / "images.npy"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    expected = run_tflite(path.read_bytes(), images)
    assert np.abs(np.loadtxt(io.StringIO(done.stdout)) - expected).max() < 0.1 * np.abs(expected).max()

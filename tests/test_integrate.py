"""The programs of docs/integrate.md, each built and run on a small file, answer as `ferjax.runtime`."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from ferjax import runtime
from ferjax.spec import UNCERTAIN
from tests.support import ROOT, small_files

pytestmark = pytest.mark.slow
SPEC = small_files.RGB.replace(temperature=1.7, abstention_threshold=0.6)


def program(heading):
    """The program in a section of the page."""
    section = (
        (ROOT / "docs" / "integrate.md").read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    )
    (code,) = re.findall(r"^```\w+\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return code


def write(folder, heading, name):
    (folder / name).write_text(program(heading), encoding="utf-8")
    return folder / name


def ran(*command, folder, environment=None):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(folder, command, *, needs_spec, environment=None):
    """Runs a program on faces whose answers are certain and uncertain."""
    file = small_files.onnx_file(folder / "model.onnx", SPEC, channels_first=True)
    model = runtime.load(file)
    (folder / "spec.json").write_text(model.spec.to_json(), encoding="utf-8")
    spec = [folder / "spec.json"] if needs_spec else []
    labels = set()
    for pixels in small_files.images(SPEC, 12):
        expected = model.decide(model.probabilities(pixels[None])[0])
        labels.add(expected.label)
        pixels.tofile(folder / "face.raw")
        label, confidence = ran(
            *command, file, *spec, folder / "face.raw", folder=folder, environment=environment
        ).split()
        assert label == expected.label
        assert float(confidence) == pytest.approx(expected.confidence, abs=1e-5)
    assert UNCERTAIN in labels and len(labels) > 1


def test_opencv_in_python(tmp_path):
    check(tmp_path, [sys.executable, write(tmp_path, "Python with OpenCV", "classify.py")], needs_spec=True)


def test_javascript(tmp_path):
    npm = shutil.which("npm")
    if not npm or not shutil.which("node"):
        pytest.skip("requires node and npm")
    install = [npm, "install", "--no-save", "--ignore-scripts", "onnxruntime-web"]
    if subprocess.run(install, cwd=tmp_path, capture_output=True, timeout=600).returncode:
        pytest.skip("npm cannot install onnxruntime-web")
    check(tmp_path, ["node", write(tmp_path, "JavaScript", "classify.mjs")], needs_spec=True)


def test_onnxruntime_in_cpp(tmp_path):
    """$ONNXRUNTIME_INCLUDE and $CPLUS_INCLUDE_PATH name the folders of headers that are not in /usr/include."""
    headers = pathlib.Path(os.environ.get("ONNXRUNTIME_INCLUDE", "/usr/include/onnxruntime"))
    if not shutil.which("g++") or not (headers / "onnxruntime_cxx_api.h").is_file():
        pytest.skip(f"requires g++ and the headers of ONNX Runtime in {headers}")
    source = write(tmp_path, "C++ with ONNX Runtime", "classify.cpp")
    found = importlib.util.find_spec("onnxruntime")
    (library,) = pathlib.Path(found.origin).parent.glob("capi/libonnxruntime.so.*")  # of the wheel
    ran(*f"g++ -std=c++17 -Wall -Werror {source} -o classify -I{headers} {library}".split(), folder=tmp_path)
    (tmp_path / "libonnxruntime.so.1").symlink_to(library)
    check(tmp_path, [tmp_path / "classify"], needs_spec=False, environment={"LD_LIBRARY_PATH": str(tmp_path)})


def test_opencv_in_cpp(tmp_path):
    if not shutil.which("g++") or subprocess.run(["pkg-config", "--exists", "opencv4"]).returncode:
        pytest.skip("requires g++ and OpenCV's headers")
    source = write(tmp_path, "C++ with OpenCV", "classify.cpp")
    flags = ran("pkg-config", "--cflags", "--libs", "opencv4", folder=tmp_path)
    ran(*f"g++ -std=c++17 -Wall -Werror {source} -o classify {flags}".split(), folder=tmp_path)
    check(tmp_path, [tmp_path / "classify"], needs_spec=True)

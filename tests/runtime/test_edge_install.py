"""Checks the packages that `pip install ferjax[edge]` installs on other machines, as resolved by the package index."""

import json
import subprocess
import sys
import tomllib

import pytest

from tests.support import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GLIBC = ("manylinux2014", "manylinux_2_17", "manylinux_2_27", "manylinux_2_28", "manylinux_2_31")


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.11", "3.12"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_edge_is_at_most_twelve_packages_without_a_training_framework(tmp_path, machine, version):
    platforms = [part for tag in GLIBC for part in ("--platform", f"{tag}_{machine}")]
    report = tmp_path / "report.json"
    command = [
        sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", report,
        "--only-binary", ":all:", "--python-version", version, "--target", tmp_path / "none", *platforms,
        *EXTRAS["dependencies"], *EXTRAS["optional-dependencies"]["edge"],
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=250)
    names = {item["metadata"]["name"].lower() for item in json.loads(report.read_text())["install"]}
    assert {"numpy", "opencv-python-headless", "pillow", "ai-edge-litert", "onnxruntime"} <= names
    assert len(names) <= 12
    assert not {name for name in names if name.startswith(("jax", "flax", "tensorflow", "torch", "opencv-python"))} - {
        "opencv-python-headless"
    }

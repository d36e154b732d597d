"""The benchmark of training on a GPU runs on any device."""

import json
import subprocess
import sys

import pytest

from benchmarks.speed import gpu
from ferjax import models
from ferjax.models import costs
from tools import tables

pytestmark = pytest.mark.slow


def test_the_small_form_measures_a_network_in_one_process(tmp_path):
    command = [sys.executable, "-m", "benchmarks.speed.gpu", "--tiny", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (row,) = tables.load(tmp_path / "gpu.jsonl").rows
    assert row["network"] == "mini_xception" and row["device"] and row["batch"] == 8
    assert row["fit"] > 0 and row["compile_seconds"] > 0 and 0 < row["utilization"] < 1


@pytest.mark.parametrize("side", [64, 256])
def test_the_peak_is_that_of_a_matrix_product(side):
    assert 1e7 < gpu.matmul_flops(side, products=3) < 1e16


def test_utilization_counts_six_flops_per_multiply_accumulate(monkeypatch):
    monkeypatch.setattr(gpu, "fit_seconds", lambda job, steps, epochs: [9.0, 2.0, 2.0])
    row = gpu.measure("mini_xception", 4, 3, peak=1e12, torch=False, epochs=3)
    assert row["fit"] == 6 and row["compile_seconds"] == 7 and row["torch"] is None
    module = models.create("mini_xception", num_classes=7)
    macs = costs.cost(module, models.default_input_shape("mini_xception")).macs
    assert row["utilization"] == pytest.approx(6 * macs * 6 / 1e12)
    json.dumps(row)

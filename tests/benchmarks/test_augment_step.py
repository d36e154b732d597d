import json

import pytest

from benchmarks.speed import augment_step
from ferjax import models
from tests.support import tiny_networks as tiny

pytestmark = pytest.mark.slow


def test_every_contender_takes_its_steps(monkeypatch):
    module, _, _ = tiny.create("baseline_cnn3")
    monkeypatch.setattr(models, "create", lambda name, **kwargs: module)
    monkeypatch.setattr(models, "default_input_shape", lambda name: tiny.SMALL[name][1])
    row = augment_step.measure("baseline_cnn3", 4, rounds=2, steps=2)
    assert {k: len(v) for k, v in row["all"].items()} == {"step": 2, "geometry": 2, "camera": 2}
    assert row["geometry_ratio"] > 0 and row["camera_ratio"] > 0
    json.dumps(row)

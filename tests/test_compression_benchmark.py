import json

import tiny_networks as tiny

from benchmarks import compression_steps, tables
from ferjax import models


def test_every_contender_takes_its_steps(monkeypatch):
    module, _, _ = tiny.create("baseline_cnn3")
    monkeypatch.setattr(models, "create", lambda name, **kwargs: module)
    monkeypatch.setattr(models, "default_input_shape", lambda name: tiny.SMALL[name][1])
    row = compression_steps.measure("baseline_cnn3", 4, rounds=2, steps=2)
    assert {k: len(v) for k, v in row["all"].items()} == {"step": 2, "qat": 2, "prune": 2, "look": 2}
    assert row["qat_ratio"] > 0 and row["prune_ratio"] > 0 and row["input"] == "16×16×1"
    table = tables.render({"columns": compression_steps.COLUMNS, "rows": [{**row, **how()}]})
    assert table.splitlines()[2].startswith("| baseline_cnn3 | 16×16×1 | 4 | ")
    json.dumps(row)


def how():
    machine = {"cpu": "a", "cores": 1, "system": "b"}
    return {"command": "c", "machine": machine, "versions": {"python": "3"}, "date": "2026-01-01"}

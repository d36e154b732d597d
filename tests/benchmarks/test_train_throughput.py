"""Every contender of the training benchmark takes its turns, and each row is kept when it is measured."""

import json
import sys

import pytest
from flax import linen as nn

from benchmarks.speed import train_contenders, train_throughput
from ferjax import models
from ferjax.errors import InputError
from tools import tables

pytestmark = pytest.mark.slow


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(train_contenders.CLASSES)(x.reshape(len(x), -1))


@pytest.mark.parametrize(("size", "name", "shape"), [(0, "resnet20", "48×48×1"), (16, "resnet20, 16×16", "16×16×1")])
def test_throughput_measures_every_contender_in_every_round(monkeypatch, size, name, shape):
    monkeypatch.setattr(models, "create", lambda name, **kwargs: Tiny())
    monkeypatch.setattr(train_contenders, "torch_is_here", lambda: False)
    row = train_throughput.measure("resnet20", 4, "float32", rounds=3, block_seconds=0.01, limit=1e9, size=size)
    assert {k: len(v) for k, v in row["all"].items()} == {"fit": 3, "disk": 3, "step": 3, "ferjax": 3}
    assert row["disk"] > 0 and row["disk_over_fit"] > 0 and row["workers"] == 0
    assert row["fit"] > 0 and row["step"] > 0 and row["ferjax"] > 0
    assert row["share"] > 0 and row["torch"] is None and row["torch_form"] is None and row["ferjax_over_torch"] is None
    assert row["steps"] >= 2 and row["name"] == name and row["input"] == shape
    json.dumps(row)


def test_throughput_keeps_each_row_as_soon_as_it_is_measured(tmp_path, monkeypatch):
    def measure(name, *_, **__):
        if name == "b":
            raise KeyboardInterrupt
        figures = dict.fromkeys(("fit", "disk", "step", "ferjax", "torch", "share", "first_step_seconds"), 1.0)
        ratios = dict.fromkeys(("fit_over_step", "disk_over_fit", "ferjax_over_torch"), 1.0)
        return {"name": name, "torch_form": "eager", "input": "1×1×1", "batch": 1, **figures, **ratios}

    monkeypatch.setattr(train_throughput, "measure", measure)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(train_throughput.memory, "keep_freed", lambda: True)
    monkeypatch.setattr(train_throughput.peak, "operations", lambda *_: 1e9)
    monkeypatch.setattr(sys, "argv", ["train_throughput", "--models", "a", "b"])
    with pytest.raises(KeyboardInterrupt):
        train_throughput.main()
    (row,) = tables.load(tmp_path / "train_throughput.jsonl").rows
    assert row["name"] == "a"


def test_an_error_in_the_thread_of_a_fit_reaches_the_benchmark():
    def fit(on_epoch):
        on_epoch([])
        raise InputError("no disk")

    epochs = train_contenders.Epochs(fit)
    with pytest.raises(InputError, match="no disk"):
        epochs(2)
    epochs.end()

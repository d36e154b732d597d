import json

import numpy as np
import pytest

from benchmarks.speed import augment_step, compression_steps
from benchmarks.studies import compression, recipes
from ferjax import models, weights
from ferjax.errors import InputError
from ferjax.spec import ModelSpec
from tests.support import tiny_networks as tiny
from tools import tables

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("benchmark", "contenders"),
    [(compression_steps, ["step", "qat", "prune", "look"]), (augment_step, ["step", "geometry", "camera"])],
)
def test_every_contender_takes_its_steps(monkeypatch, benchmark, contenders):
    module, _, _ = tiny.create("baseline_cnn3")
    monkeypatch.setattr(models, "create", lambda name, **kwargs: module)
    monkeypatch.setattr(models, "default_input_shape", lambda name: tiny.SMALL[name][1])
    row = benchmark.measure("baseline_cnn3", 4, rounds=2, steps=2)
    assert {k: len(v) for k, v in row["all"].items()} == dict.fromkeys(contenders, 2)
    assert all(value > 0 for key, value in row.items() if key.endswith("_ratio")) and row["input"] == "16×16×1"
    table = tables.render(tables.Table(benchmark.COLUMNS, [{**row, **how()}]))
    assert table.splitlines()[2].startswith("| baseline_cnn3 | 16×16×1, 4 | ")
    json.dumps(row)


def how():
    machine = {"cpu": "a", "cores": 1, "system": "b"}
    return {"command": "c", "machine": machine, "versions": {"python": "3"}, "date": "2026-01-01"}


def test_every_row_has_a_recipe_and_the_table_its_figures(tmp_path, monkeypatch):
    spec = ModelSpec(
        class_names=("a", "b"),
        input_size=(8, 8),
        color_order="gray",
        mean=(0.5,),
        std=(0.25,),
        architecture="resnet20",
        dataset="synthetic_faces",
        dataset_args={"size": 24},
    )
    monkeypatch.setattr(weights, "load", lambda *_: weights.Trained(spec, {}))
    study = recipes.Study(tmp_path / "run", tmp_path / "run", False, tmp_path, 3, 32, None, 10)
    assert (study.training, study._replace(epochs=1, distil=True).training) == ("3 epochs", "1 epoch, teacher")
    for row in recipes.ROWS:
        made = recipes.recipe(row, 2, tmp_path / "start", study)
        assert (made["init"]["workdir"], made["init"]["pretrained"]) == (str(tmp_path / "start"), "")
        file = recipes.recipe(row, 2, tmp_path / "start.safetensors", study)["init"]
        assert (file["workdir"], file["pretrained"]) == ("", str(tmp_path / "start.safetensors"))
        assert recipes.recipe(row, 2, tmp_path, study._replace(distil=True))["loss"]["alpha"] == 0.7
        assert made["fit"]["epochs"] == 3 and made["fit"]["seed"] == 2 and made["init"]["network"]
        assert (made["quant"]["bits"], made["prune"]["sparsity"]) == (row.bits, row.sparsity / 100)
        assert made["prune"]["ramp_epochs"] <= 3 and made["quant"]["freeze_epochs"] <= 3
        assert made["data"] == {"name": "synthetic_faces", "size": 24}
    dense, pruned = recipes.ROWS[:2]
    for seed in range(2):
        for row, answers in ((dense, [0, 1, 1, 0]), (pruned, [0, 1, 1, 1 - seed])):
            folder = tmp_path / row.folder / f"seed{seed}"
            folder.mkdir(parents=True)
            share = 100 * np.mean(np.array(answers) == [0, 1, 1, 1])
            figures = dict.fromkeys(("low", "high", "milliseconds", "speedup", "agreement"), share)
            counts = dict.fromkeys(("parameters", "nonzeros", "macs", "bytes", "float_operations"), 9)
            more = {"answers": answers, "labels": [0, 1, 1, 1], "classes": 2, "accuracy": share}
            (folder / "result-none.json").write_text(json.dumps({**figures, **counts, **more}))
    row = compression.summary(pruned, study, seeds=2)
    # 75 % for dense; 100 and 75 % for the other, 25 and 0 points more
    assert (row["accuracy"], row["change"], row["seeds"]) == (87.5, 12.5, 2)
    assert row["change_low"] == 0 and 25 < row["change_high"] <= 100
    assert json.loads(json.dumps(row))["each"][1]["accuracy"] == 75


def test_a_study_goes_on_without_a_row_that_is_refused_but_not_without_the_dense_one(tmp_path, monkeypatch, capsys):
    spec = ModelSpec(
        class_names=("a", "b"), input_size=(8, 8), color_order="gray", mean=(0.5,), std=(0.25,), architecture="resnet20"
    )
    shas = {"run": "a" * 64, "other": "b" * 64}
    monkeypatch.setattr(weights, "load", lambda path: weights.Trained(spec.replace(params_sha256=shas[path.name]), {}))
    refused = {("50 % of weights pruned", 0)}

    def one(row, seed, study):
        if (row.name, seed) in refused:
            raise InputError("no file passes")
        path = compression._path(row, seed, study)
        path.parent.mkdir(parents=True, exist_ok=True)
        figures = dict.fromkeys(("accuracy", "low", "high", "milliseconds", "speedup", "agreement"), 50.0 + seed)
        counts = dict.fromkeys(("parameters", "nonzeros", "macs", "bytes", "float_operations"), 9)
        path.write_text(json.dumps({**figures, **counts, "answers": [0, 1], "labels": [0, 1], "classes": 2}))

    monkeypatch.setattr(compression, "one", one)
    arguments = ["--epochs", "1", "--rows", "50 % of weights pruned", "--runs", str(tmp_path / "rows"), "--results"]
    arguments += [str(tmp_path), "--seeds", "2", "--model"]
    compression.main([*arguments, str(tmp_path / "run")])
    assert "50 % of weights pruned, seed 0: no file passes" in capsys.readouterr().err
    rows = {row["row"]: row for row in tables.load(tmp_path / "compression.jsonl").rows}
    assert {name: (row["seeds"], row["accuracy"]) for name, row in rows.items()} == {
        "dense": (2, 50.5),
        "50 % of weights pruned": (1, 51.0),
    }
    with pytest.raises(InputError, match=r"rows of another study \(another model\): give another --runs"):
        compression.main([*arguments, str(tmp_path / "other")])
    with pytest.raises(InputError, match=r"rows of another study \(another batch_size\)"):
        compression.main([*arguments, str(tmp_path / "run"), "--batch-size", "32"])
    refused.add(("dense", 0))
    with pytest.raises(InputError, match="no file passes"):
        compression.main([*arguments, str(tmp_path / "run")])


def test_what_was_slimmed_is_trained_in_floats_before_integers(tmp_path, monkeypatch):
    done = []

    def train(row, seed, start, workdir, study):
        done.append((row.bits, start.name, workdir.name, study.epochs))

    monkeypatch.setattr(recipes, "_train", train)
    monkeypatch.setattr(recipes.compress, "compress", lambda *_, **__: None)
    study = recipes.Study(tmp_path / "run", tmp_path / "run", False, tmp_path, 5, 32, None, 10)
    rows = {row.name: row for row in recipes.ROWS}
    for name in ("int8 (QAT)", "50 % of MACs removed", "50 % of MACs removed, int8 (QAT)"):
        recipes.train(rows[name], 0, tmp_path / "trained", study)
    assert done == [
        (8, "run", "trained", 5),
        (0, "slim-0.5", "trained", 5),
        (0, "slim-0.5", "floats", 3),
        (8, "floats", "trained", 2),
    ]
    with pytest.raises(InputError, match="it needs 2 epochs"):
        recipes.train(rows["50 % of MACs removed, int8 (QAT)"], 0, tmp_path, study._replace(epochs=1))

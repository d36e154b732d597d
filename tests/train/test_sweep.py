"""Sweeps: what is run, what is left, what the table says."""

import dataclasses
import json
import pathlib
import sys
import types

import numpy as np
import pytest
from scipy import stats

from ferjax import cli
from ferjax.errors import InputError
from ferjax.train import experiment, planning, run_folder, sweep
from tests.support import ROOT
from tests.support.experiments import SMALL

CONFIG = '''"""A paper."""
import json

PAPER = {{"one": 60.0, "two": 61.5, "other": None}}


class Config(dict):
    def to_dict(self):
        return dict(self)


def get_config(arg=None):
    config = Config(json.loads({values!r}))
    if arg and "two" in arg:
        config["fit"]["batch_size"] = 8
    return config
'''


@pytest.fixture
def paper(tmp_path):
    values = {**SMALL, "loss": {"alpha": None, "label_smoothing": 0.1}, "fit": {**SMALL["fit"], "seed": 42}}
    values["init"] = {"pretrained": ""}
    path = tmp_path / "configs" / "paper.py"
    path.parent.mkdir()
    path.write_text(CONFIG.format(values=json.dumps(values)))
    return path


@pytest.fixture
def runs(monkeypatch):
    """Stands for training: remembers what was asked, and gives an accuracy that depends on configuration and seed."""
    asked = []

    def fake(kind):
        def run(config, *, workdir, data_dir, name):
            asked.append((kind, name, config, workdir))
            seed, batch = config["fit"]["seed"], config["fit"]["batch_size"]
            if config["loss"].get("label_smoothing") == 9:
                raise InputError("label smoothing must be in [0, 1)")
            score = 0.5 + 0.01 * (seed - 42) ** 2 + (0.1 + 0.02 * (seed - 42) if batch == 8 else 0)
            workdir.mkdir(parents=True)
            times = [(1, 50.0), (2, 3.0), (2, 10.0), (3, 20.0)]  # killed after the second epoch, which was repeated
            rows = (json.dumps({"epoch": epoch, "images_per_second": speed}) + "\n" for epoch, speed in times)
            (workdir / "timing.jsonl").write_text("".join(rows))
            row = {"validation_accuracy": score, "validation_macro_f1": score / 2, "epoch": 2, "step": 20}
            return types.SimpleNamespace(best=row, history=[row] * 3, variables={"params": {"w": np.zeros(10)}})

        return run

    monkeypatch.setattr(experiment, "train", fake("train"))
    monkeypatch.setattr(experiment, "distill", fake("distill"))
    return asked


def test_a_star_stands_for_the_experiments_and_a_grid_for_its_combinations(paper):
    jobs = planning.plan(
        [f"{paper}:t*,demo", f"{paper}:one"], grid={"loss.alpha": [0, 0.5], "optim.learning_rate": [1, 2]}
    )
    assert [j.name for j in jobs] == [f"{paper}:two,demo"] * 4 + [f"{paper}:one"] * 4
    assert [j.paper for j in jobs] == [61.5] * 4 + [60.0] * 4
    (elsewhere,) = planning.plan([f"{paper}:one"], fixed={"data.name": "mine"})
    assert elsewhere.paper is None  # the paper's figure is of its own data
    assert jobs[1].changes == {"loss.alpha": 0, "optim.learning_rate": 2} and jobs[1].config["loss"]["alpha"] == 0
    assert len({j.folder(paper.parent, 0) for j in jobs}) == 8
    names = [j.name.split(":")[1] for j in planning.plan([f"{paper}:*"])]
    assert names == ["one", "two", "other"]


def test_the_table_has_mean_spread_paired_difference_and_the_papers_figure(paper, runs, tmp_path):
    rows = sweep.run(planning.plan([f"{paper}:one", f"{paper}:two"]), seeds=3, workdir=tmp_path / "out", command="this")
    assert [r["seed"] for r in rows[0]["runs"]] == [42, 43, 44]
    one, two = np.array([50.0, 51.0, 54.0]), np.array([60.0, 63.0, 68.0])
    assert rows[0]["mean"] == pytest.approx(one.mean()) and rows[0]["spread"] == pytest.approx(one.std(ddof=1))
    interval = stats.ttest_rel(two, one).confidence_interval(0.95)
    assert rows[0]["seconds"] == pytest.approx(10 * 16 * (1 / 50 + 1 / 10 + 1 / 20), abs=0.05)  # of all starts of a run
    assert rows[1]["difference"] == pytest.approx((two - one).mean())
    assert rows[1]["difference"] - rows[1]["interval"] == pytest.approx(interval.low)
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| 51.67 | 2.08 | 3 | 0.258 |  | 60.0 |" in text and "+12.00 ± 4.97 | 61.5 |" in text and "`this`" in text
    assert json.loads((tmp_path / "out" / "table.json").read_text())["rows"] == rows


def test_what_is_finished_is_left_and_what_is_missing_is_run(paper, runs, tmp_path):
    plan = lambda: planning.plan([f"{paper}:one"])  # noqa: E731
    first = sweep.run(plan(), seeds=1, workdir=tmp_path / "out")
    again = sweep.run(plan(), seeds=2, workdir=tmp_path / "out")
    assert [asked[2]["fit"]["seed"] for asked in runs] == [42, 43]
    assert again[0]["runs"][0] == first[0]["runs"][0]
    other = planning.plan([f"{paper}:one"], fixed={"fit.epochs": 7})
    assert "another experiment" in sweep.run(other, seeds=1, workdir=tmp_path / "out")[0]["failed"]


def test_a_damaged_result_is_named_and_costs_its_run_only(paper, runs, tmp_path, capsys):
    jobs = planning.plan([f"{paper}:one", f"{paper}:two"])
    sweep.run(jobs, seeds=1, workdir=tmp_path / "out")
    path = jobs[0].folder(tmp_path / "out", 42) / "result.json"
    path.write_text("")
    rows = sweep.run(jobs, seeds=1, workdir=tmp_path / "out")
    assert "result.json is damaged" in rows[0]["failed"] and "failed" not in rows[1] and len(runs) == 2
    assert "result.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "said"), [("x = 1", "is not a configuration"), ("x =", "cannot be imported")])
def test_what_is_no_configuration_is_said(tmp_path, text, said):
    (tmp_path / "common.py").write_text(text)
    with pytest.raises(InputError, match=said):
        planning.plan([str(tmp_path / "common.py")])


def test_rows_of_one_configuration_share_their_runs(paper, runs, tmp_path):
    rows = sweep.run(planning.plan([f"{paper}:one", f"{paper}:other"]), seeds=2, workdir=tmp_path / "out")
    assert len(runs) == 2 and rows[0]["runs"] == rows[1]["runs"]


@pytest.fixture
def shas(monkeypatch):
    """Stands for teachers: their hashes by path."""
    known = {"a": "1" * 64, "b": "2" * 64}
    load = lambda path: types.SimpleNamespace(spec=types.SimpleNamespace(params_sha256=known[path]))  # noqa: E731
    monkeypatch.setattr(sweep.weights, "load", load)
    return known


def test_only_what_has_a_share_for_a_teacher_learns_from_it(paper, runs, shas, tmp_path):
    jobs = planning.plan([str(paper)], grid={"loss.alpha": [0, 0.5]})
    sweep.run(jobs, seeds=1, workdir=tmp_path / "out", teachers=["a", "b"])
    assert [(kind, config.get("teacher")) for kind, _, config, _ in runs] == [
        ("train", None),
        ("distill", {"workdirs": ["a", "b"]}),
    ]
    with pytest.raises(InputError, match="--teacher"):
        sweep.run(planning.plan([str(paper)]), seeds=1, workdir=tmp_path / "none", teachers=["a"])
    decoupled = planning.Job("a", {}, {"loss": {"alpha": 0, "method": "decoupled"}}, None)
    assert decoupled.taught and not dataclasses.replace(decoupled, config={"loss": {"method": "decoupled"}}).taught


def test_another_teacher_is_another_experiment(paper, runs, shas, tmp_path):
    jobs = planning.plan([str(paper)], fixed={"loss.alpha": 0.5})
    options = {"seeds": 1, "workdir": tmp_path / "out", "teachers": ["a"]}
    assert "failed" not in sweep.run(jobs, **options)[0] and "failed" not in sweep.run(jobs, **options)[0]
    assert "failed" not in sweep.run(jobs, **{**options, "teachers": ["./a/"]})[0]  # the same folder
    shas["a"] = "3" * 64
    assert "another experiment: teacher.sha256" in sweep.run(jobs, **options)[0]["failed"]
    assert len(runs) == 1
    (path,) = (tmp_path / "out").rglob("result.json")
    done = json.loads(path.read_text())
    del done["config"]["teacher"]["sha256"]  # as an older ferjax wrote it
    path.write_text(json.dumps(done))
    assert "failed" not in sweep.run(jobs, **options)[0]


def test_other_data_are_another_experiment(paper, runs, tmp_path):
    manifest = {"image_shape": (24, 24, 1), "mean": [0.5], "std": [0.2], "class_names": ["a", "b"]}
    folder, known = tmp_path / "data" / "mine", {"counts": {}, "sha256": "1" * 64, **manifest}
    options = {"seeds": 1, "workdir": tmp_path / "out", "data_dir": tmp_path / "data"}
    (job,) = planning.plan([f"{paper}:one"])
    jobs = [dataclasses.replace(job, config={**job.config, "data": {"name": "mine"}})]
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(known))
    assert "failed" not in sweep.run(jobs, **options)[0] and "failed" not in sweep.run(jobs, **options)[0]
    (folder / "manifest.json").write_text(json.dumps({**known, "sha256": "2" * 64}))
    assert "another experiment: data.sha256 is 1111" in sweep.run(jobs, **options)[0]["failed"]
    (path,) = (tmp_path / "out").rglob("result.json")
    done = json.loads(path.read_text())
    del done["config"]["data"]["sha256"]  # as an older ferjax wrote it
    path.write_text(json.dumps(done))
    assert "failed" not in sweep.run(jobs, **options)[0]
    path.write_text(json.dumps({**done, "config": {**done["config"], "data": {"name": "mine", "sha256": "1" * 64}}}))
    assert "failed" in sweep.run(jobs, **options)[0]
    (folder / "manifest.json").unlink()  # a finished run needs no data to be read
    assert "failed" not in sweep.run(jobs, **options)[0] and len(runs) == 1


def test_a_run_of_another_process_is_left_and_asked_for_again(paper, runs, tmp_path, monkeypatch, capsys):
    jobs, out = planning.plan([f"{paper}:one", f"{paper}:two"]), tmp_path / "out"
    alone = sweep.run(jobs, seeds=1, workdir=tmp_path / "alone")
    theirs, train, tries = jobs[0].folder(out, 42), experiment.train, []

    def busy(config, *, workdir, **more):
        tries.append(workdir)
        if workdir == theirs and len(tries) < 3:
            raise run_folder.InUse("another process is training")
        return train(config, workdir=workdir, **more)

    monkeypatch.setattr(experiment, "train", busy)
    rows = sweep.run(jobs, seeds=1, workdir=out)
    assert tries == [theirs, jobs[1].folder(out, 42), theirs] and "seed 42: another process" in capsys.readouterr().err
    assert [row["mean"] for row in rows] == [row["mean"] for row in alone]
    tries.clear()
    (theirs / "result.json").unlink()
    rows = sweep.run(jobs, seeds=1, workdir=out)
    assert tries == [theirs] * 2 and rows[0]["failed"] == "another process is training" and "mean" in rows[1]


def test_how_images_are_read_may_change(paper, runs, tmp_path):
    for workers in (0, 2):
        jobs = planning.plan([f"{paper}:one"], fixed={"data.workers": workers})
        assert "failed" not in sweep.run(jobs, seeds=1, workdir=tmp_path / "out")[0]
    assert len(runs) == 1


def test_a_seed_that_failed_shifts_no_pair():
    rest = {"parameters": 1, "macro_f1": 0.5, "seconds": 1.0}
    second = {number: {"accuracy": value, **rest} for number, value in enumerate((0.5, 0.6, 0.7))}
    first = {number: second[number] for number in (1, 2)}
    job = planning.Job("a", {}, {}, None)
    row = sweep._row(job, second, None, first)
    assert (row["difference"], row["interval"]) == (0.0, 0.0) and len(row["runs"]) == 3


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("('kernel',),(0.5, 1)", [("kernel",), (0.5, 1)]),
        ("0,0.7", [0, 0.7]),
        ("'sad, blue',angry,it's", ["sad, blue", "angry", "it's"]),
    ],
)
def test_values_with_commas_are_one_value(given, values):
    assert planning.read_grid([f"group.key={given}"]) == {"group.key": values}


@pytest.mark.parametrize("damage", [{"accuracy": None}, {"accuracy": "x"}, {"accuracy": float("nan")}, {"config": 3}])
def test_a_result_that_lacks_something_costs_its_run_only(paper, runs, tmp_path, damage):
    jobs = planning.plan([f"{paper}:one", f"{paper}:two"])
    sweep.run(jobs, seeds=1, workdir=tmp_path / "out")
    path = jobs[0].folder(tmp_path / "out", 42) / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    rows = sweep.run(jobs, seeds=1, workdir=tmp_path / "out")
    assert "is damaged" in rows[0]["failed"] and "mean" in rows[1]
    path.unlink()
    path.mkdir()
    assert "is damaged" in sweep.run(jobs, seeds=1, workdir=tmp_path / "out")[0]["failed"]


def test_other_weights_to_start_from_are_another_experiment(paper, runs, tmp_path):
    start = tmp_path / "start.safetensors"
    start.write_bytes(b"one network's")
    jobs = planning.plan([f"{paper}:one"], fixed={"init.pretrained": str(start)})
    sweep.run(jobs, seeds=1, workdir=tmp_path / "out")
    assert "mean" in sweep.run(jobs, seeds=1, workdir=tmp_path / "out")[0]
    start.write_bytes(b"another network's")
    assert "another experiment: init.sha256" in sweep.run(jobs, seeds=1, workdir=tmp_path / "out")[0]["failed"]
    start.unlink()  # as data may be gone
    assert "mean" in sweep.run(jobs, seeds=1, workdir=tmp_path / "out")[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["configs/resnet20.py", "--set", "fit.epochs=many"], "fit.epochs of configs/resnet20.py cannot be 'many'"),
        (["configs/resnet20.py", "--set", "model.a.b=1"], "model.a.b of configs/resnet20.py cannot be 1"),
        (["configs/resnet20.py", "--set", "fit.seed=None"], r"config\.fit\.seed must be int, got None"),
        (["README.md"], "unknown configuration 'README.md'"),
    ],
)
def test_a_value_of_another_type_is_one_line(arguments, said, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match=said):
        sweep.main(arguments)


def test_a_run_that_cannot_be_done_is_named_and_the_others_go_on(paper, runs, tmp_path, capsys):
    arguments = [f"{paper}:one", "--grid", "loss.label_smoothing=9,0.1", "--workdir", str(tmp_path / "out")]
    with pytest.raises(InputError, match="1 of 2 rows failed"):
        sweep.main(arguments)
    assert len(runs) == 2
    assert "failed: label smoothing must be" in (tmp_path / "out" / "table.md").read_text()
    assert "label smoothing" in capsys.readouterr().err


def test_a_sweep_of_real_runs(paper, tmp_path, capsys):
    arguments = [f"{paper}:one", "--set", "fit.epochs=1", "--workdir", str(tmp_path / "out")]
    arguments += ["--data-dir", str(tmp_path / "data")]
    sweep.main(arguments)
    done = json.loads((tmp_path / "out" / "paper-one" / "seed42" / "result.json").read_text())
    rows = (tmp_path / "out" / "paper-one" / "seed42" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(r)["validation_accuracy"] for r in rows] == [done["accuracy"]] and done["epochs"] == 1
    before = capsys.readouterr().out
    sweep.main(arguments)
    after = capsys.readouterr().out
    assert "== " in before and "== " not in after and "paper.py:one" in after


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.py"], "unknown configuration 'nowhere.py'"),
        (["{}:x*"], "Accepted: one, two, other"),
        (["{}", "--set", "fti.epochs=1"], "Did you mean 'fit'"),
        (["{}", "--set", "fit.epoch=1"], "Did you mean 'epochs'"),
        (["{}", "--grid", "loss.alpha"], "expected GROUP.KEY=VALUE"),
        (["{}", "--seeds", "0"], "at least 1"),
    ],
)
def test_a_mistake_is_one_line(paper, arguments, said, monkeypatch, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: sweep.main([a.format(paper) for a in arguments]))
    assert caught.value.code == 2 and said in capsys.readouterr().err


def test_a_runs_folder_has_no_bracket_and_a_configuration_is_read_from_anywhere(tmp_path, monkeypatch):
    root = ROOT
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if pathlib.Path(p or ".").resolve() != root])
    monkeypatch.delitem(sys.modules, "configs", raising=False)
    monkeypatch.delitem(sys.modules, "configs.common", raising=False)
    (job,) = planning.plan([str(root / "configs/baseline_cnn3.py")], grid={"model.widths": [[8, 16, 32]]})
    assert job.folder(tmp_path, 0) == tmp_path / "baseline_cnn3-widths=(8, 16, 32)" / "seed0"

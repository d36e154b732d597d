"""Arms of a study over seeds, and the frontier of the exported files."""

import statistics

import pytest
from scipy import stats

from benchmarks.studies import ablation, frontier
from ferjax import data
from ferjax.errors import InputError
from ferjax.weights import checkpoint
from tests.support import small_files
from tests.support.untrained_runs import DATA, write_timed_run
from tools import tables

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two arms of three seeds as sweeps leave them, and the second as exported files."""
    folder = tmp_path_factory.mktemp("ablation")
    faces = data.load("synthetic_faces", data_dir=folder / "data", **DATA)
    for arm, scores in (("plain", (0.60, 0.61, 0.62)), ("taught", (0.63, 0.62, 0.66))):
        for seed, score in enumerate(scores):
            run = folder / arm / f"seed{seed}"
            spec = write_timed_run(run, faces, accuracy=score, fit={"seed": seed, "epochs": 3, "batch_size": 8})
            small_files.onnx_file(folder / f"{arm}{seed}.onnx", spec)
    return folder


def test_arms_are_compared_in_pairs(made):
    plain, taught = ablation.study("s", {"plain": [made / "plain"], "taught": [made / "taught"]})
    assert (plain["name"], plain["study"], plain["arm"], plain["seeds"]) == ("s: plain", "s", "plain", 3)
    assert plain["accuracy"] == pytest.approx(61) and plain["spread"] == pytest.approx(1)
    assert plain["macro_f1"] == pytest.approx(0.51) and plain["epochs"] == "3" and plain["minutes"] == 2
    assert "difference" not in plain
    pairs = (3, 1, 4)
    assert taught["difference"] == pytest.approx(statistics.mean(pairs))
    assert taught["interval"] == pytest.approx(stats.t.ppf(0.975, 2) * statistics.stdev(pairs) / 3**0.5)


def test_runs_are_paired_by_seed_and_files_by_order(made):
    backwards = [made / "taught" / f"seed{seed}" for seed in (2, 0, 1)]
    files = [made / f"taught{seed}.onnx" for seed in range(3)]
    _, by_seed, by_order = ablation.study("s", {"plain": [made / "plain"], "runs": backwards, "files": files})
    for row in (by_seed, by_order):
        assert row["difference"] == pytest.approx(8 / 3)
    assert by_seed["interval"] == pytest.approx(by_order["interval"])
    assert by_order["macro_f1"] is None and by_order["epochs"] is None
    swapped = [files[i] for i in (2, 0, 1)]  # beside runs in that order, the pairs are the same
    assert ablation.study("s", {"runs": backwards, "files": swapped})[1]["interval"] == pytest.approx(0, abs=1e-6)
    _, other = ablation.study("s", {"files": files, "again": files[::-1]})
    assert other["difference"] == pytest.approx(0) and other["interval"] > 1


def test_one_seed_has_a_difference_without_interval(made):
    _, row = ablation.study("s", {"a": [made / "plain" / "seed1"], "b": [made / "taught" / "seed1"]})
    assert row["difference"] == pytest.approx(1) and row["interval"] is None and row["spread"] is None


def test_what_cannot_be_compared_is_refused(made, tmp_path):
    with pytest.raises(InputError, match=r"seeds \[1\], the first arm \[0\]"):
        ablation.study("s", {"a": [made / "plain" / "seed0"], "b": [made / "taught" / "seed1"]})
    with pytest.raises(InputError, match=r"seeds \[0\], the first arm \[0, 1, 2\]"):
        ablation.study("s", {"a": [made / "plain"], "b": [made / "plain0.onnx"]})
    with pytest.raises(InputError, match="is no run, no folder of runs and no exported file"):
        ablation.study("s", {"a": [tmp_path]})
    (spec, variables), meta = checkpoint.read(made / "plain" / "seed0")
    started = {**meta, "spec": spec.replace(accuracy={}).to_json()}
    state = {"params": variables["params"], "collections": {}}
    checkpoint.save(tmp_path / "begun", "last", 1, state, started, keep=1)
    with pytest.raises(InputError, match="begun has no epoch that ended"):
        ablation.study("s", {"a": [tmp_path / "begun"]})
    small_files.onnx_file(tmp_path / "part.onnx")
    with pytest.raises(InputError, match="never compared on the whole validation split"):
        ablation.study("s", {"a": [tmp_path / "part.onnx"]})
    for arms in (["--arm", "a"], ["--arm", "a", "x", "--arm", "a", "y"]):
        with pytest.raises(InputError, match="label of its own"):
            ablation.main(["--study", "s", *arms, "--command", "c"])


def test_the_command_writes_the_table(made, tmp_path, capsys):
    arms = ["--arm", "plain", str(made / "plain"), "--arm", "taught", str(made / "taught")]
    ablation.main(["--study", "s", *arms, "--command", "ferjax sweep", "--results", str(tmp_path)])
    said = capsys.readouterr().out
    assert "| s | plain | 3 | 61.00 ± 1.00 | – | 0.510 | 2 |" in said
    assert "| s | taught | 3 | 63.67 ± " in said and "| +2.67 ± " in said
    assert [row["command"] for row in tables.load(tmp_path / "ablation.jsonl").rows] == ["ferjax sweep"] * 2


def point(size, accuracy):
    return {"network": "n", "how": "none", "quantization": "int8", "bytes": size, "accuracy": accuracy}


def test_the_frontier_holds_what_none_beats():
    small, middle, good = point(10_030, 60), point(20_000, 61), point(40_000, 70)
    beaten, same_size = point(30_000, 59), point(10_010, 58)
    assert frontier.frontier([good, beaten, same_size, middle, small]) == [small, middle, good]


def test_the_plot_is_written_from_the_rows_that_have_files(tmp_path, capsys):
    rows = [point(2000, 60.0), point(9000, 65.0), point(None, 1.0)]
    named = [{**row, "name": str(n)} for n, row in enumerate(rows)]
    tables.save("fer2013", [], named, command="c", packages=(), results=tmp_path)
    arguments = ["--results", str(tmp_path), "--out", str(tmp_path / "f.png")]
    frontier.main(arguments)
    assert (tmp_path / "f.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and "saved" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.png", "fer2013.jsonl"]
    with pytest.raises(InputError, match="no row has a file"):
        frontier.plot(rows[2:], tmp_path / "none.png")
    with pytest.raises(InputError, match="there are no results"):
        frontier.main([*arguments, "--data", "other"])

"""The loop: it learns, selects on validation, stops when it should, and resumes to the bit."""

import json

import chex
import jax
import numpy as np
import pytest

from ferjax import augment
from ferjax.errors import InputError
from ferjax.evaluate.metrics import best_row
from ferjax.train import feed, loop, sampling, state
from ferjax.weights import checkpoint
from tests.support import tiny
from tests.support.resuming import Stop, files, stop_after
from tests.support.tiny_runs import fit


def test_it_learns_and_reports_each_epoch(tmp_path, capsys):
    result = fit(tmp_path, epochs=20, optimizer=tiny.optimizer(learning_rate=0.02, schedule="constant"))
    assert result.best["validation_accuracy"] > 0.8  # a third by chance
    assert result.history[-1]["train_loss"] < 0.7 * result.history[0]["train_loss"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == result.history and [r["epoch"] for r in rows] == list(range(1, 21))
    assert rows[-1]["step"] == 20 * (50 // 8)
    assert capsys.readouterr().out.count("epoch") == 20


def test_the_kept_variables_are_those_that_the_best_row_scored(tmp_path):
    result = fit(tmp_path, epochs=6)
    (spec, variables), meta = checkpoint.read(tmp_path)
    assert meta["step"] == result.best["step"] and spec.accuracy == {"validation": result.best["validation_accuracy"]}
    assert spec.params_sha256 == checkpoint.fingerprint(variables)
    data = tiny.faces(33, seed=2)
    x = (data["images"].astype(np.float32) / 255 - 0.5) / 0.25
    predictions = np.asarray(tiny.apply_fn(variables, x, train=False)).argmax(1)
    assert (predictions == data["labels"]).mean() == result.best["validation_accuracy"]


def test_the_earliest_of_equals_is_best():
    rows = [{"epoch": i + 1, "validation_accuracy": a} for i, a in enumerate((0.2, 0.5, 0.5, 0.4))]
    assert best_row(rows)["epoch"] == 2


@pytest.mark.parametrize(("saves", "ema_decay"), [(1, 0.0), (2, 0.9), (7, 0.0), (19, 0.9)])
def test_a_run_stopped_at_any_save_resumes_to_the_bit(tmp_path, monkeypatch, saves, ema_decay):
    settings = {"task": tiny.task(augment=augment.create(flip=0.5, erase=0.5)), "ema_decay": ema_decay, "epochs": 3}
    fit(tmp_path / "whole", **settings)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(checkpoint, "save", stop_after(checkpoint.save, saves))
        fit(tmp_path / "cut", checkpoint_minutes=0.0, **settings)  # saves after every step
    fit(tmp_path / "cut", **settings)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_stop_before_the_first_save_starts_again(tmp_path, monkeypatch):
    fit(tmp_path / "whole", epochs=1)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(loop, "validate", stop_after(loop.validate, 1))
        fit(tmp_path / "cut", epochs=1)
    fit(tmp_path / "cut", epochs=1)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_finished_run_is_left_as_it_is(tmp_path):
    first = fit(tmp_path)
    before = files(tmp_path)
    again = fit(tmp_path)
    assert again.history == first.history and files(tmp_path) == before
    chex.assert_trees_all_equal(again.variables, first.variables)


def test_patience_stops_after_so_many_epochs_without_a_better_one(tmp_path):
    still = tiny.optimizer(learning_rate=1e-12)  # nothing changes but the running mean
    history = fit(tmp_path, optimizer=still, epochs=30, patience=3).history
    assert len(history) == best_row(history)["epoch"] + 3 < 30
    assert fit(tmp_path, optimizer=still, epochs=30, patience=3).history == history


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    wild = tiny.optimizer(learning_rate=1e38, schedule="step", decay_epochs=1, decay_rate=1.0)
    good = fit(tmp_path, epochs=1)
    step = good.history[-1]["step"]
    with pytest.raises(InputError, match=rf"not finite at step {step + 1} .*keeps the last good checkpoint"):
        fit(tmp_path, epochs=2, optimizer=wild)
    like = {
        **state.init_state(tiny.variables(), tiny.optimizer().tx)._asdict(),
        "sums": state.Sums.zero()._asdict(),
    }
    arrays, _ = checkpoint.restore(tmp_path, like)
    assert int(arrays["step"]) == step and np.isfinite(arrays["params"]["kernel"]).all()


def test_the_loop_compiles_its_step_once(tmp_path, monkeypatch):
    runs = []

    def remember(*args, **kwargs):
        runs.append(make(*args, **kwargs))
        return runs[-1]

    make = feed.make_resident_steps
    monkeypatch.setattr(feed, "make_resident_steps", remember)
    fit(tmp_path, epochs=3)
    assert runs[0]._cache_size() == 1


def test_history_reaches_the_caller_after_every_epoch(tmp_path):
    lengths = []
    fit(tmp_path, epochs=3, on_epoch=lambda history: lengths.append(len(history)))
    assert lengths == [1, 2, 3]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"batch_size": 51}, "50; got 51"),
        ({"epochs": 0}, r"fit\.epochs must be 1 or more, got 0"),
        ({"batch_size": 0}, r"fit\.batch_size must be 1 or more, got 0"),
    ],
)
def test_sizes_that_do_not_fit_are_named(tmp_path, bad, said):
    with pytest.raises(InputError, match=said):
        fit(tmp_path, **bad)


def test_the_variables_given_are_not_consumed(tmp_path):
    variables = tiny.variables()
    fit(tmp_path, variables=variables, epochs=1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


def test_balanced_sampling_is_what_the_steps_see_and_resumes_to_the_bit(tmp_path, monkeypatch):
    settings = {"sampling": "balanced", "epochs": 2}
    orders, make = [], sampling.balanced_order
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "balanced_order", lambda *a, **k: orders.append(make(*a, **k)) or orders[-1])
        fit(tmp_path / "whole", **settings)
    shares = [np.bincount(tiny.faces(50)["labels"][np.asarray(order)]) for order in orders]
    assert len(orders) == 2 and all(np.ptp(share) <= 1 for share in shares)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(checkpoint, "save", stop_after(checkpoint.save, 9))
        fit(tmp_path / "cut", checkpoint_minutes=0.0, **settings)
    fit(tmp_path / "cut", **settings)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    fit(tmp_path / "plain", epochs=2)
    assert files(tmp_path / "plain")["last"] != files(tmp_path / "whole")["last"]


def test_samplings_that_cannot_be_are_named(tmp_path):
    with pytest.raises(InputError, match="Did you mean 'balanced'"):
        fit(tmp_path, sampling="balance")
    lonely = {**tiny.faces(50), "labels": np.zeros(50, np.int32)}
    with pytest.raises(InputError, match="none of b, c"):
        fit(tmp_path, sampling="balanced", train=lonely)


def test_a_column_of_probabilities_takes_the_place_of_the_labels(tmp_path):
    faces = tiny.faces(50)
    votes = np.eye(3, dtype=np.float32)[(faces["labels"] + 1) % 3]
    train = {**faces, "columns": {"votes": votes, "gender": np.zeros(50)}}
    history = fit(tmp_path / "votes", train=train, targets="votes", epochs=1).history
    plain = fit(tmp_path / "plain", train={**faces, "labels": (faces["labels"] + 1) % 3}, epochs=1).history
    assert history == plain
    with pytest.raises(InputError, match="Did you mean 'votes'"):
        fit(tmp_path / "bad", train=train, targets="vote")
    with pytest.raises(InputError, match="the data has no columns"):
        fit(tmp_path / "bad", targets="votes")
    for values in (np.zeros(50), 2 * votes, votes[:, :2]):
        with pytest.raises(InputError, match=r"fit\.targets=.*must have shape"):
            fit(tmp_path / "bad", train={**faces, "columns": {"votes": values}}, targets="votes")
    assert not (tmp_path / "bad").exists()

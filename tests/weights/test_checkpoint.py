"""Tests that checkpoints are restored exactly and damaged ones are skipped with a note."""

import errno
import pathlib
import sys
import types

import chex
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ferjax.errors import InputError
from ferjax.weights import checkpoint
from tests.support import tiny

META = {"spec": tiny.SPEC.to_json(), "config": {"model": {"name": "x"}}, "history": [{"epoch": 1}]}


def tree(value=1.0):
    rng = np.random.default_rng(0)  # noise, because orbax compresses: the data file has to have a length
    kernel = value + rng.normal(size=(40, 30)).astype(np.float32)
    return {"step": jnp.array(3, jnp.int32), "params": {"conv": {"kernel": jnp.array(kernel)}}, "sums": (jnp.zeros(2),)}


def save(workdir, step, kind="last", value=1.0, keep=2):
    checkpoint.save(workdir, kind, step, tree(value), META, keep=keep)


def test_arrays_and_meta_come_back(tmp_path):
    save(tmp_path, 5)
    arrays, meta = checkpoint.restore(tmp_path, tree())
    chex.assert_trees_all_equal(arrays, tree())
    assert isinstance(arrays["params"]["conv"]["kernel"], np.ndarray)
    assert meta["step"] == 5 and {k: meta[k] for k in META} == META
    assert isinstance(arrays["sums"], tuple)


def test_only_the_newest_are_kept_and_the_newest_is_used(tmp_path):
    for step in (1, 2, 10):
        save(tmp_path, step, value=step)
    assert sorted(int(p.name) for p in (tmp_path / "last").iterdir()) == [2, 10]
    arrays, _ = checkpoint.restore(tmp_path, tree())
    chex.assert_trees_all_equal(arrays, tree(10))


def test_nothing_saved_is_none(tmp_path, capsys):
    assert checkpoint.restore(tmp_path, tree()) is None
    assert not capsys.readouterr().err


def damage(path: pathlib.Path, how: str) -> None:
    """Damages the file that holds most of the numbers, or removes all of a checkpoint's contents."""
    largest = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    if how == "truncated":
        largest.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        data[len(data) // 2] ^= 0xFF
        largest.write_bytes(data)
    elif how == "metadata":
        for meta in path.rglob("*METADATA"):
            meta.write_bytes(meta.read_bytes()[:20])
    else:
        for each in path.rglob("*"):
            if each.is_file():
                each.unlink()


def test_answers_to_a_closed_loop_after_a_damaged_checkpoint_are_not_printed(tmp_path, monkeypatch):
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: printed.append(unraisable.exc_value))
    closed, other = RuntimeError("Event loop is closed"), RuntimeError("another")
    save(tmp_path, 2)
    sys.unraisablehook(types.SimpleNamespace(exc_value=closed))
    assert printed == [closed]
    damage(tmp_path / "last" / "000000002", "truncated")
    for _ in range(2):
        assert checkpoint.restore(tmp_path, tree()) is None
    hook = sys.unraisablehook
    for error in (closed, other):
        hook(types.SimpleNamespace(exc_value=error))
    assert printed == [closed, other]
    assert checkpoint.restore(tmp_path, tree()) is None and sys.unraisablehook is hook


@pytest.mark.parametrize("how", ["truncated", "flipped", "metadata", "emptied"])
def test_the_checkpoint_before_a_damaged_one_is_used(tmp_path, capsys, how):
    save(tmp_path, 1, value=1)
    save(tmp_path, 2, value=2)
    damage(tmp_path / "last" / "000000002", how)
    arrays, _ = checkpoint.restore(tmp_path, tree())
    chex.assert_trees_all_equal(arrays, tree(1))
    said = capsys.readouterr().err
    assert "000000002 is damaged" in said and "Traceback" not in said
    save(tmp_path, 2, value=2)  # the repeated epoch replaces it
    chex.assert_trees_all_equal(checkpoint.restore(tmp_path, tree())[0], tree(2))


@pytest.mark.parametrize(("kind", "keep"), [("last", 2), ("best", 1)])
def test_a_run_that_starts_over_keeps_what_it_writes(tmp_path, capsys, kind, keep):
    for step in (10, 20):
        save(tmp_path, step, kind=kind)
    if kind == "last":
        for path in (tmp_path / "last").iterdir():
            damage(path, "truncated")
        assert checkpoint.restore(tmp_path, tree()) is None
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 3 and "no checkpoint" in said[-1]
    for step in (3, 6, 9):
        save(tmp_path, step, kind=kind, keep=keep, value=step)
    assert sorted(int(p.name) for p in (tmp_path / kind).iterdir()) == [3, 6, 9][-keep:]
    assert checkpoint.read(tmp_path, kind)[1]["step"] == 9


def test_the_last_good_state_outlives_a_damaged_later_one(tmp_path):
    for step in (10, 20):
        save(tmp_path, step)
    damage(tmp_path / "last" / "000000020", "truncated")
    save(tmp_path, 15)
    assert sorted(int(p.name) for p in (tmp_path / "last").iterdir()) == [10, 15]


def test_the_rest_of_a_killed_save_is_removed(tmp_path):
    save(tmp_path, 1)
    left = tmp_path / "last" / "000000002.orbax-checkpoint-tmp-17"
    left.mkdir()
    (left / "part").write_text("x")
    checkpoint.remove_unfinished(tmp_path)
    assert [p.name for p in (tmp_path / "last").iterdir()] == ["000000001"]


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    save(tmp_path, 1)
    other = tree()
    other["params"]["conv"]["bias"] = jnp.zeros(3)
    with pytest.raises(InputError, match=r"params\.conv\.bias"):
        checkpoint.restore(tmp_path, other)
    other = tree()
    other["params"]["conv"]["kernel"] = jnp.zeros((4, 3))
    with pytest.raises(InputError, match=r"params\.conv\.kernel .* expected \(4, 3\)"):
        checkpoint.restore(tmp_path, other)


def test_a_save_that_fails_leaves_the_earlier_ones(tmp_path, monkeypatch):
    def full(self, directory, *args, **kwargs):
        (directory.parent / (directory.name + ".orbax-checkpoint-tmp")).mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ocp.Checkpointer, "save", full)
        with pytest.raises(InputError, match=r"step 2 .*No space left on device; there is no earlier checkpoint"):
            save(tmp_path, 2)
    save(tmp_path, 1, value=1)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.Checkpointer, "save", full)
        with pytest.raises(InputError, match="No space left on device; the checkpoint of step 1 is intact"):
            save(tmp_path, 2)
    assert [p.name for p in (tmp_path / "last").iterdir()] == ["000000001"]
    chex.assert_trees_all_equal(checkpoint.restore(tmp_path, tree())[0], tree(1))


def test_load_returns_spec_and_variables(tmp_path):
    variables = tiny.variables()
    checkpoint.save(tmp_path, "best", 7, variables, META, keep=1)
    (spec, found), meta = checkpoint.read(tmp_path)
    assert spec == tiny.SPEC and meta["step"] == 7
    chex.assert_trees_all_equal(found, variables)


@pytest.mark.parametrize("ema", [False, True])
def test_load_falls_back_to_the_last_state_with_a_note(tmp_path, capsys, ema):
    variables = tiny.variables(1)
    state = {
        "step": jnp.array(9),
        "params": variables["params"],
        "collections": {"batch_stats": variables["batch_stats"]},
    }
    if ema:
        state["ema"] = tiny.variables(2)
    checkpoint.save(tmp_path, "best", 7, tiny.variables(), META, keep=1)
    checkpoint.save(tmp_path, "last", 9, state, META, keep=2)
    damage(tmp_path / "best" / "000000007", "truncated")
    (_, found), meta = checkpoint.read(tmp_path)
    chex.assert_trees_all_equal(found, tiny.variables(2 if ema else 1))
    assert meta["step"] == 9 and "using the last one, step 9" in capsys.readouterr().err


def test_load_rejects_other_folders_and_kinds(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        checkpoint.read(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no readable checkpoint"):
        checkpoint.read(tmp_path)
    with pytest.raises(InputError, match="'best'"):
        checkpoint.read(tmp_path, "besst")


def test_the_fingerprint_sees_names_types_shapes_and_values():
    base = {"a": np.zeros((2, 3), np.float32)}
    others = [
        {"b": base["a"]},
        {"a": base["a"].astype(np.float16)},
        {"a": base["a"].reshape(3, 2)},
        {"a": base["a"] + 1},
        {"a": base["a"], "b": np.zeros(0)},
    ]
    prints = [checkpoint.fingerprint(t) for t in (base, *others)]
    assert len(set(prints)) == len(prints)
    assert checkpoint.fingerprint({"x": {"y": base["a"]}, "w": base["a"]}) == checkpoint.fingerprint(
        {"w": base["a"], "x": {"y": base["a"]}}
    )


def test_a_folder_whose_files_orbax_would_not_find_is_refused_before_training(tmp_path):
    with pytest.raises(InputError, match=r"\[a\]/run"):
        save(tmp_path / "[a]" / "run", 1)
    assert not (tmp_path / "[a]").exists()
    name = "it's (a) {folder}, 100 % #1?"
    save(tmp_path / name, 1)
    assert checkpoint.read(tmp_path / name, "last")[1]["step"] == 1

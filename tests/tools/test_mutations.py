"""Damaged files through the commands: a short form of tools.mutations, and that it notices what goes wrong."""

import numpy as np
import pytest

from tools import mutations


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) for kind in mutations.KINDS])
def test_damaged_files_end_in_success_or_one_line(kind, tmp_path):
    assert mutations.check(kind, count=12, folder=tmp_path, seed=1) == []


def test_damage_changes_the_bytes_and_depends_on_the_seed_only():
    data = bytes(range(256)) * 4
    copies = [mutations.damaged(data, np.random.default_rng(seed)) for seed in (0, 0, 1, 2, 3)]
    assert copies[0] == copies[1] and len({data, *copies}) == 5


@pytest.mark.parametrize(
    ("behavior", "reason"),
    [
        ("raise RuntimeError('a bug')", "exit code 70"),
        ("import time; time.sleep(60)", "still running"),
        ("import os; os.abort()", "exit code -6"),
        ("import sys; sys.exit(2)", "exit code 2, 0 error lines"),
    ],
)
def test_a_command_that_takes_a_file_badly_is_noticed(behavior, reason, tmp_path, monkeypatch):
    kind = mutations.Kind(lambda folder: folder / "sound", lambda file, empty: ["x", file.read_text()])
    (tmp_path / "sound").write_text("pass")
    monkeypatch.setitem(mutations.KINDS, "text", kind)
    monkeypatch.setattr(mutations.command_line, "run", lambda name, arguments: exec(arguments[0]))
    monkeypatch.setattr(mutations, "damaged", lambda data, rng: behavior.encode())
    (failure,) = mutations.check("text", count=1, folder=tmp_path, seconds=3)
    assert failure.reason.startswith(reason) and failure.path.exists()

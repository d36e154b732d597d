"""Damaged files through the commands: a short form of tools.mutations, and that it notices what goes wrong.

It forks, which JAX's threads forbid: here it runs in processes of its own.
"""

import subprocess
import sys

import numpy as np
import pytest

from tests.support import ROOT
from tools import mutations

BADLY = """
import pathlib, sys
from tools import mutations

folder, behavior = pathlib.Path(sys.argv[1]), sys.argv[2]
(folder / "sound").write_text("pass")
mutations.KINDS["text"] = mutations.Kind(lambda folder: folder / "sound", lambda file, empty: ["x", file.read_text()])
mutations.command_line.run = lambda name, arguments: exec(arguments[0])
mutations.damaged = lambda data, rng: behavior.encode()
for failure in mutations.check("text", count=1, folder=folder, seconds=3):
    print(failure.reason, failure.path.exists())
"""


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) for kind in mutations.KINDS])
def test_damaged_files_end_in_success_or_one_line(kind, tmp_path):
    command = [
        sys.executable,
        "-m",
        "tools.mutations",
        "--kinds",
        kind,
        "--count",
        "12",
        "--seed",
        "1",
        "--out",
        tmp_path,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"{kind}: 12 damaged files, 0 failures\n", done.stdout + done.stderr


def test_damage_changes_the_bytes_and_depends_on_the_seed_only():
    data = bytes(range(256)) * 4
    copies = [mutations.damaged(data, np.random.default_rng(seed)) for seed in (0, 0, 1, 2, 3)]
    assert copies[0] == copies[1] and len({data, *copies}) == 5


@pytest.mark.parametrize(
    ("behavior", "reason"),
    [
        ("raise RuntimeError('a bug')", "exit code 70, 0 error lines True"),
        ("import time; time.sleep(60)", "still running after 3 s True"),
        ("import os; os.abort()", "exit code -6, 0 error lines True"),
        ("import sys; sys.exit(2)", "exit code 2, 0 error lines True"),
        ("pass", ""),
    ],
)
def test_a_command_that_takes_a_file_badly_is_noticed(behavior, reason, tmp_path):
    command = [sys.executable, "-c", BADLY, tmp_path, behavior]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == reason, done.stderr

"""The commands that rebuild the shipped models."""

import runpy
import subprocess
import sys

import pytest

from ferjax import __main__ as command_line
from ferjax.errors import InputError
from ferjax.train import config_files
from tools import rebuild


@pytest.mark.parametrize("name", rebuild.names())
def test_every_step_is_a_command_and_the_last_puts_the_model_into_the_package(name):
    steps = rebuild.steps(name)
    known = {command for group in command_line.COMMANDS.values() for command in group}
    made = {""}
    for step in steps[:-1]:
        words = step.command.split()
        assert words[0] == "ferjax" and words[1] in known
        if "--config" in words:
            found = config_files.find(words[words.index("--config") + 1])
            assert runpy.run_path(found.path)["get_config"](found.arguments).init.workdir in made
            made.add(words[words.index("--workdir") + 1])
    assert steps[-1].command.startswith(f"python -m tools.ship --name {name} ")
    assert sum(step.hours for step in steps) > 0


def test_a_dry_run_prints_the_commands_and_their_hours(capsys):
    rebuild.main(["resnet20", "--dry-run"])
    said = capsys.readouterr().out
    assert said.count("\n") == len(rebuild.steps("resnet20"))
    assert "h on two cores: ferjax distill --config ship/resnet20" in said


def test_the_steps_run_in_order_and_stop_at_the_first_failure(monkeypatch):
    ran = []

    def run(words, check):
        ran.append(words)
        return subprocess.CompletedProcess(words, 2 if "distill" in words else 0)

    monkeypatch.setattr(rebuild.subprocess, "run", run)
    with pytest.raises(SystemExit) as stopped:
        rebuild.main(["resnet20"])
    assert stopped.value.code == 2
    assert [words[:4] for words in ran] == [
        [sys.executable, "-m", "ferjax", "train"],
        [sys.executable, "-m", "ferjax", "distill"],
    ]
    with pytest.raises(InputError, match="resnet21"):
        rebuild.steps("resnet21")

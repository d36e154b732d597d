"""Compiled programs kept for the next start of a command."""

import os
import subprocess
import sys

import pytest

# Runs what every command runs first, then a program; prints how many programs came from the cache.
START = """
import sys
from ferjax.__main__ import keep_compiled
keep_compiled()
import jax
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None)
print(jax.jit(lambda x: x @ x.T + 1)(jax.numpy.ones((3, 2))).sum(), len(hits))
"""


@pytest.fixture
def start(tmp_path):
    """Starts a process with an empty cache folder; returns (printed result, programs from the cache)."""

    def run(**variables):
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMPILATION", "TF_CPP"))}
        environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", **variables}
        done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, env=environment)
        assert done.returncode == 0 and done.stderr == ""
        result, hits = done.stdout.split()
        assert float(result) == 27
        return int(hits)

    return run


def programs(tmp_path):
    return list(tmp_path.glob("ferjax/compiled/*/*-cache"))


def test_a_second_start_compiles_nothing(start, tmp_path):
    assert start() == 0
    kept = len(programs(tmp_path))
    assert start() == kept > 0


def test_a_damaged_program_is_compiled_again(start, tmp_path):
    start()
    kept = len(programs(tmp_path))
    for program in programs(tmp_path):
        program.write_bytes(program.read_bytes()[:100])
    assert start() == 0
    start()  # keeps the programs that ran before the damage was found
    assert start() == kept


@pytest.mark.slow
def test_a_lost_time_stamp_does_not_stop_the_cache(start, tmp_path):
    start()
    for stamp in tmp_path.glob("ferjax/compiled/*/*-atime"):
        stamp.unlink()
    start(XLA_FLAGS="--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=2")  # other programs
    start()
    assert start() > 0


@pytest.mark.parametrize(
    "variables",
    [{"JAX_ENABLE_COMPILATION_CACHE": "0"}, {"XDG_CACHE_HOME": "/dev/null/none"}, {"XDG_CACHE_HOME": "~nobody-here"}],
    ids=["off", "not a folder", "no home"],
)
def test_commands_run_without_the_cache(start, tmp_path, variables):
    assert start(**variables) == 0
    assert not programs(tmp_path)


def test_a_folder_of_the_user_keeps_its_own_settings(start, tmp_path):
    own = tmp_path / "own"
    start(JAX_COMPILATION_CACHE_DIR=str(own))
    assert not programs(tmp_path) and not list(own.glob("*-atime"))  # JAX stamps programs only below a size limit
    assert list(own.glob("*-cache"))

"""A trace of a few dispatches, and the most memory that was held."""

import types

import numpy as np
import pytest

from ferjax import devices, memory
from ferjax.train import profiling
from tests.support import tiny_runs


@pytest.fixture
def profiler(monkeypatch):
    """Notes what JAX's profiler is told."""
    calls = []
    monkeypatch.setattr(profiling.jax.profiler, "start_trace", lambda folder: calls.append(("start", folder)))
    monkeypatch.setattr(profiling.jax.profiler, "stop_trace", lambda: calls.append("stop"))
    return calls


def test_a_trace_leaves_out_the_dispatches_that_compile(tmp_path, profiler, capsys):
    trace = profiling.Trace(tmp_path, skip=3, dispatches=2)
    seen = []
    for number in range(8):
        trace.note(np.int32(number))
        seen.append(list(profiler))
    trace.close()
    assert seen[1] == [] and seen[2] == [("start", str(tmp_path))] == seen[3] and seen[4] == [*seen[3], "stop"]
    assert profiler == seen[4]
    assert f"trace of 2 dispatches: {tmp_path}" in capsys.readouterr().err


def test_a_short_run_has_a_shorter_trace_or_says_why_there_is_none(tmp_path, profiler, capsys):
    trace = profiling.Trace(tmp_path, skip=3, dispatches=5)
    for number in range(4):
        trace.note(np.int32(number))
    trace.close()
    assert profiler[-1] == "stop" and "trace of 1 dispatch:" in capsys.readouterr().err
    trace = profiling.Trace(tmp_path, skip=3, dispatches=5)
    trace.note(np.int32(0))
    trace.close()
    said = capsys.readouterr().err
    assert len(profiler) == 2 and "after 3 dispatches, the run took 1" in said


def test_no_trace_is_the_rule(tmp_path, profiler, capsys):
    tiny_runs.fit(tmp_path, epochs=1)
    assert not profiler and "trace" not in capsys.readouterr().err


def test_a_run_that_fails_closes_its_trace(tmp_path, profiler):
    def fail(history):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        tiny_runs.fit(tmp_path, profile=100, on_epoch=fail)
    assert profiler == [("start", str(tmp_path / "profile")), "stop"]


def test_memory_is_the_fullest_devices_or_on_cpus_the_processs():
    def device(peak):
        return types.SimpleNamespace(process_index=0, memory_stats=lambda: peak and {"peak_bytes_in_use": peak})

    def mesh(*peaks):
        return types.SimpleNamespace(devices=np.array([device(p) for p in peaks], object))

    assert profiling.peak_memory(mesh(10, 30, 20)) == 30
    assert profiling.peak_memory(mesh(None, None)) == memory.peak() > 1e7
    other = types.SimpleNamespace(process_index=1, memory_stats=lambda: pytest.fail("another process's device"))
    assert profiling.peak_memory(types.SimpleNamespace(devices=np.array([device(5), other], object))) == 5
    assert profiling.peak_memory(devices.mesh(1)) > 1e7

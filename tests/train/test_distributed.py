"""How processes join, what they tell each other, and what a user reads if one is missing, differs or fails."""

import json
import signal
import socket
import time

import jax
import numpy as np
import pytest

from ferjax.errors import InputError
from ferjax.train import distributed
from tests.support import joining
from tests.support.processes import end, environment, free_port, last_line, start

LONG = 200  # seconds to join, which none is meant to need


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return environment(tmp_path_factory.mktemp("processes"))


def place(number, port, count=2):
    return (f"127.0.0.1:{port}", count, number)


def ends(clean, what, *places, seconds=LONG):
    """Returns how processes ended that did the same at their places."""
    return [end(each) for each in [start(clean, "tests/support/joining.py", what, seconds, *place) for place in places]]


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        (("10.0.0.1:1234", 2, None), "--process_id is missing"),
        ((None, 2, 0), "--coordinator is missing"),
        ((None, None, 1), "--coordinator and --num_processes is missing"),
        (("10.0.0.1:1234", 2, 2), r"0\.\.1 .* got 2"),
        (("10.0.0.1:1234", 2, -1), r"0\.\.1 .* got -1"),
        (("10.0.0.1", 2, 1), r"got '10\.0\.0\.1'"),
        (("10.0.0.1:http", 2, 1), "got '10.0.0.1:http'"),
        (("host:65536", 2, 1), "got 'host:65536'"),
        ((":1234", 2, 1), "got ':1234'"),
    ],
)
def test_flags_that_are_incomplete_or_out_of_range_are_named(flags, value):
    with pytest.raises(InputError, match=value), distributed.joined(*flags):
        pytest.fail("joined")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_in_use_is_named(host):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        said = rf"{host}:{port} \(Address already in use\)"
        with pytest.raises(InputError, match=said), distributed.joined(f"{host}:{port}", 2, 0):
            pytest.fail("joined")


def test_an_address_of_another_machine_is_named():
    with pytest.raises(InputError, match=r"192\.0\.2\.1:1234 \("), distributed.joined("192.0.2.1:1234", 2, 0):
        pytest.fail("joined")


@pytest.mark.parametrize(("tasks", "flags"), [("", ()), ("1", ()), ("16", (None, 1)), ("", (None, 1, 0))])
def test_a_process_that_trains_alone_joins_nothing(tasks, flags, monkeypatch, capsys):
    if tasks:
        for name, value in slurm(0, tasks).items():
            monkeypatch.setenv(name, value)
    value, tree = {"a": (1.5,)}, {"x": np.ones(2)}
    with distributed.joined(*flags):
        assert not jax.distributed.is_initialized() and distributed.is_first()
        assert distributed.value_of_first(value) is value and distributed.arrays_of_first(tree) is tree
        assert distributed.all_or_none(lambda: value) is value
        distributed.agree("configuration", value)
        distributed.say("here")
    assert capsys.readouterr().out == "here\n"


def slurm(number, count):
    return {
        "SLURM_JOB_ID": "4097",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number),
    }


def test_processes_of_slurm_take_the_values_of_the_first_and_name_a_difference(clean):
    more = {"JAX_COORDINATOR_PORT": str(free_port())}
    both = [start(clean | more | slurm(i, 2), "tests/support/joining.py", "exchange", LONG) for i in (0, 1)]
    for number, (code, out, err) in enumerate(map(end, both)):
        assert code == 2 and "Traceback" not in err, err
        (got,) = [json.loads(line.removeprefix("got ")) for line in out.splitlines() if line.startswith("got ")]
        assert got == [number, joining.described(joining.trees(0)), joining.values(0), number]
        assert ("process 0 speaks" in out) == (number == 0)
        said = "process 1 has another configuration than process 0: fit.batch_size is 32 in process 1 and not set in"
        assert said in last_line(err)


def test_what_fails_in_one_process_is_named_in_all(clean):
    port = free_port()
    for code, _, err in ends(clean, "fail", place(0, port), place(1, port)):
        assert code == 2 and last_line(err) == "ferjax: error: process 1: nowhere: No such file or directory", err


def test_processes_that_count_differently_are_named(clean):
    port = free_port()
    for code, _, err in ends(clean, "nothing", place(0, port, 2), place(1, port, 3)):
        assert code == 2 and "num_processes is 3 in process 1 and 2 in process 0" in last_line(err), err


@pytest.mark.parametrize(("number", "said"), [(0, "not all 2 processes"), (1, "refused")])
def test_a_process_that_is_missing_is_one_line_in_time(clean, number, said):
    ((code, _, err),) = ends(clean, "nothing", place(number, free_port()), seconds=0.5)
    assert code == 2 and "within 0.5 s" in last_line(err) and said in last_line(err), err
    assert len(err.strip().splitlines()) == 1, err


def test_ctrl_c_ends_a_process_that_waits_for_the_others(clean):
    process = start(clean, "tests/support/joining.py", "nothing", LONG, *place(0, free_port()))
    assert process.stdout.readline() == "joining\n"
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    code, _, err = end(process)
    assert code == 130 and "interrupted" in last_line(err), err

"""How processes find each other, what their links carry, and what is said when one is missing, wrong or gone."""

import concurrent.futures
import contextlib
import queue
import socket
import threading
import time

import numpy as np
import pytest

from ferjax.errors import InputError
from ferjax.train import processes
from ferjax.train.processes import Place, find_place, group, links, relay, rendezvous

LONG = 60.0  # seconds; nothing waits so long that goes as it should


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def meet_all(total, *, seconds=LONG, numbers=None, totals=None, port=None):
    """Has processes, threads here, meet; returns what each got: a meeting, or an error. News land in `.news`."""
    port, numbers = port or free_port(), numbers or range(total)
    totals = totals or [total] * len(numbers)
    news = [queue.SimpleQueue() for _ in numbers]

    def one(index):
        place = Place(f"127.0.0.1:{port}", totals[index], numbers[index])
        try:
            return rendezvous.meet(place, seconds=seconds, on_lost=news[index].put)
        except InputError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(one, range(len(numbers)))), news


@pytest.fixture
def three():
    meetings, news = meet_all(3)
    found = [m.links for m in meetings]
    yield found, news
    for each in found:
        each.close()


def together(calls):
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(LONG) for future in [pool.submit(call) for call in calls]]


def test_they_meet_and_know_one_free_port():
    meetings, _ = meet_all(3)
    assert [(m.links.number, m.links.count) for m in meetings] == [(0, 3), (1, 3), (2, 3)]
    (port,) = {m.port for m in meetings}
    socket.create_server(("127.0.0.1", port)).close()
    for meeting in meetings:
        meeting.links.close()


def test_links_carry_what_all_say_and_what_the_first_says(three):
    found, _ = three
    for turn in range(3):
        said = [f"{turn}{link.number}".encode() * 100_000 for link in found]
        assert together([lambda a=a, b=b: a.gather(b) for a, b in zip(found, said, strict=True)]) == [said] * 3
        heard = together([lambda a=a, b=b: a.from_first(b) for a, b in zip(found, said, strict=True)])
        assert heard == [said[0]] * 3


def test_last_words_reach_everyone_through_the_first(three):
    found, news = three
    found[2].close("process 2 of 3 stopped: no such file")
    assert [news[i].get(timeout=LONG) for i in (0, 1)] == ["process 2 of 3 stopped: no such file"] * 2


@pytest.mark.parametrize(("killed", "others"), [(2, (0, 1)), (0, (1, 2))])
def test_a_link_that_breaks_is_news_to_everyone(three, killed, others):
    found, news = three
    found[killed]._closed = True  # a process that was killed hears of no other link, and says nothing
    for sock in found[killed]._peers.values():
        sock.shutdown(socket.SHUT_RDWR)  # as the kernel does
    words = f"process {killed} of 3 was killed or cannot be reached any more"
    assert [news[i].get(timeout=LONG) for i in others] == [words] * 2


def test_a_quiet_end_is_no_news(three):
    found, news = three
    for each in found:
        each.close()
    time.sleep(0.2)
    assert all(each.empty() for each in news)


def test_a_silent_link_is_tried():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sock:
        links.keep_alive(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_process_that_does_not_come_is_named_to_all_who_have():
    results, _ = meet_all(3, seconds=0.5, numbers=(0, 2))
    assert all(
        "process 1 of 3 did not come to 127.0.0.1:" in str(r) and "within 0.5 s: start all" in str(r) for r in results
    )


def test_processes_that_contradict_each_other_are_named_to_all():
    results, _ = meet_all(2, totals=(2, 3))
    said = "process 1 was started as one of 3 processes, process 0 as one of 2: give all the same --num_processes"
    assert [str(r) for r in results] == [said] * 2
    results, _ = meet_all(3, numbers=(0, 1, 1))
    assert [str(r) for r in results] == ["two processes say they are number 1: number them apart"] * 3


def test_a_coordinator_that_cannot_be_reached_is_said_in_time():
    port = free_port()
    with pytest.raises(InputError, match=rf"coordinator 127\.0\.0\.1:{port} cannot be reached: .*, for 0\.3 s"):
        rendezvous.meet(Place(f"127.0.0.1:{port}", 2, 1), seconds=0.3, on_lost=print)


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(InputError, match=rf"cannot answer at port {port} \(Address already in use\): choose"):
            rendezvous.meet(Place(f"127.0.0.1:{port}", 2, 0), seconds=LONG, on_lost=print)


def test_a_first_process_that_stops_is_said_to_who_calls():
    with socket.create_server(("127.0.0.1", 0)) as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        place = Place(f"127.0.0.1:{server.getsockname()[1]}", 2, 1)
        calling = pool.submit(rendezvous.meet, place, seconds=LONG, on_lost=print)
        server.accept()[0].close()
        with pytest.raises(InputError, match=r"did not let this process in .* was it stopped"):
            calling.result(LONG)


@pytest.mark.parametrize("rubbish", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 8 + b"\2[]", b""])
def test_a_stranger_is_sent_away(rubbish):
    port = free_port()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(rendezvous.meet, Place(f"127.0.0.1:{port}", 2, 0), seconds=LONG, on_lost=print)
        stranger = rendezvous._connect(Place(f"127.0.0.1:{port}", 2, 1), LONG)
        with stranger:
            stranger.sendall(rubbish)
            with contextlib.suppress(ConnectionError):
                with contextlib.suppress(OSError):  # who is already sent away cannot end the connection
                    stranger.shutdown(socket.SHUT_WR)
                assert stranger.recv(1) == b""
        second = rendezvous.meet(Place(f"127.0.0.1:{port}", 2, 1), seconds=LONG, on_lost=print)
        for meeting in (first.result(LONG), second):
            meeting.links.close()


def test_a_relay_carries_both_ways_and_stays_open_when_the_other_end_is_gone():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = relay.relay("127.0.0.1", server.getsockname()[1])
        with socket.create_connection(("127.0.0.1", port), timeout=LONG) as near:
            far, _ = server.accept()
            with far:
                near.sendall(b"ping")
                assert far.recv(4) == b"ping"
                far.sendall(b"pong")
                assert near.recv(4) == b"pong"
            near.settimeout(0.3)
            with pytest.raises(TimeoutError):
                near.recv(1)


def test_who_is_alone_needs_no_link(capsys):
    value, tree = {"a": 1.5}, {"x": np.ones(2)}
    assert processes.is_first() and processes.value_of_first(value) is value
    assert processes.arrays_of_first(tree) is tree
    processes.agree("configuration", value)
    with processes.joined(None):
        processes.say("here")
    assert capsys.readouterr().out == "here\n"


@pytest.fixture
def in_turn(three, monkeypatch):
    """Calls a function of `ferjax.train.processes` as each of three processes; returns what it returned, or raised."""
    found, _ = three

    local = threading.local()  # a process has one group; here each thread has its own
    monkeypatch.setattr(group, "_find_links", lambda: local.links)

    def as_process(number, function, argument):
        local.links = found[number]
        try:
            return function(argument)
        except InputError as error:
            return str(error)

    def call(function, *arguments):
        return together([lambda n=n: as_process(n, function, arguments[n]) for n in range(3)])

    return call


def test_all_get_the_value_and_the_arrays_of_the_first(in_turn):
    rows = [{"loss": 0.1 + n, "name": "ä"} for n in range(3)]
    assert in_turn(processes.value_of_first, *rows) == [rows[0]] * 3
    trees = [
        {"w": np.full((2, 3), n + 0.1), "none": np.zeros((0, 2)), "step": np.int32(n), "mask": np.array([n == 0])}
        for n in range(3)
    ]
    for tree in in_turn(processes.arrays_of_first, *trees):
        assert {k: (v.dtype, v.tolist()) for k, v in tree.items()} == {
            k: (v.dtype, v.tolist()) for k, v in trees[0].items()
        }


def test_values_that_agree_pass_and_the_first_difference_is_named(in_turn):
    same = {"fit": {"epochs": 3, "batch_size": 64}}
    assert in_turn(lambda v: processes.agree("configuration", v), same, same, same) == [None] * 3
    other = {"fit": {"epochs": 3, "batch_size": 32}}
    said = in_turn(lambda v: processes.agree("configuration", v), same, same, other)
    assert len(set(said)) == 1 and "process 2 has another configuration than process 0 (hashes " in said[0]
    assert "fit.batch_size is 32 there and 64 here: start all processes with the same command" in said[0]
    missing = in_turn(lambda v: processes.agree("configuration", v), same, {"fit": {"epochs": 3}}, same)
    assert "process 1" in missing[0] and "fit.batch_size is not set there and 64 here" in missing[0]


@pytest.fixture
def no_cluster(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_flags_name_a_place(no_cluster):
    assert find_place() is None
    place = find_place("10.0.0.1:1234", 4, 3)
    assert place == Place("10.0.0.1:1234", 4, 3) and (place.host, place.port) == ("10.0.0.1", 1234)
    assert find_place("[fe80::1]:1234", 2, 0).host == "fe80::1"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("10.0.0.1:1234", 2, None), "--process_id is missing: several processes need --coordinator HOST:PORT"),
        ((None, 2, 0), "--coordinator is missing"),
        ((None, None, 1), "--coordinator and --num_processes is missing"),
        (("10.0.0.1:1234", 2, 2), "less than --num_processes 2, got 2"),
        (("10.0.0.1:1234", 2, -1), "counted from 0 .* got -1"),
        (("10.0.0.1", 2, 0), r"HOST:PORT of process 0, such as 10\.0\.0\.1:12345, got '10\.0\.0\.1'"),
        (("10.0.0.1:http", 2, 0), "got '10.0.0.1:http'"),
        (("host:65536", 2, 0), "got 'host:65536'"),
        ((":1234", 2, 0), "got ':1234'"),
    ],
)
def test_flags_that_make_no_sense_are_named(no_cluster, flags, said):
    with pytest.raises(InputError, match=said):
        find_place(*flags)


def slurm(monkeypatch, **more):
    values = {
        "SLURM_JOB_ID": "4097",
        "SLURM_STEP_NODELIST": "gpu[07-09,12]",
        "SLURM_NTASKS": "16",
        "SLURM_PROCID": "6",
        "SLURM_LOCALID": "2",
        "SLURM_STEP_TASKS_PER_NODE": "4(x4)",
        **more,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_slurm_names_a_place(no_cluster):
    slurm(no_cluster)
    assert find_place() == Place("gpu07:61441", 16, 6, (2,))
    no_cluster.setenv("JAX_COORDINATOR_PORT", "7000")
    assert find_place().port == 7000
    no_cluster.setenv("CUDA_VISIBLE_DEVICES", "2")  # --gpus-per-task=1: each task sees its own alone
    assert find_place().devices is None
    no_cluster.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert find_place().devices == (2,)
    slurm(no_cluster, SLURM_STEP_TASKS_PER_NODE="1(x4)", SLURM_NTASKS="4", SLURM_PROCID="3", SLURM_LOCALID="0")
    assert find_place() == Place("gpu07:7000", 4, 3, None)


def test_one_task_of_slurm_is_alone_and_several_can_be(no_cluster):
    slurm(no_cluster, SLURM_NTASKS="1", SLURM_PROCID="0")
    assert find_place() is None
    slurm(no_cluster)
    assert find_place(None, 1) is None


def test_a_tpu_pod_names_a_place(no_cluster):
    from jax._src.clusters import cloud_tpu_cluster

    no_cluster.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    for name, value in {
        "TPU_WORKER_HOSTNAMES": "localhost,worker1",
        "TPU_WORKER_ID": "1",
        "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
        "MEGASCALE_NUM_SLICES": "1",
        "MEGASCALE_SLICE_ID": "0",
    }.items():
        no_cluster.setenv(name, value)
    place = find_place(seconds=1)
    assert (place.host, place.total, place.number, place.devices) == ("localhost", 2, 1, None)

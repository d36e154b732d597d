"""How the processes of a run meet: process 0 answers at the coordinator's address, and the others call there."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, NoReturn

from ferjax.errors import InputError
from ferjax.train.processes.links import DATA, PATIENCE, Links, is_local, keep_alive, receive, send, serve
from ferjax.train.processes.place import Place


class Meeting(NamedTuple):
    """What a process takes away: its links, and a free port of process 0's machine, known to all."""

    links: Links
    port: int


def meet(place: Place, *, seconds: float, on_lost: Callable[[str], None]) -> Meeting:
    """Waits until all processes are there.

    Args:
      place: of this process.
      seconds: to wait.
      on_lost: see `Links`.

    Raises:
      InputError: if process 0 cannot be reached or its port is taken, a process does not come in time, or two of them
        contradict each other; in every process that has come.
    """
    return (_call if place.number else _answer)(place, seconds, on_lost)


def _answer(place: Place, seconds: float, on_lost: Callable[[str], None]) -> Meeting:
    local, until = is_local(place.host), time.monotonic() + seconds
    try:
        server = serve(place.port, local=local)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise InputError(f"process 0 cannot answer at port {place.port} ({reason}): choose another for all") from error
    peers: dict[int, socket.socket] = {}
    with server:
        while len(peers) < place.total - 1:
            missing = sorted(set(range(1, place.total)) - set(peers))
            try:
                server.settimeout(max(0.01, until - time.monotonic()))
                sock, _ = server.accept()
            except TimeoutError:
                names = ", ".join(map(str, missing))
                _refuse(
                    peers.values(),
                    f"process {names} of {place.total} did not come to {place.coordinator} within {seconds:g} s: start "
                    "all of them, with the same coordinator",
                )
            caller = _hello(sock)
            if caller is None:
                sock.close()
                continue
            number, count = caller
            everyone = [*peers.values(), sock]
            if count != place.total:
                _refuse(
                    everyone,
                    f"process {number} was started as one of {count} processes, process 0 as one of {place.total}: "
                    "give all the same --num_processes",
                )
            if number not in missing:
                _refuse(everyone, f"two processes say they are number {number}: number them apart")
            peers[number] = sock
        with serve(0, local=local) as free:
            port = int(free.getsockname()[1])
    for sock in peers.values():
        send(sock, DATA, json.dumps({"port": port}).encode())
    return Meeting(Links(0, place.total, peers, on_lost), port)


def _call(place: Place, seconds: float, on_lost: Callable[[str], None]) -> Meeting:
    until = time.monotonic() + seconds
    sock = _connect(place, seconds)
    try:
        keep_alive(sock)
        sock.settimeout(max(0.1, until - time.monotonic()) + PATIENCE)  # process 0 says first who is missing
        send(sock, DATA, json.dumps({"number": place.number, "count": place.total}).encode())
        told = json.loads(receive(sock)[1])
    except (OSError, ValueError) as error:
        sock.close()
        raise InputError(
            f"process 0 at {place.coordinator} did not let this process in ({error}): was it stopped?"
        ) from error
    if "refused" in told:
        sock.close()
        raise InputError(told["refused"])
    return Meeting(Links(place.number, place.total, {0: sock}, on_lost), int(told["port"]))


def _connect(place: Place, seconds: float) -> socket.socket:
    until = time.monotonic() + seconds
    while True:
        left = max(0.1, min(PATIENCE, until - time.monotonic()))
        try:
            sock = socket.create_connection((place.host, place.port), timeout=left)
            if sock.getsockname() != sock.getpeername():  # on one machine a socket may happen to reach itself
                return sock
            sock.close()
        except OSError as error:
            if time.monotonic() > until:
                reason = error.strerror or str(error)
                raise InputError(
                    f"the coordinator {place.coordinator} cannot be reached: {reason}, for {seconds:g} s. Is process 0 "
                    "running there, with the same address, and does no firewall stand between?"
                ) from error
        time.sleep(0.2)


def _hello(sock: socket.socket) -> tuple[int, int] | None:
    """Returns a caller's number and what it thinks is the count; None for a stranger."""
    keep_alive(sock)
    sock.settimeout(PATIENCE)
    try:
        told = json.loads(receive(sock, most=1 << 12)[1])
        return int(told["number"]), int(told["count"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _refuse(callers: Iterable[socket.socket], reason: str) -> NoReturn:
    for sock in callers:
        with sock:
            try:
                send(sock, DATA, json.dumps({"refused": reason}).encode())
            except OSError:
                continue  # it has gone by itself
    raise InputError(reason)

"""A line between the processes of a run, over TCP: process 0 answers, the others call, and a line that breaks is news.

    frame = kind (1 byte), length (8 bytes, big-endian), payload

It carries the roll-call, what process 0 decides for all, and last words; the arrays of training go their own ways. It
needs neither JAX nor numpy. A process that was killed breaks its line at once, a machine that lost its power or its
cable within a minute (TCP's keep-alive).
"""

import contextlib
import json
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

from ferjax.cli import InputError

_DATA, _FAREWELL = 0, 1
_HEADER = struct.Struct(">BQ")
_PATIENCE = 5.0  # seconds for a stranger to say who it is
_KEEP_ALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}


class Line:
    """The ends of the lines that one process holds: all of them in process 0, the one to process 0 in the others."""

    def __init__(self, number: int, count: int, peers: Mapping[int, socket.socket], on_lost: Callable[[str], None]):
        """Starts to listen.

        Args:
          number: of this process.
          count: of the processes.
          peers: connected sockets by the number of the process at the other end.
          on_lost: called, in a thread, with a sentence about a process that has died or stopped.
        """
        self.number, self.count, self._peers, self._on_lost = number, count, dict(peers), on_lost
        self._inbox: dict[int, queue.SimpleQueue[bytes]] = {peer: queue.SimpleQueue() for peer in peers}
        self._closed, self._sending = False, threading.Lock()
        for peer, sock in self._peers.items():
            sock.settimeout(None)
            threading.Thread(target=self._listen, args=(peer, sock), daemon=True).start()

    def gather(self, payload: bytes) -> list[bytes]:
        """Returns what every process has given, by its number; each calls it as often as the others."""
        if self.number:
            self._tell(_DATA, payload)
            return [self._inbox[0].get() for _ in range(self.count)]
        parts = [payload, *(self._inbox[peer].get() for peer in range(1, self.count))]
        self._tell(_DATA, *parts)
        return parts

    def from_first(self, payload: bytes) -> bytes:
        """Returns what process 0 has given; each calls it as often as the others."""
        if self.number:
            return self._inbox[0].get()
        self._tell(_DATA, payload)
        return payload

    def close(self, last_words: str = "") -> None:
        """Hangs up; last words, if any, end the other processes with them."""
        self._closed = True
        self._tell(_FAREWELL, last_words.encode())

    def _tell(self, kind: int, *payloads: bytes) -> None:
        """Sends to everyone at the other ends; of those who have gone the listener knows."""
        waited = self._sending.acquire(timeout=_PATIENCE)  # last words do not wait for ever
        try:
            for sock in self._peers.values():
                with contextlib.suppress(OSError):
                    for payload in payloads:
                        _send(sock, kind, payload)
        finally:
            if waited:
                self._sending.release()

    def _listen(self, peer: int, sock: socket.socket) -> None:
        try:
            while True:
                kind, payload = _receive(sock)
                if kind == _FAREWELL:
                    break
                self._inbox[peer].put(payload)
        except OSError:
            news = f"process {peer} of {self.count} was killed or cannot be reached any more"
        else:
            news = payload.decode()
        if news and not self._closed:
            if not self.number:
                self.close(news)  # the others have no line to that process
            self._on_lost(news)


def answer(host: str, port: int, *, count: int, seconds: float, on_lost: Callable[[str], None]) -> tuple[Line, int]:
    """Waits, as process 0, until all the others have called.

    Args:
      host: of the coordinator's address; on the loopback, only this machine can call.
      port: to answer at.
      count: of the processes.
      seconds: to wait.
      on_lost: see `Line`.

    Returns:
      The line, and a free port that every process has been told of.

    Raises:
      InputError: if the port is taken, a process does not come in time, or two of them contradict each other.
    """
    local, until = is_local(host), time.monotonic() + seconds
    try:
        server = _serve(port, local=local)
    except OSError as error:
        raise InputError(
            f"process 0 cannot answer at port {port} ({error.strerror}): choose another for all"
        ) from error
    peers: dict[int, socket.socket] = {}
    with server:
        while len(peers) < count - 1:
            missing = sorted(set(range(1, count)) - set(peers))
            try:
                server.settimeout(max(0.01, until - time.monotonic()))
                sock, _ = server.accept()
            except TimeoutError:
                names = ", ".join(map(str, missing))
                _refuse(
                    peers.values(),
                    f"process {names} of {count} did not come to {host}:{port} within {seconds:g} s: start all of "
                    "them, with the same coordinator",
                )
            caller = _hello(sock)
            if caller is None:
                sock.close()
                continue
            peers_and_caller = [*peers.values(), sock]
            if caller["count"] != count:
                _refuse(
                    peers_and_caller,
                    f"process {caller['number']} was started as one of {caller['count']} processes, process 0 as one "
                    f"of {count}: give all the same --num_processes",
                )
            if caller["number"] not in missing:
                _refuse(peers_and_caller, f"two processes say they are number {caller['number']}: number them apart")
            peers[caller["number"]] = sock
        with _serve(0, local=local) as free:
            service = int(free.getsockname()[1])
    for sock in peers.values():
        _send(sock, _DATA, json.dumps({"service": service}).encode())
    return Line(0, count, peers, on_lost), service


def call(
    host: str, port: int, *, number: int, count: int, seconds: float, on_lost: Callable[[str], None]
) -> tuple[Line, int]:
    """Calls process 0; see `answer`.

    Raises:
      InputError: if it cannot be reached in time, or refuses.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            sock = socket.create_connection((host, port), timeout=max(0.1, min(_PATIENCE, until - time.monotonic())))
            if sock.getsockname() != sock.getpeername():  # on one machine a socket may happen to reach itself
                break
            sock.close()
        except OSError as error:
            if time.monotonic() > until:
                reason = error.strerror or str(error)
                raise InputError(
                    f"the coordinator {host}:{port} cannot be reached: {reason}, for {seconds:g} s. Is process 0 "
                    "running there, with the same address, and does no firewall stand between?"
                ) from error
        time.sleep(0.2)
    _keep_alive(sock)
    sock.settimeout(max(0.1, until - time.monotonic()) + _PATIENCE)  # process 0 says first who is missing
    try:
        _send(sock, _DATA, json.dumps({"number": number, "count": count}).encode())
        told = json.loads(_receive(sock)[1])
    except (OSError, ValueError) as error:
        raise InputError(
            f"process 0 at {host}:{port} did not let this process in ({error}): was it stopped?"
        ) from error
    if "refused" in told:
        raise InputError(told["refused"])
    return Line(number, count, {0: sock}, on_lost), int(told["service"])


def tunnel(host: str, port: int) -> int:
    """Carries connections from a port of this machine to another's, and keeps them open here when that one is gone.

    Returns:
      The port to connect to, on the loopback.
    """
    server = _serve(0, local=True)
    threading.Thread(target=_carry_all, args=(server, host, port), daemon=True).start()
    return int(server.getsockname()[1])


def _carry_all(server: socket.socket, host: str, port: int) -> None:
    while True:
        near, _ = server.accept()
        try:
            far = socket.create_connection((host, port), timeout=_PATIENCE)
        except OSError:
            near.close()  # not there yet: whoever calls tries again
            continue
        far.settimeout(None)
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=_carry, args=(source, sink), daemon=True).start()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)


def _serve(port: int, *, local: bool) -> socket.socket:
    """Returns a listening socket, reachable from this machine only or by every network."""
    if local or not socket.has_dualstack_ipv6():
        return socket.create_server(("127.0.0.1" if local else "", port))
    return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)


def is_local(host: str) -> bool:
    """Returns whether a host is this machine, by the names that only it can reach."""
    return host in ("localhost", "127.0.0.1")


def _hello(sock: socket.socket) -> dict[str, int] | None:
    """Returns what a caller says of itself; None for a stranger."""
    _keep_alive(sock)
    sock.settimeout(_PATIENCE)
    try:
        told = json.loads(_receive(sock, most=1 << 12)[1])
        return {key: int(told[key]) for key in ("number", "count")}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _refuse(peers: Iterable[socket.socket], reason: str) -> NoReturn:
    for sock in peers:
        with contextlib.suppress(OSError):
            _send(sock, _DATA, json.dumps({"refused": reason}).encode())
    raise InputError(reason)


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):  # Linux
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(sock: socket.socket, kind: int, payload: bytes) -> None:
    sock.sendall(_HEADER.pack(kind, len(payload)) + payload)


def _receive(sock: socket.socket, most: int = 1 << 40) -> tuple[int, bytes]:
    kind, length = _HEADER.unpack(_exactly(sock, _HEADER.size))
    if length > most:
        raise OSError("no frame of ours")
    return kind, _exactly(sock, length)


def _exactly(sock: socket.socket, length: int) -> bytes:
    parts = []
    while length:
        part = sock.recv(min(length, 1 << 20))
        if not part:
            raise ConnectionError("the line was cut")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)

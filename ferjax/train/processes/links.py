"""The links between processes, over TCP: process 0 has one to each of the others, and a link that breaks is news.

    frame = kind (1 byte), length (8 bytes, big-endian), payload

They carry what process 0 decides for all, comparisons, and last words; the arrays of training go their own ways. They
need neither JAX nor numpy. A process that was killed breaks its link at once, a machine that lost its power or its
cable within a minute (TCP's keep-alive).
"""

import contextlib
import queue
import socket
import struct
import threading
from collections.abc import Callable, Mapping

DATA, FAREWELL = 0, 1
PATIENCE = 5.0  # seconds for what should come at once
_HEADER = struct.Struct(">BQ")
_KEEP_ALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}


class Links:
    """The ends of the links that one process holds: all of them in process 0, the one to process 0 in the others."""

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
            self._tell(DATA, payload)
            return [self._inbox[0].get() for _ in range(self.count)]
        parts = [payload, *(self._inbox[peer].get() for peer in range(1, self.count))]
        self._tell(DATA, *parts)
        return parts

    def from_first(self, payload: bytes) -> bytes:
        """Returns what process 0 has given; each calls it as often as the others."""
        if self.number:
            return self._inbox[0].get()
        self._tell(DATA, payload)
        return payload

    def close(self, last_words: str = "") -> None:
        """Ends the links; last words, if any, are news to the other processes."""
        self._closed = True
        self._tell(FAREWELL, last_words.encode())
        for sock in self._peers.values():
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)

    def _tell(self, kind: int, *payloads: bytes) -> None:
        """Sends to everyone at the other ends; of those who have gone the listener knows."""
        free = self._sending.acquire(timeout=PATIENCE)  # last words do not wait for ever
        try:
            for sock in self._peers.values():
                with contextlib.suppress(OSError):
                    for payload in payloads:
                        send(sock, kind, payload)
        finally:
            if free:
                self._sending.release()

    def _listen(self, peer: int, sock: socket.socket) -> None:
        try:
            with sock:
                while (frame := receive(sock))[0] == DATA:
                    self._inbox[peer].put(frame[1])
        except OSError:
            news = f"process {peer} of {self.count} was killed or cannot be reached any more"
        else:
            news = frame[1].decode()
        if news and not self._closed:
            if not self.number:
                self.close(news)  # the others have no link to that process
            self._on_lost(news)


def send(sock: socket.socket, kind: int, payload: bytes) -> None:
    """Sends one frame."""
    sock.sendall(_HEADER.pack(kind, len(payload)) + payload)


def receive(sock: socket.socket, most: int = 1 << 40) -> tuple[int, bytes]:
    """Returns the kind and the payload of the next frame.

    Raises:
      OSError: if the link is cut, or the frame is longer than `most` bytes.
    """
    kind, length = _HEADER.unpack(_exactly(sock, _HEADER.size))
    if length > most:
        raise OSError("this is no frame")
    return kind, _exactly(sock, length)


def keep_alive(sock: socket.socket) -> None:
    """Has a silent link be tried, so that one to a machine without power breaks."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):  # Linux
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def serve(port: int, *, local: bool) -> socket.socket:
    """Returns a listening socket, reachable from this machine only or by every network; port 0 takes a free one."""
    if local or not socket.has_dualstack_ipv6():
        return socket.create_server(("127.0.0.1" if local else "", port))
    return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)


def is_local(host: str) -> bool:
    """Returns whether a host is this machine, by the names that only it can reach."""
    return host in ("localhost", "127.0.0.1")


def _exactly(sock: socket.socket, length: int) -> bytes:
    parts = []
    while length:
        part = sock.recv(min(length, 1 << 20))
        if not part:
            raise ConnectionError("the link was cut")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)

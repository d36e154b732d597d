"""A way to JAX's coordination service that stays open here when the service is gone.

JAX's client ends its process with a stack trace (`LOG(FATAL)`, exit code 134) as soon as its connection to the service
breaks, before Python can say a word; its callback for that cannot be written in Python (jax 0.10: `std::bad_cast`).
Through a relay in its own process it notices nothing until a heartbeat is missed, and by then our links have spoken.
"""

import contextlib
import socket
import threading

from ferjax.train.processes.links import PATIENCE, serve


def relay(host: str, port: int) -> int:
    """Carries connections from a port of this machine's loopback to another's.

    Returns:
      The port to connect to.
    """
    server = serve(0, local=True)
    threading.Thread(target=_carry_all, args=(server, host, port), daemon=True).start()
    return int(server.getsockname()[1])


def _carry_all(server: socket.socket, host: str, port: int) -> None:
    while True:
        near, _ = server.accept()
        try:
            far = socket.create_connection((host, port), timeout=PATIENCE)
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

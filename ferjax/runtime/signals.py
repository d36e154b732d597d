"""Handles signals, so that a command ends in order."""

import contextlib
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def handled(stop: Callable[[], object], **others: Callable[[], object]) -> Iterator[None]:
    """Calls `stop` on SIGINT (Ctrl-C), SIGTERM and SIGHUP, and another function on the signal of its name.

    A signal that the system lacks is left out, and SIGHUP if it is ignored, as under nohup.
    """
    before = {}
    for name, action in {"SIGINT": stop, "SIGTERM": stop, "SIGHUP": stop, **others}.items():
        number = getattr(signal, name, None)
        if number is not None and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
            before[number] = signal.signal(number, lambda *_, action=action: action())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

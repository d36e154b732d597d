"""Computes the items of a generator in another thread, ahead of their use."""

import contextlib
import queue
import threading
from collections.abc import Callable, Generator
from typing import NamedTuple, TypeVar

from ferjax.runtime.sources.frame import JOIN_SECONDS, POLL_SECONDS

_ITEMS = 2  # enough for uneven work, and each one holds a frame
T = TypeVar("T")


class _End(NamedTuple):
    """Marks the end of the items; `error` is the one that ended the generator, or None."""

    error: BaseException | None


def ahead(
    items: Generator[T], *, stop: threading.Event | None = None, on_wait: Callable[[], object] = lambda: None
) -> Generator[T]:
    """Yields the items of a generator in their order, while a thread computes the next two.

    Args:
      items: runs in the thread, which closes it in the end.
      stop: ends the iteration before the next item; a computation that then takes longer than `JOIN_SECONDS` continues
        in its thread.
      on_wait: called every `POLL_SECONDS` while no item is ready.
    """
    stop = stop or threading.Event()
    ready: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    free, closed = threading.Semaphore(_ITEMS - 1), threading.Event()

    def compute() -> None:
        error = None
        try:
            with contextlib.closing(items):
                for item in items:
                    ready.put(item)
                    free.acquire()
                    if closed.is_set():
                        break
        except BaseException as raised:
            error = raised
        ready.put(_End(error))

    thread = threading.Thread(target=compute, daemon=True)
    thread.start()
    try:
        while not stop.is_set():
            try:
                item = ready.get(timeout=POLL_SECONDS)
            except queue.Empty:
                on_wait()
                continue
            if isinstance(item, _End):
                if item.error:
                    raise item.error
                return
            free.release()
            yield item
    finally:
        closed.set()
        free.release()
        thread.join(JOIN_SECONDS)  # the process aborts if OpenCV returns while the interpreter shuts down

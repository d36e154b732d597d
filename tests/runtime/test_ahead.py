"""Items that a thread computes ahead of their use."""

import itertools
import threading

import pytest

from ferjax.runtime.ahead import ahead


def counted(events, *, end=None):
    """Yields numbers and records in `events` each one that is computed, and the end of the generator."""
    try:
        for i in itertools.count() if end is None else range(end):
            events.append(i)
            yield i
    finally:
        events.append("closed")


def test_items_keep_their_order_and_come_from_another_thread():
    events = []
    threads = (threading.get_ident() for _ in range(3))
    assert list(ahead(counted(events, end=50))) == list(range(50)) and events == [*range(50), "closed"]
    assert threading.get_ident() not in set(ahead(threads))


def test_the_thread_is_two_items_ahead_and_no_more():
    computed = threading.Semaphore(0)

    def items():
        for i in itertools.count():
            computed.release()
            yield i

    results = ahead(items())
    next(results)
    assert all(computed.acquire(timeout=5) for _ in range(3)) and not computed.acquire(timeout=0.1)
    next(results)
    assert computed.acquire(timeout=5) and not computed.acquire(timeout=0.1)
    results.close()


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        raise ValueError("the second one")

    results = ahead(items())
    assert next(results) == 1
    with pytest.raises(ValueError, match="the second one"):
        next(results)


def test_closing_closes_the_whole_chain():
    first, second = [], []

    def doubled(items):
        for i in items:
            second.append(i)
            yield 2 * i

    results = ahead(doubled(ahead(counted(first))))
    assert [next(results) for _ in range(3)] == [0, 2, 4]
    results.close()
    del results
    assert first[-1] == "closed" and len(first) < 9 and len(second) < 7


def test_a_computation_that_blocks_leaves_the_caller_free():
    release, stop, waits = threading.Event(), threading.Event(), []

    def items():
        yield 1
        release.wait(20)

    def on_wait():
        waits.append(threading.get_ident())
        stop.set()

    assert list(ahead(items(), stop=stop, on_wait=on_wait)) == [1]
    assert waits == [threading.get_ident()]
    release.set()

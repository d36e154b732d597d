"""Hands the newest result of the live loop to any number of viewers."""

import asyncio
import collections
import contextlib
import math
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np

from ferjax.runtime.result import Result

STALL_SECONDS = 10.0  # a camera without a frame for this time is reported as stalled
_TICK = 1.0  # seconds without a result after which streams send something, which detects viewers who left
_ENCODINGS = {".jpg": (cv2.IMWRITE_JPEG_QUALITY, 80), ".png": ()}


class Shown(NamedTuple):
    """A result, its number from 1, and its arrival (`time.monotonic`)."""

    number: int
    result: Result
    at: float


class Hub:
    """Hands the newest result to the viewers; a slow viewer misses results.

    The live loop calls `publish` and `close` from its thread; the rest runs in the event loop.

    Attributes:
      newest: the newest result, None before the first one.
      viewers: number of open streams.
      closed: whether the live loop has ended.
      ended: the same to wait for.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, stills: bool):
        self.newest: Shown | None = None
        self.viewers, self.closed = 0, False
        self._loop, self._patience = loop, math.inf if stills else STALL_SECONDS
        self._news, self.ended = asyncio.Event(), asyncio.Event()
        self._times = collections.deque[float](maxlen=31)
        self._encoded: dict[str, tuple[Shown, bytes]] = {}
        self._encoders = {kind: asyncio.Lock() for kind in _ENCODINGS}

    def publish(self, result: Result) -> None:
        """Makes a result the newest one, in microseconds. Its image must not change afterwards."""
        now = time.monotonic()
        self._times.append(now)
        self.newest = Shown(self.newest.number + 1 if self.newest else 1, result, now)
        if self.viewers:
            self._loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """Ends the streams, after they have sent the newest result."""

        def end() -> None:
            self.closed = True
            self.ended.set()
            self._wake()

        self._loop.call_soon_threadsafe(end)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    @contextlib.contextmanager
    def viewing(self) -> Iterator[None]:
        """Counts a stream as long as it is open."""
        self.viewers += 1
        try:
            yield
        finally:
            self.viewers -= 1

    async def results(self) -> AsyncIterator[Shown | None]:
        """Yields the newest result whenever there is a new one, and None after each second without; ends with the loop.

        Results that arrive while the caller is busy are skipped.
        """
        seen = 0
        while True:
            if self.newest is not None and self.newest.number > seen:
                seen = self.newest.number
                yield self.newest
            elif self.closed:
                return
            else:
                try:
                    await asyncio.wait_for(self._news.wait(), _TICK)
                except TimeoutError:
                    yield None

    async def encoded(self, kind: str, least: Shown) -> tuple[Shown, bytes]:
        """Returns this result or a newer one, and its image as ".jpg" or ".png".

        Each is encoded once for all viewers, in a thread of its own.
        """
        async with self._encoders[kind]:
            if kind not in self._encoded or self._encoded[kind][0].number < least.number:
                newest = self.newest or least
                image = newest.result.frame.image
                self._encoded[kind] = newest, await self._loop.run_in_executor(None, _encode, kind, image)
            return self._encoded[kind]

    def health(self) -> dict[str, Any]:
        """Returns the state of the live loop, for JSON."""
        shown, times = self.newest, self._times
        age = time.monotonic() - shown.at if shown else None
        seconds = times[-1] - times[0] if len(times) > 1 else 0.0
        return {
            "status": "ok" if age is not None and age <= self._patience else "no frame",
            "frames": shown.number if shown else 0,
            "fps": round((len(times) - 1) / seconds, 2) if seconds else 0.0,
            "seconds_since_frame": None if age is None else round(age, 3),
            "dropped": shown.result.frame.dropped if shown else 0,
            "faces": len(shown.result.faces) if shown else 0,
            "viewers": self.viewers,
        }


def _encode(kind: str, image: np.ndarray) -> bytes:
    return cv2.imencode(kind, image, _ENCODINGS[kind])[1].tobytes()

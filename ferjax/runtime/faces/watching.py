"""Finding and following everybody in a live picture at a cost that does not grow with its resolution.

Near a known face the detector searches a small region, reduced so that the face is as small as it can see.
New faces are looked for in the whole frame, a piece at a time: one round takes `search_seconds`.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ferjax.runtime.faces.boxes import Box, Face, check_frame
from ferjax.runtime.faces.detector import Detector
from ferjax.runtime.faces.tracking import Track, Tracker, distinct


class _Piece(NamedTuple):
    """One piece of the search for new faces, in the frame's pixels."""

    region: Box
    least: float
    most: float


class Watcher:
    """Follows faces through a video: `update(frame, time)` returns everybody in the frame."""

    def __init__(self, detector: Detector, *, search_seconds: float = 0.3, time_to_live: float = 1.5, confirm: int = 3):
        """Starts without faces.

        Args:
          detector: from `faces.create_detector`.
          search_seconds: a new face is looked for everywhere once in this time.
          time_to_live: seconds for which a person who is not found is remembered.
          confirm: a new face is shown once it has been found in so many frames, in one of them surely, unless it
            comes from a full search.
        """
        self._detector, self._search_seconds = detector, search_seconds
        self._tracker = Tracker(time_to_live=time_to_live, confirm=confirm, sure=detector.sure)
        self._shape: tuple[int, ...] = ()
        self._pieces: list[_Piece] = []
        self._next, self._due, self._time = 0, 0.0, 0.0

    def update(self, frame: np.ndarray, time: float) -> list[Track]:
        """Moves to a frame.

        Args:
          frame: uint8 (H, W, 3), BGR. If the size changes, everybody is looked for afresh.
          time: of the frame in seconds, not before the last one.

        Returns:
          The people followed, in the order of their ids; those not found in this frame are where they should be.

        Raises:
          InputError: if the frame is empty or not BGR.
        """
        check_frame(frame)
        passed, self._time = time - self._time, time
        if frame.shape != self._shape:
            self._shape, self._next, self._due = frame.shape, 0, 0.0
            self._pieces = list(_pieces(self._detector, frame.shape))
            self._tracker.reset()
            return self._tracker.update(self._everywhere(frame), time, certain=True)
        if self._detector.name == "none":
            return self._tracker.update(self._everywhere(frame), time, certain=True)
        known = self._tracker.predict(time)
        found = [face for track in known if (face := self._detector.near(frame, track.box))]
        return self._tracker.update(distinct(found + self._elsewhere(frame, passed)), time)

    def _everywhere(self, frame: np.ndarray) -> list[Face]:
        return distinct(self._detector(frame))

    def _elsewhere(self, frame: np.ndarray, passed: float) -> list[Face]:
        """Searches the next pieces, so many that a round takes `search_seconds`."""
        found = []
        self._due += len(self._pieces) * min(passed / self._search_seconds, 1.0)
        while self._due >= 1:
            piece = self._pieces[self._next]
            self._due, self._next = self._due - 1, (self._next + 1) % len(self._pieces)
            found += self._detector.hints(frame, piece.region, piece.least, piece.most)
        return found


def _pieces(detector: Detector, shape: tuple[int, ...]) -> Iterator[_Piece]:
    """Divides the search of a frame by the size of faces, and the search for small ones by place.

    Faces of up to `span` times the smallest are looked for in a picture reduced so that the smallest has the
    size that the detector can just see; larger ones in one reduced further. Pieces overlap by a face.
    """
    height, width = shape[:2]
    least = detector.smallest_face(shape)
    while least < min(height, width):
        most = min(least * detector.span, float(min(height, width)))
        scale = detector.smallest / least
        pieces = max(1, math.ceil(height * width * scale**2 / detector.tile))
        columns = max(1, round(math.sqrt(pieces * width / height)))
        rows = math.ceil(pieces / columns)
        w, h = (width + most * (columns - 1)) / columns, (height + most * (rows - 1)) / rows
        for row in range(rows):
            for column in range(columns):
                yield _Piece((column * (w - most), row * (h - most), w, h), least, most)
        least = most

"""Detects and tracks faces in a video at a cost that does not grow with the resolution.

Each tracked face is searched in a small region around it, reduced in size. New faces are searched in the whole frame,
divided into pieces: all pieces are searched once within `search_seconds`.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ferjax.runtime.faces.boxes import Box, Face, check_frame
from ferjax.runtime.faces.detector import Detector
from ferjax.runtime.faces.tracking import Track, Tracker, non_max_suppression


class _Piece(NamedTuple):
    """One piece of the search for new faces, in the frame's pixels."""

    region: Box
    min_face: float
    max_face: float


class Search(NamedTuple):
    """New faces of one frame.

    Attributes:
      faces: in the frame's pixels.
      complete: whether the whole frame was searched for faces of all sizes.
      restart: whether earlier tracks end.
    """

    faces: list[Face]
    complete: bool
    restart: bool


class VideoTracker:
    """Detects and tracks faces: `track(frame, time)` returns the tracks of each frame."""

    def __init__(
        self, detector: Detector, *, search_seconds: float = 0.3, time_to_live: float = 1.5, min_hits: int = 3
    ):
        """Starts without tracks.

        Args:
          detector: from `create_detector`.
          search_seconds: time in which the whole frame is searched once for new faces.
          time_to_live: seconds without a detection after which a track is deleted.
          min_hits: detections needed to confirm a new face, except in the first frame, which is searched in full.
        """
        self._detector, self._search_seconds = detector, search_seconds
        self._tracker = Tracker(time_to_live=time_to_live, min_hits=min_hits, confirm_score=detector.confirm_score)
        self._shape: tuple[int, ...] = ()
        self._pieces: list[_Piece] = []
        self._next, self._due, self._time = 0, 0.0, 0.0

    def track(self, frame: np.ndarray, time: float) -> list[Track]:
        """Processes one frame: `search`, then `follow`."""
        return self.follow(frame, time, self.search(frame, time))

    def search(self, frame: np.ndarray, time: float) -> Search:
        """Searches a frame for new faces. It does not depend on the tracks: a thread may do it for the next frames.

        Args:
          frame: uint8 (H, W, 3), BGR. If the size changes, all tracks are deleted.
          time: time of the frame in seconds, not before the last one.

        Raises:
          InputError: if the frame is empty or not BGR.
        """
        check_frame(frame)
        elapsed, self._time = time - self._time, time
        if frame.shape != self._shape:
            self._shape, self._next, self._due = frame.shape, 0, 0.0
            self._pieces = list(_pieces(self._detector, frame.shape))
            return Search(self._full_search(frame), complete=True, restart=True)
        if self._detector.name == "none":
            return Search(self._full_search(frame), complete=True, restart=False)
        return Search(self._search_pieces(frame, elapsed), complete=False, restart=False)

    def follow(self, frame: np.ndarray, time: float, new: Search) -> list[Track]:
        """Searches each tracked face near its last place, and updates the tracks with these and the new faces.

        Args:
          frame: as in `search`.
          time: as in `search`.
          new: the result of `search` for this frame.

        Returns:
          The confirmed tracks in the order of their ids, detected in this frame or predicted.
        """
        if new.restart:
            self._tracker.reset()
        if new.complete:
            return self._tracker.update(new.faces, time, confirmed=True)
        tracked = self._tracker.predict(time)
        found = [face for track in tracked if (face := self._detector.detect_near(frame, track.box))]
        return self._tracker.update(non_max_suppression(found + new.faces), time)

    def _full_search(self, frame: np.ndarray) -> list[Face]:
        return non_max_suppression(self._detector(frame))

    def _search_pieces(self, frame: np.ndarray, elapsed: float) -> list[Face]:
        """Searches as many pieces as are due after the elapsed seconds."""
        found = []
        self._due += len(self._pieces) * min(elapsed / self._search_seconds, 1.0)
        while self._due >= 1:
            piece = self._pieces[self._next]
            self._due, self._next = self._due - 1, (self._next + 1) % len(self._pieces)
            found += self._detector.candidates(frame, piece.region, piece.min_face, piece.max_face)
        return found


def _pieces(detector: Detector, shape: tuple[int, ...]) -> Iterator[_Piece]:
    """Divides the search of a frame by face size, and the search for small faces by region.

    Each range of sizes is searched at the scale at which its smallest face has the detector's `min_size`. Regions
    overlap by the largest face of the range.
    """
    height, width = shape[:2]
    min_face = detector.smallest_face(shape)
    while min_face < min(height, width):
        max_face = min(min_face * detector.size_ratio, float(min(height, width)))
        scale = detector.min_size / min_face
        pieces = max(1, math.ceil(height * width * scale**2 / detector.tile_area))
        columns = max(1, round(math.sqrt(pieces * width / height)))
        rows = math.ceil(pieces / columns)
        w, h = (width + max_face * (columns - 1)) / columns, (height + max_face * (rows - 1)) / rows
        for row in range(rows):
            for column in range(columns):
                yield _Piece((column * (w - max_face), row * (h - max_face), w, h), min_face, max_face)
        min_face = max_face

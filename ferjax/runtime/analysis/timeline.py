"""Sums up who showed which expression when in a film, in memory that does not grow with its length."""

import collections
import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from ferjax.runtime.faces.boxes import crop_region
from ferjax.runtime.result import FaceResult, Result
from ferjax.runtime.sources.frame import CUT_SECONDS
from ferjax.spec import UNCERTAIN

OTHERS = 0  # instead of a track, whose numbers start at 1
THUMBNAIL = 40  # side in pixels
_FINEST, _MOST_BINS = 0.05, 600  # seconds; bins of a lane
_BINS_PER_THUMBNAIL = 25
_MARGIN = 0.1  # on each side of the face in a thumbnail, relative to its side


class Person(NamedTuple):
    """A face that was tracked without a break of more than 1.5 seconds.

    Attributes:
      track: its number, or OTHERS for the people who were visible shortest, taken together.
      first: time of the first frame in seconds.
      last: time of the last frame in seconds.
      seconds: label -> seconds with this label; "uncertain" is the last one.
    """

    track: int
    first: float
    last: float
    seconds: dict[str, float]

    @property
    def visible(self) -> float:
        """The sum of `seconds`."""
        return sum(self.seconds.values())


class Summary(NamedTuple):
    """The sums of a film.

    Attributes:
      duration: time of its end in seconds.
      frames: number of analyzed frames.
      people: in the order of their tracks.
    """

    duration: float
    frames: int
    people: list[Person]


class Thumbnail(NamedTuple):
    """A face at a time in seconds with its label; image is BGR, uint8 (THUMBNAIL, THUMBNAIL, 3)."""

    time: float
    label: str
    image: np.ndarray


class Lane:
    """One person over time.

    Attributes:
      first: time of the first frame in seconds.
      last: time of the last frame in seconds.
      bins: index of a time bin -> float64 (labels,), seconds with each label.
      thumbnails: number of a period of several bins -> the first classified face in it.
    """

    def __init__(self, first: float, labels: int):
        self.first = self.last = first
        self._labels = labels
        self.bins = self._empty()
        self.thumbnails: dict[int, Thumbnail] = {}

    def _empty(self) -> dict[int, np.ndarray]:
        return collections.defaultdict(lambda: np.zeros(self._labels))

    def seconds(self) -> np.ndarray:
        """Returns the seconds with each label, float64 (labels,)."""
        return sum(self.bins.values(), np.zeros(self._labels))

    def halve(self) -> None:
        """Joins pairs of bins, and keeps one of two thumbnails."""
        before, self.bins = self.bins, self._empty()
        for index, seconds in before.items():
            self.bins[index // 2] += seconds
        faces, self.thumbnails = self.thumbnails, {}
        for period, face in sorted(faces.items(), key=lambda item: item[0]):
            self.thumbnails.setdefault(period // 2, face)


class Timeline:
    """Collects the results of a film.

    A face has its label from the time of its frame to that of the next one. A lane has at most 600 bins: their width
    doubles when the film gets longer. If there are more than `most` people, those visible shortest are only summed up.

    Attributes:
      labels: the class names and "uncertain".
      width: seconds per bin.
      end: time of the end so far in seconds.
      frames: number of frames so far.
      lanes: track -> its lane.
    """

    def __init__(self, class_names: Sequence[str], fps: float, most: float = math.inf):
        """Starts with an empty film of `fps` frames per second."""
        self.labels = (*class_names, UNCERTAIN)
        self.width, self.end, self.frames = _FINEST, 0.0, 0
        self.lanes: dict[int, Lane] = {}
        self._step, self._most = 1 / fps, most
        self._shown: list[FaceResult] = []
        self._time = 0.0
        self._others: Lane | None = None

    def add(self, result: Result) -> None:
        """Adds a frame, before its image is drawn on."""
        if self.frames:
            step, longest = result.time - self._time, max(CUT_SECONDS, 2.5 * self._step)
            self._extend(step if step <= longest else self._step)
        while result.time + self._step >= self.width * _MOST_BINS:
            self.width *= 2
            for lane in self.lanes.values():
                lane.halve()
        self._time, self._shown, self.frames = result.time, result.faces, self.frames + 1
        self.end = result.time + self._step
        for face in result.faces:
            lane = self.lanes.setdefault(face.track, Lane(result.time, len(self.labels)))
            lane.last = result.time
            period = int(result.time / self.width) // _BINS_PER_THUMBNAIL
            if face.raw_probabilities is not None and period not in lane.thumbnails:
                lane.thumbnails[period] = Thumbnail(result.time, face.label, _thumbnail(result.frame.image, face))
        if len(self.lanes) > self._most:
            self._fold()

    def close(self) -> None:
        """Ends the film after its last frame."""
        self._extend(self._step)
        self._shown = []

    def summary(self) -> Summary:
        """Returns the sums, after `close`."""
        lanes = [*sorted(self.lanes.items(), key=lambda item: item[0])]
        if self._others:
            lanes.append((OTHERS, self._others))
        people = [
            Person(track, lane.first, lane.last, dict(zip(self.labels, lane.seconds().tolist(), strict=True)))
            for track, lane in lanes
        ]
        return Summary(self.end, self.frames, people)

    def _extend(self, seconds: float) -> None:
        """Adds time to the labels of the last frame."""
        start, end = self._time, self._time + seconds
        for index in range(int(start / self.width), int(end / self.width) + 1):
            part = min(end, (index + 1) * self.width) - max(start, index * self.width)
            for face in self._shown if part > 0 else ():
                if face.track in self.lanes:
                    self.lanes[face.track].bins[index][self.labels.index(face.label)] += part

    def _fold(self) -> None:
        """Moves the person visible shortest, of those who are not visible now, to the others."""
        shown = {face.track for face in self._shown}
        gone = {track: lane.seconds() for track, lane in self.lanes.items() if track not in shown}
        if not gone:
            return
        track = min(gone, key=lambda track: gone[track].sum())
        lane = self.lanes.pop(track)
        self._others = self._others or Lane(lane.first, len(self.labels))
        self._others.first, self._others.last = min(self._others.first, lane.first), max(self._others.last, lane.last)
        self._others.bins[0] += gone[track]


def _thumbnail(image: np.ndarray, face: FaceResult) -> np.ndarray:
    x, y, w, h = face.box
    _, _, pixels = crop_region(image, (x - _MARGIN * w, y - _MARGIN * h, (1 + 2 * _MARGIN) * w, (1 + 2 * _MARGIN) * h))
    return cv2.resize(pixels, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)

"""Who is who from frame to frame: identities by place, size and motion, with a time to live."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ferjax.runtime.faces.boxes import Box, Face

_DOUBT = 0.2  # seconds without a second sighting that a chance find lives
_MISSED = 2.5  # frames that everybody may be unseen, however far apart frames are


class Track(NamedTuple):
    """One person in one frame.

    Attributes:
      id: stays with the person for as long as they are followed; never given twice.
      box: (x, y, width, height) in the frame's pixels, filtered over time; predicted if not seen.
      landmarks: (5, 2) of the last time they were found, moved along with the box, or None.
      score: of the last time the face was found.
      seen: whether the face was found in this frame.
      since: time in seconds at which it was first found.
      last_seen: time in seconds at which it was last found.
    """

    id: int
    box: Box
    landmarks: np.ndarray | None
    score: float
    seen: bool
    since: float
    last_seen: float


@dataclasses.dataclass
class _Motion:
    """A g-h filter: the centre moves at constant velocity, the logarithm of the side stays what it is.

    The gains of n sightings are those of a least-squares line through n points (Brookner 1998, *Tracking and
    Kalman Filtering Made Easy*, section 1.2.10), held at n = 6 so that old motion is forgotten. Sizes get no
    velocity: what looks like one is the detector's doubt, and it would shrink whoever is hidden for a while.
    """

    center: np.ndarray
    size: float
    time: float
    velocity: np.ndarray
    sightings: int = 1

    def at(self, time: float) -> np.ndarray:
        """Returns (x, y, log side)."""
        return np.append(self.center + self.velocity * (time - self.time), self.size)

    def correct(self, measured: np.ndarray, time: float) -> None:
        n = min(self.sightings + 1, 6)
        g, h = 2 * (2 * n - 1) / (n * (n + 1)), 6 / (n * (n + 1))
        predicted = self.at(time)
        error = measured - predicted
        self.center = predicted[:2] + g * error[:2]
        self.size += float(error[2]) * max(1 / n, 0.25)
        if time > self.time:
            self.velocity = self.velocity + h * error[:2] / (time - self.time)
        self.time, self.sightings = time, self.sightings + 1


@dataclasses.dataclass
class _Person:
    id: int
    motion: _Motion
    face: Face
    since: float
    last_seen: float
    hits: int
    best: float
    shown: bool


class Tracker:
    """Follows faces. `update` takes the faces found in a frame and returns everybody followed."""

    def __init__(self, *, time_to_live: float = 1.5, confirm: int = 3, sure: float = 0.0):
        """Starts without anybody.

        Args:
          time_to_live: seconds after which a person who is not found is forgotten; who returns later is new. Where
            frames come more slowly than one in 0.6 s, it is two and a half of them.
          confirm: a new face counts as a person once it has been found so often, which a chance find is not,
          sure: and once with this score or a higher one.
        """
        self._time_to_live, self._confirm, self._sure = time_to_live, confirm, sure
        self._people: list[_Person] = []
        self._ids = itertools.count(1)
        self._time, self._steps = math.nan, (math.inf, math.inf)

    def predict(self, time: float) -> list[Track]:
        """Returns everybody followed, confirmed or not, where they should be at a time."""
        return [self._track(p, time) for p in self._people]

    def update(self, faces: Sequence[Face], time: float, *, certain: bool = False) -> list[Track]:
        """Moves to a frame.

        Args:
          faces: what was found in it; each person at most once.
          time: of the frame, in seconds, not before the last one.
          certain: whether a new face counts as a person at once.

        Returns:
          The confirmed people, in the order of their ids, each seen in this frame or predicted.
        """
        if time > self._time:
            self._steps = (self._steps[1], time - self._time)
        self._time = time
        self._people = [p for p in self._people if time - p.last_seen <= self._patience(p)]
        pairs = self._assign(faces, time)
        for who, which in pairs:
            person, face = self._people[who], faces[which]
            person.motion.correct(_measure(face.box), time)
            person.face, person.last_seen, person.hits = face, time, person.hits + 1
            person.best = max(person.best, face.score)
            person.shown |= certain or (person.hits >= self._confirm and person.best >= self._sure)
        matched = {which for _, which in pairs}
        for which, face in enumerate(faces):
            if which not in matched:
                x, y, size = _measure(face.box).tolist()
                motion = _Motion(np.array([x, y]), size, time, np.zeros(2))
                shown = certain or (self._confirm <= 1 and face.score >= self._sure)
                self._people.append(_Person(next(self._ids), motion, face, time, time, 1, face.score, shown))
        return [self._track(p, time) for p in self._people if p.shown]

    def reset(self) -> None:
        """Forgets everybody; ids go on."""
        self._people = []

    def _patience(self, person: _Person) -> float:
        proven = person.shown and person.hits >= self._confirm
        seconds = self._time_to_live if proven else min(_DOUBT, self._time_to_live)
        return max(seconds, _MISSED * min(self._steps))  # a slow camera's frames, not one gap among quick ones

    def _track(self, person: _Person, time: float) -> Track:
        box = _box(person.motion.at(time))
        return Track(
            person.id,
            box,
            _carried(person.face, box),
            person.face.score,
            person.last_seen == time,
            person.since,
            person.last_seen,
        )

    def _assign(self, faces: Sequence[Face], time: float) -> list[tuple[int, int]]:
        """Pairs people and faces, cheapest pair first."""
        costs = []
        for who, person in enumerate(self._people):
            there, unseen = person.motion.at(time), time - person.last_seen
            for which, face in enumerate(faces):
                cost = _cost(there, _measure(face.box), unseen)
                if cost < 1:
                    costs.append((cost, who, which))
        pairs: list[tuple[int, int]] = []
        for _, who, which in sorted(costs):
            if all(who != a and which != b for a, b in pairs):
                pairs.append((who, which))
        return pairs


def overlap(a: Box, b: Box) -> float:
    """Returns the intersection over union of two boxes, 0..1."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared) if shared else 0.0


def distinct(faces: Sequence[Face], most: float = 0.3) -> list[Face]:
    """Returns the faces less those that overlap a better one: one face is found from several sides."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda f: -f.score):
        if all(overlap(face.box, other.box) <= most for other in kept):
            kept.append(face)
    return kept


def _cost(expected: np.ndarray, measured: np.ndarray, unseen: float) -> float:
    """How ill a face fits a person, below 1 if it can be them: distance in widths of a face, and growth."""
    side = math.exp(expected[2])
    apart = math.hypot(*(measured[:2] - expected[:2])) / side
    growth = abs(measured[2] - expected[2])
    reach = 0.6 + min(unseen, 1.0)
    return apart / reach + growth if growth < 0.7 else math.inf


def _measure(box: Box) -> np.ndarray:
    x, y, w, h = box
    return np.array([x + w / 2, y + h / 2, math.log(max(w, 1.0))])


def _box(state: np.ndarray) -> Box:
    x, y, side = float(state[0]), float(state[1]), math.exp(min(float(state[2]), 12.0))
    return (x - side / 2, y - side / 2, side, side)


def _carried(face: Face, box: Box) -> np.ndarray | None:
    """The landmarks of a face, in the same place of another box."""
    if face.landmarks is None:
        return None
    corner, side = np.array(face.box[:2]), face.box[2]
    return (face.landmarks - corner) * (box[2] / side) + np.array(box[:2])

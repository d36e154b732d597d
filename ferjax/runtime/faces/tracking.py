"""Tracks faces across frames by position, size and motion."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ferjax.runtime.faces.boxes import Box, Face

TENTATIVE_SECONDS = 0.2  # an unconfirmed track without a new detection is deleted after this time
MIN_MISSED_FRAMES = 2.5  # every track survives this many missed frames, also at low frame rates


class Track(NamedTuple):
    """One tracked face in one frame.

    Attributes:
      id: unique id of the track.
      box: (x, y, width, height) in the frame's pixels, filtered over time; predicted if not detected.
      landmarks: (5, 2) or (2, 2) of the last detection, moved with the box, or None.
      score: score of the last detection.
      seen: whether the face was detected in this frame.
      since: time of the first detection in seconds.
      last_seen: time of the last detection in seconds.
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
    """A g-h filter: the center moves at constant velocity, the logarithm of the side is constant.

    The gains after n detections are those of a least-squares line through n points (Brookner 1998, *Tracking and Kalman
    Filtering Made Easy*, section 1.2.10), with n at most 6, so that old motion is forgotten. The size has no velocity:
    detector noise would shrink or enlarge a hidden face.
    """

    center: np.ndarray
    size: float
    time: float
    velocity: np.ndarray
    detections: int = 1

    def at(self, time: float) -> np.ndarray:
        """Returns (x, y, log side)."""
        return np.append(self.center + self.velocity * (time - self.time), self.size)

    def correct(self, measured: np.ndarray, time: float) -> None:
        n = min(self.detections + 1, 6)
        g, h = 2 * (2 * n - 1) / (n * (n + 1)), 6 / (n * (n + 1))
        predicted = self.at(time)
        error = measured - predicted
        self.center = predicted[:2] + g * error[:2]
        self.size += float(error[2]) * max(1 / n, 0.25)
        if time > self.time:
            self.velocity = self.velocity + h * error[:2] / (time - self.time)
        self.time, self.detections = time, self.detections + 1


@dataclasses.dataclass
class _State:
    id: int
    motion: _Motion
    face: Face
    since: float
    last_seen: float
    hits: int
    best_score: float
    confirmed: bool


class Tracker:
    """Assigns the faces detected in each frame to tracks."""

    def __init__(self, *, time_to_live: float = 1.5, min_hits: int = 3, confirm_score: float = 0.0):
        """Starts without tracks.

        Args:
          time_to_live: seconds without a detection after which a track is deleted, or 2.5 frames if that is longer; a
            face that returns later gets a new id.
          min_hits: detections needed to confirm a track.
          confirm_score: score that at least one of the detections must reach.
        """
        self._time_to_live, self._min_hits, self._confirm_score = time_to_live, min_hits, confirm_score
        self._states: list[_State] = []
        self._ids = itertools.count(1)
        self._time, self._steps = math.nan, (math.inf, math.inf)

    def predict(self, time: float) -> list[Track]:
        """Returns all tracks, confirmed or not, with boxes predicted for a time."""
        return [self._track(state, time) for state in self._states]

    def update(self, faces: Sequence[Face], time: float, *, confirmed: bool = False) -> list[Track]:
        """Processes one frame.

        Args:
          faces: the detected faces, without duplicates.
          time: time of the frame in seconds, not before the last one.
          confirmed: whether the detections confirm their tracks at once.

        Returns:
          The confirmed tracks in the order of their ids, detected in this frame or predicted.
        """
        if time > self._time:
            self._steps = (self._steps[1], time - self._time)
        self._time = time
        self._states = [state for state in self._states if time - state.last_seen <= self._max_unseen(state)]
        pairs = self._assign(faces, time)
        for i, j in pairs:
            state, face = self._states[i], faces[j]
            state.motion.correct(_measure(face.box), time)
            state.face, state.last_seen, state.hits = face, time, state.hits + 1
            state.best_score = max(state.best_score, face.score)
            enough = state.hits >= self._min_hits and state.best_score >= self._confirm_score
            state.confirmed |= confirmed or enough
        matched = {j for _, j in pairs}
        for j, face in enumerate(faces):
            if j not in matched:
                x, y, size = _measure(face.box).tolist()
                motion = _Motion(np.array([x, y]), size, time, np.zeros(2))
                enough = self._min_hits <= 1 and face.score >= self._confirm_score
                self._states.append(
                    _State(next(self._ids), motion, face, time, time, 1, face.score, confirmed or enough)
                )
        return [self._track(state, time) for state in self._states if state.confirmed]

    def reset(self) -> None:
        """Deletes all tracks; their ids are not reused."""
        self._states = []

    def _max_unseen(self, state: _State) -> float:
        established = state.confirmed and state.hits >= self._min_hits
        seconds = self._time_to_live if established else min(TENTATIVE_SECONDS, self._time_to_live)
        # The minimum of two steps: a low frame rate counts, a single gap does not.
        return max(seconds, MIN_MISSED_FRAMES * min(self._steps))

    def _track(self, state: _State, time: float) -> Track:
        box = _box(state.motion.at(time))
        return Track(
            state.id,
            box,
            _moved_landmarks(state.face, box),
            state.face.score,
            state.last_seen == time,
            state.since,
            state.last_seen,
        )

    def _assign(self, faces: Sequence[Face], time: float) -> list[tuple[int, int]]:
        """Returns pairs (track index, face index), matched greedily by cost."""
        costs = []
        for i, state in enumerate(self._states):
            predicted, unseen = state.motion.at(time), time - state.last_seen
            for j, face in enumerate(faces):
                cost = _cost(predicted, _measure(face.box), unseen)
                if cost < 1:
                    costs.append((cost, i, j))
        pairs: list[tuple[int, int]] = []
        for _, i, j in sorted(costs):
            if all(i != a and j != b for a, b in pairs):
                pairs.append((i, j))
        return pairs


def iou(a: Box, b: Box) -> float:
    """Returns the intersection over union of two boxes, 0..1."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared) if shared else 0.0


def non_max_suppression(faces: Sequence[Face], max_iou: float = 0.3) -> list[Face]:
    """Removes faces that overlap a face with a higher score."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda f: -f.score):
        if all(iou(face.box, other.box) <= max_iou for other in kept):
            kept.append(face)
    return kept


def _cost(expected: np.ndarray, measured: np.ndarray, unseen: float) -> float:
    """Returns the cost of assigning a face to a track, below 1 if allowed: distance in face widths plus size change."""
    side = math.exp(expected[2])
    distance = math.hypot(*(measured[:2] - expected[:2])) / side
    growth = abs(measured[2] - expected[2])
    reach = 0.6 + min(unseen, 1.0)
    return distance / reach + growth if growth < 0.7 else math.inf


def _measure(box: Box) -> np.ndarray:
    x, y, w, h = box
    return np.array([x + w / 2, y + h / 2, math.log(max(w, 1.0))])


def _box(state: np.ndarray) -> Box:
    x, y, side = float(state[0]), float(state[1]), math.exp(min(float(state[2]), 12.0))
    return (x - side / 2, y - side / 2, side, side)


def _moved_landmarks(face: Face, box: Box) -> np.ndarray | None:
    """Returns the landmarks of a face, moved from its box to another box."""
    if face.landmarks is None:
        return None
    corner, side = np.array(face.box[:2]), face.box[2]
    return (face.landmarks - corner) * (box[2] / side) + np.array(box[:2])

"""Turns the probabilities of single frames into stable labels: smoothing per track, hysteresis, abstention."""

import dataclasses
import math
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np

from ferjax.errors import InputError, unknown
from ferjax.spec import UNCERTAIN

METHODS = ("adaptive", "mean", "exponential")
FRAME = 1 / 30  # seconds; Paraschiv's window counts frames at 30 fps
THRESHOLD, CLIP = math.log(12), math.log(4)  # log odds that signal a change, and the maximum of one prediction
INDEPENDENT = 0.1  # seconds; predictions closer than this are correlated


class Smoother:
    """Smooths the probabilities of each track over time.

    Paraschiv (2026, eq. 26) averages the last N = 10 distributions, one third of a second at 30 fps. Here the window is
    N / 30 seconds, so that N means the same if faces are not classified in every frame.

    The adaptive method averages up to 2N - 1 frames, but only predictions since the last change of expression. Changes
    are detected with cumulative sums (CUSUM; Page 1954). With y the most probable class of the mean so far, each other
    class c has the sum

      S_c <- max(0, S_c + w clip(log(p_c / p_y), -log 4, log 4)),  w = min(1, seconds since the last prediction / 0.1)

    A sum above log 12, odds of 12 : 1, signals a change at the time when it last left 0. Older predictions are then
    dropped and all sums reset. The clipping (Huber 1965) limits one prediction to odds of 4 : 1, so that one outlier
    does not signal a change, but two consecutive confident predictions do.
    """

    def __init__(self, method: str = "adaptive", window: int = 10):
        """Starts with empty buffers.

        Args:
          method: "adaptive"; "mean" of the window; or "exponential", whose time constant of half the window gives the
            same lag as the mean.
          window: N, in frames of 1/30 second; 1 disables smoothing.

        Raises:
          InputError: if the method is unknown or the window is less than 1.
        """
        if method not in METHODS:
            raise unknown("smoothing", method, METHODS)
        if window < 1:
            raise InputError(f"the smoothing window (--smooth) must be at least 1, got {window}")
        self._method, self._window = method, window
        self._seconds = (2 * window - 1 if method == "adaptive" else window) * FRAME
        self._buffers: dict[int, deque[tuple[float, np.ndarray]]] = {}
        self._changes: dict[int, _ChangeDetector] = {}

    def smooth(self, track: int, probabilities: np.ndarray, time: float) -> np.ndarray:
        """Adds one prediction of a track and returns the smoothed probabilities.

        Args:
          track: id of the track.
          probabilities: (C,), sums to 1.
          time: time in seconds, not before the last one of the track.

        Returns:
          float64 (C,), sums to 1.
        """
        current = np.asarray(probabilities, np.float64)
        if self._window == 1:
            return current
        buffer = self._buffers.setdefault(track, deque())
        if self._method == "exponential":
            if buffer:
                last, mean = buffer.pop()
                current = current + math.exp(-2 * (time - last) / self._seconds) * (mean - current)
            buffer.append((time, current))
            return current
        start = time - self._seconds + FRAME / 2
        if self._method == "adaptive":
            if buffer:
                start = max(start, self._changes[track].update(current, _mean(buffer), time))
            else:
                self._changes[track] = _ChangeDetector(np.zeros(len(current)), np.full(len(current), time), time)
        buffer.append((time, current))
        while buffer[0][0] < start:
            buffer.popleft()
        return _mean(buffer)

    def keep(self, tracks: Iterable[int]) -> None:
        """Deletes the state of all other tracks."""
        alive = set(tracks)
        self._buffers = {track: buffer for track, buffer in self._buffers.items() if track in alive}
        self._changes = {track: change for track, change in self._changes.items() if track in alive}


def _mean(buffer: Iterable[tuple[float, np.ndarray]]) -> np.ndarray:
    return np.mean([p for _, p in buffer], axis=0)


@dataclasses.dataclass
class _ChangeDetector:
    """Detects changes of expression of one track with the sums that `Smoother` describes.

    Attributes:
      sums: S_c of each class.
      since: time at which each sum last left 0.
      last: time of the last prediction.
    """

    sums: np.ndarray
    since: np.ndarray
    last: float

    def update(self, current: np.ndarray, mean: np.ndarray, time: float) -> float:
        """Adds a prediction and returns the start time of a detected change, or -inf."""
        weight = min(1.0, (time - self.last) / INDEPENDENT)
        logs = np.log(np.maximum(current, 1e-9))
        sums = self.sums + weight * np.clip(logs - logs[int(mean.argmax())], -CLIP, CLIP)
        self.since = np.where((self.sums <= 0) & (sums > 0), time, self.since)
        self.sums, self.last = np.maximum(sums, 0.0), time
        likeliest = int(self.sums.argmax())
        if self.sums[likeliest] <= THRESHOLD:
            return -math.inf
        self.sums[:] = 0.0
        return float(self.since[likeliest])


class Quality(NamedTuple):
    """Image quality of a crop.

    Attributes:
      size: side of the face in the frame, in pixels.
      sharpness: variance of the Laplacian of the gray crop, relative to the variance of the crop.
      exposure: mean gray value, 0..255.
      contrast: standard deviation of the gray values.
    """

    size: float
    sharpness: float
    exposure: float
    contrast: float


def quality(crop: np.ndarray, size: float) -> Quality:
    """Measures the quality of a crop.

    Args:
      crop: uint8 (H, W, C), a result of `faces.detector.crop`.
      size: side of the face in the frame, in pixels.
    """
    gray = crop[..., 0] if crop.shape[2] == 1 else crop.mean(axis=2).astype(np.uint8)
    mean, deviation = cv2.meanStdDev(gray)
    edges = float(cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_32F))[1][0, 0]) ** 2
    contrast = float(deviation[0, 0])
    return Quality(size, edges / max(contrast**2, 1.0), float(mean[0, 0]), contrast)


class Decision(NamedTuple):
    """The label of a track.

    Attributes:
      label: a class name, or "uncertain".
      confidence: smoothed probability of the selected class, also if the label is "uncertain", in 0..1.
      reason: reason for "uncertain": "confidence", "size", "blur", "dark" or "bright"; else "".
    """

    label: str
    confidence: float
    reason: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Minimum confidence and image quality; the label is "uncertain" below them.

    99.5 % of FER2013's validation images pass; faces of 48 pixels blurred by a Gaussian of 1.5 pixels do not.

    Attributes:
      confidence: minimum smoothed probability of the selected class.
      size: minimum side of a face, in pixels of the frame.
      sharpness: minimum; see Quality.
      exposure: minimum and maximum mean gray value.
      contrast: minimum standard deviation of the gray values.
    """

    confidence: float = 0.4
    size: float = 24.0
    sharpness: float = 0.05
    exposure: tuple[float, float] = (25.0, 235.0)
    contrast: float = 10.0

    def failure(self, measured: Quality) -> str:
        """Returns the first limit that a crop fails: "size", "bright", "dark" or "blur"; "" if it passes."""
        if measured.size < self.size:
            return "size"
        if measured.exposure > self.exposure[1]:
            return "bright"
        if measured.exposure < self.exposure[0] or measured.contrast < self.contrast:
            return "dark"
        return "blur" if measured.sharpness < self.sharpness else ""


class Labeler:
    """Selects the label of each track, with hysteresis against flicker between two similarly probable classes."""

    def __init__(self, class_names: Iterable[str], *, limits: Limits | None = None, hysteresis: float = 0.15):
        """Starts without labels.

        Args:
          class_names: in the order of the probabilities.
          limits: the label is "uncertain" below them.
          hysteresis: margin in probability by which another class must exceed the current one to replace it.
        """
        self._names, self._limits, self._hysteresis = tuple(class_names), limits or Limits(), hysteresis
        self._shown: dict[int, int] = {}

    def label(self, track: int, smoothed: np.ndarray, measured: Quality | None = None) -> Decision:
        """Returns the label of a track for its smoothed probabilities (C,) and the quality of its crop."""
        best, shown = int(np.argmax(smoothed)), self._shown.get(track)
        if shown is not None and smoothed[best] - smoothed[shown] < self._hysteresis:
            best = shown
        self._shown[track] = best
        confidence = float(smoothed[best])
        reason = self._limits.failure(measured) if measured else ""
        if not reason and confidence < self._limits.confidence:
            reason = "confidence"
        return Decision(UNCERTAIN if reason else self._names[best], confidence, reason)

    def keep(self, tracks: Iterable[int]) -> None:
        """Deletes the state of all other tracks."""
        alive = set(tracks)
        self._shown = {track: label for track, label in self._shown.items() if track in alive}

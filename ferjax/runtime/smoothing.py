"""From one frame's probabilities to a steady label: smoothing per person, hysteresis, and saying "uncertain"."""

import dataclasses
import math
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np

from ferjax.errors import InputError, unknown
from ferjax.runtime.model import UNCERTAIN

METHODS = ("adaptive", "mean", "exponential")
_FRAME = 1 / 30  # Paraschiv's N counts frames of 30 a second
_CHANGED, _MOST = math.log(12), math.log(4)  # odds at which a change is believed, and that one answer can give
_APART = 0.1  # seconds; answers nearer to each other tell less than two


class Smoother:
    """Smooths each person's probabilities apart from everybody else's.

    Paraschiv (2026, eq. 26) takes the mean of the last N = 10 distributions, which at 30 frames a second are
    those of the last third of a second. Here N / 30 seconds are what counts, so that the same N reacts as fast
    when faces are classified less often than frames come.

    The adaptive mean is of up to 2N - 1 frames, but only of answers since the last change of expression, for which
    Page's (1954) cumulative sums watch. With y the likeliest class of the mean so far, each other class c has one:

      S_c <- max(0, S_c + w clip(log(p_c / p_y), -log 4, log 4)),  w = min(1, seconds since the last answer / 0.1)

    Where one exceeds log 12, the odds of a change are twelve to one; it happened when that sum last left 0, older
    answers are dropped and all sums start anew. As no answer counts for more than four to one (Huber 1965), a stray
    one changes nothing, while two in a row that are sure of the same class do.
    """

    def __init__(self, method: str = "adaptive", window: int = 10):
        """Starts with empty buffers.

        Args:
          method: "adaptive"; "mean" of the window; or "exponential" with the time constant that has the same lag,
            half of the window.
          window: N, in frames of a thirtieth of a second; 1 smooths nothing.

        Raises:
          InputError: if the method is unknown or the window is less than 1.
        """
        if method not in METHODS:
            raise unknown("smoothing", method, METHODS)
        if window < 1:
            raise InputError(f"the smoothing window must be at least 1, got {window}")
        self._method, self._window = method, window
        self._seconds = (2 * window - 1 if method == "adaptive" else window) * _FRAME
        self._buffers: dict[int, deque[tuple[float, np.ndarray]]] = {}
        self._changes: dict[int, _Change] = {}

    def update(self, track: int, probabilities: np.ndarray, time: float) -> np.ndarray:
        """Takes in one distribution of one person and returns the smoothed one.

        Args:
          track: whose it is; an id that was never seen starts with an empty buffer.
          probabilities: (C,), sums to 1.
          time: in seconds, not before that person's last one.

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
        start = time - self._seconds + _FRAME / 2
        if self._method == "adaptive":
            if buffer:
                start = max(start, self._changes[track].update(current, _mean(buffer), time))
            else:
                self._changes[track] = _Change(np.zeros(len(current)), np.full(len(current), time), time)
        buffer.append((time, current))
        while buffer[0][0] < start:
            buffer.popleft()
        return _mean(buffer)

    def keep(self, tracks: Iterable[int]) -> None:
        """Forgets everybody but these."""
        alive = set(tracks)
        self._buffers = {track: buffer for track, buffer in self._buffers.items() if track in alive}
        self._changes = {track: change for track, change in self._changes.items() if track in alive}


def _mean(buffer: Iterable[tuple[float, np.ndarray]]) -> np.ndarray:
    return np.mean([p for _, p in buffer], axis=0)


@dataclasses.dataclass
class _Change:
    """Whether one person's expression has changed: the sums that `Smoother` describes.

    Attributes:
      sums: S_c of each class.
      since: when each sum last left 0.
      last: time of the last answer.
    """

    sums: np.ndarray
    since: np.ndarray
    last: float

    def update(self, current: np.ndarray, mean: np.ndarray, time: float) -> float:
        """Takes in an answer and returns when a change that is now believed began, -inf if none is."""
        weight = min(1.0, (time - self.last) / _APART)
        odds = np.log(np.maximum(current, 1e-9))
        sums = self.sums + weight * np.clip(odds - odds[int(mean.argmax())], -_MOST, _MOST)
        self.since = np.where((self.sums <= 0) & (sums > 0), time, self.since)
        self.sums, self.last = np.maximum(sums, 0.0), time
        likeliest = int(self.sums.argmax())
        if self.sums[likeliest] <= _CHANGED:
            return -math.inf
        self.sums[:] = 0.0
        return float(self.since[likeliest])


class Quality(NamedTuple):
    """What can be told of a crop before it is classified.

    Attributes:
      size: side of the face in the frame, in pixels.
      sharpness: variance of the Laplacian of the grey crop, relative to the variance of the crop.
      exposure: mean grey value, 0..255.
      contrast: standard deviation of the grey values.
    """

    size: float
    sharpness: float
    exposure: float
    contrast: float


def quality(crop: np.ndarray, size: float) -> Quality:
    """Measures a crop.

    Args:
      crop: uint8 (H, W, C), as `faces.crop` returns it.
      size: side of the face in the frame, in pixels.
    """
    gray = crop[..., 0] if crop.shape[2] == 1 else crop.mean(axis=2).astype(np.uint8)
    mean, deviation = cv2.meanStdDev(gray)
    edges = float(cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_32F))[1][0, 0]) ** 2
    contrast = float(deviation[0, 0])
    return Quality(size, edges / max(contrast**2, 1.0), float(mean[0, 0]), contrast)


class Decision(NamedTuple):
    """What is shown for a person.

    Attributes:
      label: a class name, or "uncertain".
      confidence: the smoothed probability of the class that is shown, or would be if it were certain enough, 0..1.
      reason: why it is uncertain: "confidence", "size", "blur", "dark", "bright", or "" if it is not.
    """

    label: str
    confidence: float
    reason: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Below which quality nothing is said.

    By these, 99.5 % of FER2013's validation images pass, and faces blurred by 1.5 of 48 pixels do not.

    Attributes:
      confidence: smallest probability of the class to show; where it is less, and no other is likelier by the
        hysteresis, two classes are about as likely.
      size: smallest side of a face, in pixels of the frame.
      sharpness: see Quality.
      exposure: smallest and largest mean grey value.
      contrast: smallest standard deviation of the grey values.
    """

    confidence: float = 0.4
    size: float = 24.0
    sharpness: float = 0.05
    exposure: tuple[float, float] = (25.0, 235.0)
    contrast: float = 10.0

    def fault(self, measured: Quality) -> str:
        """Returns what is wrong with a crop in one word, or "" if nothing is."""
        if measured.size < self.size:
            return "size"
        if measured.exposure > self.exposure[1]:
            return "bright"
        if measured.exposure < self.exposure[0] or measured.contrast < self.contrast:
            return "dark"
        return "blur" if measured.sharpness < self.sharpness else ""


class Labeller:
    """Turns smoothed probabilities into labels that do not flutter where two classes are about as likely."""

    def __init__(self, class_names: Iterable[str], *, limits: Limits | None = None, hysteresis: float = 0.15):
        """Starts without labels.

        Args:
          class_names: in the order of the probabilities.
          limits: below which to say "uncertain".
          hysteresis: by how much another class must be likelier than the one shown to replace it.
        """
        self._names, self._limits, self._hysteresis = tuple(class_names), limits or Limits(), hysteresis
        self._shown: dict[int, int] = {}

    def update(self, track: int, smoothed: np.ndarray, measured: Quality | None = None) -> Decision:
        """Returns what to show for a person whose smoothed probabilities (C,) are these."""
        best, shown = int(np.argmax(smoothed)), self._shown.get(track)
        if shown is not None and smoothed[best] - smoothed[shown] < self._hysteresis:
            best = shown
        self._shown[track] = best
        confidence = float(smoothed[best])
        fault = self._limits.fault(measured) if measured else ""
        if not fault and confidence < self._limits.confidence:
            fault = "confidence"
        return Decision(UNCERTAIN if fault else self._names[best], confidence, fault)

    def keep(self, tracks: Iterable[int]) -> None:
        """Forgets everybody but these."""
        alive = set(tracks)
        self._shown = {track: label for track, label in self._shown.items() if track in alive}

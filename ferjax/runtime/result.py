"""Defines the results of the live loop."""

from collections.abc import Mapping
from typing import NamedTuple

from ferjax.runtime.smoothing import Quality
from ferjax.runtime.sources.frame import Frame


class FaceResult(NamedTuple):
    """One face in one frame.

    Attributes:
      track: id of the track, constant while the face is tracked.
      box: (x, y, width, height) in pixels of the frame.
      label: a class name, or "uncertain".
      confidence: smoothed probability of the selected class, also if the label is "uncertain", in 0..1.
      probabilities: class name -> smoothed probability, in the model's order; they sum to 1.
      raw_probabilities: the model's output for this frame, or None if the face was not classified in this frame.
      landmarks: (x, y) in pixels of the frame: both eyes, nose, mouth corners, or both eyes only; None if the detector
        finds none.
      quality: image quality of the crop when the face was last classified.
    """

    track: int
    box: tuple[int, int, int, int]
    label: str
    confidence: float
    probabilities: Mapping[str, float]
    raw_probabilities: Mapping[str, float] | None
    landmarks: tuple[tuple[float, float], ...] | None = None
    quality: Quality | None = None


class Latency(NamedTuple):
    """Time per stage of one frame, in milliseconds."""

    capture: float
    detect: float
    classify: float
    draw: float = 0.0


class Result(NamedTuple):
    """One frame and its faces.

    Attributes:
      frame: image, index and number of dropped frames.
      time: time of the frame in seconds; see `Frame`.
      faces: in the order of their tracks.
      latency: time per stage so far.
    """

    frame: Frame
    time: float
    faces: list[FaceResult]
    latency: Latency

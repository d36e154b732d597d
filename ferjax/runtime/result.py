"""What the live loop says about a frame."""

from collections.abc import Mapping
from typing import NamedTuple

from ferjax.runtime.sources.frame import Frame


class FaceResult(NamedTuple):
    """One face in one frame.

    Attributes:
      track: number of the person, the same as long as the face is followed.
      box: (x, y, width, height) in pixels of the frame.
      label: a class name, or "uncertain".
      confidence: smoothed probability of the label, or of what it would be if it were not "uncertain", in 0..1.
      probabilities: class name -> smoothed probability, in the model's order; they sum to 1.
      raw_probabilities: the model's answer for this very frame, or None where this frame was not this face's turn.
    """

    track: int
    box: tuple[int, int, int, int]
    label: str
    confidence: float
    probabilities: Mapping[str, float]
    raw_probabilities: Mapping[str, float] | None


class Latency(NamedTuple):
    """Milliseconds that the parts of one frame took."""

    capture: float
    detect: float
    classify: float
    draw: float = 0.0


class Result(NamedTuple):
    """One frame and its faces.

    Attributes:
      frame: the picture, its index and how many the camera dropped before it.
      time: of the frame, in seconds; see `Frame`.
      faces: in the order of their tracks.
      latency: what the frame cost so far.
    """

    frame: Frame
    time: float
    faces: list[FaceResult]
    latency: Latency

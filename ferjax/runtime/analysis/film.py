"""Tracks and classifies the faces of a film: `ferjax.analyze_film`."""

import os
from typing import TYPE_CHECKING, NamedTuple

from ferjax.errors import InputError
from ferjax.runtime.ahead import ahead
from ferjax.runtime.analysis.photo import reused_model
from ferjax.runtime.analysis.timeline import Summary, Timeline
from ferjax.runtime.faces.detector import Detector, create_detector
from ferjax.runtime.loop import RATE, stream
from ferjax.runtime.model import Model
from ferjax.runtime.result import FaceResult
from ferjax.runtime.show.log import columns, face_entry, flat
from ferjax.runtime.sources.factory import existing, open_source
from ferjax.runtime.sources.frame import Source

if TYPE_CHECKING:
    import pandas


class Row(NamedTuple):
    """One face in one frame; `time` is in seconds, `frame` the number of the frame from 0."""

    time: float
    frame: int
    face: FaceResult


class Film(NamedTuple):
    """The faces of a film.

    Attributes:
      rows: one per face and frame, in the order of the frames.
      summary: duration, and for each person the time per label.
      class_names: in the order of the probabilities.
    """

    rows: list[Row]
    summary: Summary
    class_names: tuple[str, ...]

    def to_pandas(self) -> "pandas.DataFrame":
        """Returns the rows as a table with the columns of faces.csv.

        Raises:
          InputError: if pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise InputError("to_pandas requires pandas: pip install pandas") from error
        return DataFrame([flat(face_entry(*row)) for row in self.rows], columns=columns(self.class_names))


def analyze_film(
    path: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | Model | None = None,
    detector: str | Detector = "haar",
    detector_model: str | os.PathLike[str] | None = None,
    detect_scale: float | None = None,
    smooth: int = 10,
    smoothing: str = "adaptive",
    threshold: float | None = None,
    rate: float = RATE,
) -> Film:
    """Tracks and classifies the faces of a film.

        film = ferjax.analyze_film("talk.mp4")
        for person in film.summary.people:
            print(person.track, person.seconds)

    Args:
      path: a video file.
      model: see `ferjax.runtime.load` (default: the default model of the package), or a loaded model.
      detector: see `ferjax.runtime.stream`, as all that follow.
      detector_model: file of the detector.
      detect_scale: size of the searched image relative to the frame.
      smooth: window of the smoothing, in frames of 1/30 second.
      smoothing: "adaptive", "mean" or "exponential".
      threshold: confidence below which a face is "uncertain".
      rate: minimum classifications per face and second.

    Raises:
      InputError: if the film cannot be read, or an option is invalid.
    """
    if not isinstance(detector, Detector):  # not the one of `analyze`, which another thread may use
        detector = create_detector(detector, scale=detect_scale, model=detector_model)
    loaded = reused_model(model)
    names = loaded.spec.class_names
    with open_film(path) as source:
        rows, timeline = list[Row](), Timeline(names, source.fps)
        results = stream(
            source,
            loaded,
            detector=detector,
            smooth=smooth,
            smoothing=smoothing,
            threshold=threshold,
            rate=rate,
            pipe=ahead,
        )
        for result in results:
            timeline.add(result)
            rows += (Row(result.time, result.frame.index, face) for face in result.faces)
    timeline.close()
    return Film(rows, timeline.summary(), names)


def open_film(path: str | os.PathLike[str]) -> Source:
    """Opens a video file.

    Raises:
      InputError: if the path is not that of a file, or the file is a photo or cannot be read.
    """
    file = existing(path, "a video file")
    if not file.is_file():
        raise InputError(f"{file} is not a file: give a video file")
    source = open_source(file.absolute())
    if source.stills:
        source.close()
        raise InputError(f"{file} is a photo: use ferjax.analyze")
    return source

"""Detects, tracks and classifies the faces of a source: the live loop."""

import itertools
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ferjax.errors import InputError
from ferjax.runtime.faces.detector import Detector, Face, create_detector, crop
from ferjax.runtime.faces.tracking import Track, non_max_suppression
from ferjax.runtime.faces.video import Search, VideoTracker
from ferjax.runtime.model import Model, load
from ferjax.runtime.result import FaceResult, Latency, Result
from ferjax.runtime.smoothing import Decision, Labeler, Limits, Quality, Smoother, quality
from ferjax.runtime.sources.factory import open_source
from ferjax.runtime.sources.frame import Frame, Source

RATE = 10.0  # minimum classifications per face and second
MAX_UNSEEN = 0.25  # seconds for which a face without detection is still shown at its predicted box


def stream(
    source: str | int | PathLike[str] | Iterable[Frame],
    model: str | PathLike[str] | Model,
    *,
    detector: str | Detector = "haar",
    detector_model: str | Path | None = None,
    detect_scale: float | None = None,
    smooth: int = 10,
    smoothing: str = "adaptive",
    threshold: float | None = None,
    rate: float = RATE,
    threads: int = 1,
    pipe: Callable[[Generator[Any]], Iterator[Any]] = iter,
) -> Iterator[Result]:
    """Detects, tracks and classifies the faces of a source, frame by frame.

        for result in stream(0, "resnet20_int8.tflite"):
            for face in result.faces:
                print(result.time, face.track, face.label, face.confidence)

    Args:
      source: argument of `open_source`, or an iterable of frames. A source opened here is closed at the end.
      model: an exported file, or a loaded model.
      detector: "haar", "yunet", "dlib", "none", or a result of `create_detector`.
      detector_model: file of the detector, if it requires one.
      detect_scale: size of the searched image relative to the frame; see `create_detector`.
      smooth: window of the smoothing, in frames of 1/30 second.
      smoothing: "adaptive", "mean" (Paraschiv 2026) or "exponential"; see `Smoother`.
      threshold: confidence below which a face is "uncertain" (default: the model's threshold; if it is 0, that of
        `Limits`).
      rate: minimum classifications per face and second, if the frame rate allows. Between them, a face keeps its last
        probabilities. Images of a folder are all classified.
      threads: threads of the classifier, if `model` is a file.
      pipe: applied to each stage: search for new faces, tracking, classification. `ahead` runs each in a thread of its
        own, for films.

    Returns:
      An iterator of one result per frame.

    Raises:
      InputError: immediately, if the model, detector, source or an option is invalid.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold must be within 0..1, got {threshold}")
    if not 0 < rate < math.inf:
        raise InputError(f"rate must be a finite number of classifications per second greater than 0, got {rate}")
    loaded = model if isinstance(model, Model) else load(model, threads=threads)
    if not isinstance(detector, Detector):
        detector = create_detector(detector, scale=detect_scale, model=detector_model)
    classifier = _Classifier(loaded, Smoother(smoothing, smooth), threshold, rate)
    if isinstance(source, str | int | PathLike):
        opened = open_source(source)
        return _closing(opened, _results(opened, detector, classifier, pipe))
    return _results(source, detector, classifier, pipe)


def _closing(source: Source, results: Iterator[Result]) -> Iterator[Result]:
    with source:
        yield from results


def _results(
    frames: Iterable[Frame],
    detector: Detector,
    classifier: "_Classifier",
    pipe: Callable[[Generator[Any]], Iterator[Any]],
) -> Iterator[Result]:
    """Yields the results of three stages: search for new faces, tracking, classification."""
    if isinstance(frames, Source) and frames.stills:
        return pipe(_classified(_detected_stills(frames, detector), classifier))
    tracker = VideoTracker(detector)
    return pipe(_classified(pipe(_tracked(pipe(_searched(frames, tracker)), tracker)), classifier))


def _detected_stills(frames: Iterable[Frame], detector: Detector) -> Generator[tuple[Frame, list[Track], float]]:
    """Yields unrelated images with their faces as new tracks, and the milliseconds of the detection."""
    ids = itertools.count(1)
    for frame in frames:
        start = time.perf_counter()
        faces = non_max_suppression(detector.detect_photo(frame.image))
        tracks = [Track(next(ids), f.box, f.landmarks, f.score, True, frame.time, frame.time) for f in faces]
        yield frame, tracks, (time.perf_counter() - start) * 1e3


def _searched(frames: Iterable[Frame], tracker: VideoTracker) -> Generator[tuple[Frame, Search, float]]:
    for frame in frames:
        start = time.perf_counter()
        new = tracker.search(frame.image, frame.time)
        yield frame, new, (time.perf_counter() - start) * 1e3


def _tracked(
    searched: Iterable[tuple[Frame, Search, float]], tracker: VideoTracker
) -> Generator[tuple[Frame, list[Track], float]]:
    for frame, new, search_ms in searched:
        start = time.perf_counter()
        tracks = tracker.follow(frame.image, frame.time, new)
        yield frame, tracks, search_ms + (time.perf_counter() - start) * 1e3


def _classified(tracked: Iterable[tuple[Frame, list[Track], float]], classifier: "_Classifier") -> Generator[Result]:
    for frame, tracks, detect_ms in tracked:
        start = time.perf_counter()
        faces = classifier.classify(frame, tracks)
        classify_ms = (time.perf_counter() - start) * 1e3
        yield Result(frame, frame.time, faces, Latency(frame.capture_ms, detect_ms, classify_ms))


class _Classifier:
    """Classifies tracked faces and keeps the smoothed probabilities and the label of each track."""

    def __init__(self, model: Model, smoother: Smoother, threshold: float | None, rate: float):
        if threshold is None:
            threshold = model.spec.abstention_threshold or Limits().confidence
        self._model, self._names = model, model.spec.class_names
        self._smoother = smoother
        self._labeler = Labeler(self._names, limits=Limits(confidence=threshold))
        self._scheduler = _Scheduler(rate)
        self._shown: dict[int, tuple[Decision, dict[str, float], Quality]] = {}

    def classify(self, frame: Frame, tracks: list[Track]) -> list[FaceResult]:
        """Classifies the faces that are due and returns the visible faces."""
        visible = [t for t in tracks if frame.time - t.last_seen <= MAX_UNSEEN]
        due = self._scheduler.choose(visible, frame.time)
        raw = dict(zip((track.id for track in due), self._classify(frame, due), strict=True))
        alive = {track.id for track in tracks}
        for memory in (self._smoother, self._labeler, self._scheduler):
            memory.keep(alive)
        self._shown = {track: shown for track, shown in self._shown.items() if track in alive}
        return [self._result(track, raw.get(track.id)) for track in visible if track.id in self._shown]

    def _classify(self, frame: Frame, tracks: list[Track]) -> list[dict[str, float]]:
        if not tracks:
            return []
        crops = [crop(frame.image, Face(t.box, t.score, t.landmarks), self._model.spec) for t in tracks]
        results = []
        for track, face, raw in zip(tracks, crops, self._model.probabilities(np.stack(crops)), strict=True):
            smoothed = self._smoother.smooth(track.id, raw, frame.time)
            measured = quality(face, track.box[2])
            decision = self._labeler.label(track.id, smoothed, measured)
            self._shown[track.id] = decision, self._named(smoothed), measured
            results.append(self._named(raw))
        return results

    def _named(self, probabilities: np.ndarray) -> dict[str, float]:
        return dict(zip(self._names, probabilities.tolist(), strict=True))

    def _result(self, track: Track, raw: dict[str, float] | None) -> FaceResult:
        decision, probabilities, measured = self._shown[track.id]
        x, y, w, h = (round(v) for v in track.box)
        points = None if track.landmarks is None else tuple((float(a), float(b)) for a, b in track.landmarks)
        label, confidence = decision.label, decision.confidence
        return FaceResult(track.id, (x, y, w, h), label, confidence, probabilities, raw, points, measured)


class _Scheduler:
    """Chooses the faces to classify in each frame: each `rate` times a second, spread evenly over the frames."""

    def __init__(self, rate: float):
        self._period, self._last = 1 / rate, dict[int, float]()
        self._now, self._step, self._credit = math.nan, 0.0, 0.0

    def choose(self, tracks: list[Track], now: float) -> list[Track]:
        """Returns the faces to classify now: those that would be late in the next frame, then the longest waiting."""
        step = now - self._now
        if step > 0:  # False in the first frame, where it is NaN
            self._step += (min(step, self._period) - self._step) * (0.2 if self._step else 1.0)
            self._credit += len(tracks) * min(step, self._period) / self._period
        self._now = now
        waiting = sorted((t for t in tracks if t.seen), key=lambda t: self._last.get(t.id, -math.inf))
        late = now + self._step - 1.001 * self._period  # last time from which the next frame is more than a period away
        urgent = sum(self._last.get(t.id, -math.inf) < late for t in waiting)
        chosen = waiting[: max(urgent, int(self._credit))]
        self._credit = max(0.0, min(self._credit - len(chosen), 1.0))
        self._last.update((t.id, now) for t in chosen)
        return chosen

    def keep(self, tracks: Iterable[int]) -> None:
        """Deletes the state of all other tracks."""
        alive = set(tracks)
        self._last = {track: at for track, at in self._last.items() if track in alive}

"""The live loop: frames in, people with steady labels out.

for result in stream(0, "resnet20_int8.tflite"):
    for face in result.faces:
        print(result.time, face.track, face.label, face.confidence)
"""

import itertools
import math
import time
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

import numpy as np

from ferjax.errors import InputError
from ferjax.runtime.faces.detector import Detector, Face, create_detector, crop
from ferjax.runtime.faces.tracking import Track, distinct
from ferjax.runtime.faces.watching import Watcher
from ferjax.runtime.model import Model, load
from ferjax.runtime.result import FaceResult, Latency, Result
from ferjax.runtime.smoothing import Decision, Labeller, Limits, Quality, Smoother, quality
from ferjax.runtime.sources.frame import Frame, Source
from ferjax.runtime.sources.opening import open_source

RATE = 10.0  # classifications of a face per second, at least
_UNSEEN = 0.25  # seconds for which a face that is not found is still shown where it should be


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
) -> Iterator[Result]:
    """Finds, follows and classifies the faces of a source, frame by frame.

    Args:
      source: what `open_source` takes, or frames; a source opened here is closed at the end.
      model: an exported file, or a loaded model.
      detector: "haar", "yunet", "dlib", "none", or one from `create_detector`.
      detector_model: the detector's file where it needs one.
      detect_scale: size of the searched picture relative to the frame; see `create_detector`.
      smooth: window of the mean over a person's last distributions, in frames of a thirtieth of a second.
      smoothing: how they are averaged, see `Smoother`: "adaptive", "mean" (Paraschiv 2026) or "exponential".
      threshold: confidence below which a face is "uncertain"; the model's own if not given, and that of `Limits` for a
        model that has none.
      rate: how often a second each face is classified at least, as far as frames come; in between a face keeps its
        last answer. The pictures of a folder are all classified.
      threads: for the classifier, where a file is given.

    Returns:
      An iterator of one result per frame:

        for result in stream(0, "resnet20_int8.tflite"):
            for face in result.faces:
                print(result.time, face.track, face.label, face.confidence)

    Raises:
      InputError: at once for a model, detector, source or option that cannot be used.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold must be within 0..1, got {threshold}")
    if not 0 < rate < math.inf:
        raise InputError(f"rate must be a number of classifications a second greater than 0, got {rate}")
    classifier = model if isinstance(model, Model) else load(model, threads=threads)
    finder = detector
    if not isinstance(finder, Detector):
        finder = create_detector(finder, scale=detect_scale, model=detector_model)
    people = _People(classifier, Smoother(smoothing, smooth), threshold, rate)
    if isinstance(source, str | int | PathLike):
        opened = open_source(source)
        return _closing(opened, _run(opened, finder, people))
    return _run(source, finder, people)


def _closing(source: Source, results: Iterator[Result]) -> Iterator[Result]:
    with source:
        yield from results


def _run(frames: Iterable[Frame], detector: Detector, people: "_People") -> Iterator[Result]:
    stills = isinstance(frames, Source) and frames.stills
    watcher, ids = Watcher(detector), itertools.count(1)
    for frame in frames:
        start = time.perf_counter()
        tracks = _unrelated(detector, frame, ids) if stills else watcher.update(frame.image, frame.time)
        found = time.perf_counter()
        faces = people.update(frame, tracks)
        end = time.perf_counter()
        yield Result(frame, frame.time, faces, Latency(frame.capture_ms, (found - start) * 1e3, (end - found) * 1e3))


def _unrelated(detector: Detector, frame: Frame, ids: Iterator[int]) -> list[Track]:
    """Everybody in a picture that has nothing to do with the one before."""
    faces = distinct(detector.still(frame.image))
    return [Track(next(ids), f.box, f.landmarks, f.score, True, frame.time, frame.time) for f in faces]


class _People:
    """What is known about everybody who is followed: last answer, smoothed distribution, label."""

    def __init__(self, model: Model, smoother: Smoother, threshold: float | None, rate: float):
        limits = Limits()
        least = threshold if threshold is not None else model.spec.abstention_threshold or limits.confidence
        self._model, self._names = model, model.spec.class_names
        self._smoother = smoother
        self._labeller = Labeller(self._names, limits=Limits(confidence=least))
        self._turns = _Turns(rate)
        self._shown: dict[int, tuple[Decision, dict[str, float]]] = {}

    def update(self, frame: Frame, tracks: list[Track]) -> list[FaceResult]:
        """Answers for those whose turn it is; a person who is hidden is remembered, but not shown."""
        visible = [t for t in tracks if frame.time - t.last_seen <= _UNSEEN]
        chosen = self._turns.choose(visible, frame.time)
        answers = dict(zip((track.id for track in chosen), self._classify(frame, chosen), strict=True))
        alive = {track.id for track in tracks}
        for memory in (self._smoother, self._labeller, self._turns):
            memory.keep(alive)
        self._shown = {track: shown for track, shown in self._shown.items() if track in alive}
        return [self._result(track, answers.get(track.id)) for track in visible if track.id in self._shown]

    def _classify(self, frame: Frame, tracks: list[Track]) -> list[dict[str, float]]:
        if not tracks:
            return []
        spec = self._model.spec
        crops = [crop(frame.image, Face(t.box, t.score, t.landmarks), spec) for t in tracks]
        answers = []
        for track, cut, raw in zip(tracks, crops, self._model.probabilities(np.stack(crops)), strict=True):
            self._say(track, quality(cut, track.box[2]), raw, frame.time)
            answers.append(self._named(raw))
        return answers

    def _say(self, track: Track, measured: Quality, raw: np.ndarray, now: float) -> None:
        smoothed = self._smoother.update(track.id, raw, now)
        self._shown[track.id] = self._labeller.update(track.id, smoothed, measured), self._named(smoothed)

    def _named(self, probabilities: np.ndarray) -> dict[str, float]:
        return dict(zip(self._names, probabilities.tolist(), strict=True))

    def _result(self, track: Track, raw: dict[str, float] | None) -> FaceResult:
        decision, probabilities = self._shown[track.id]
        x, y, w, h = (round(v) for v in track.box)
        return FaceResult(track.id, (x, y, w, h), decision.label, decision.confidence, probabilities, raw)


class _Turns:
    """Whose turn it is: everybody `rate` times a second, spread so that frames cost about the same."""

    def __init__(self, rate: float):
        self._period, self._last = 1 / rate, dict[int, float]()
        self._now, self._step, self._credit = math.nan, 0.0, 0.0

    def choose(self, tracks: list[Track], now: float) -> list[Track]:
        """Returns those to classify now: who would have to wait too long, and the longest waiting in turn."""
        step = now - self._now
        if step > 0:  # not in the first frame, where it is not a number
            self._step += (min(step, self._period) - self._step) * (0.2 if self._step else 1.0)
            self._credit += len(tracks) * min(step, self._period) / self._period
        self._now = now
        waiting = sorted((t for t in tracks if t.seen), key=lambda t: self._last.get(t.id, -math.inf))
        late = now + self._step - 1.001 * self._period  # the next frame would be more than a period after these
        due = sum(self._last.get(t.id, -math.inf) < late for t in waiting)
        chosen = waiting[: max(due, int(self._credit))]
        self._credit = max(0.0, min(self._credit - len(chosen), 1.0))
        self._last.update((t.id, now) for t in chosen)
        return chosen

    def keep(self, tracks: Iterable[int]) -> None:
        """Forgets everybody but these."""
        alive = set(tracks)
        self._last = {track: at for track, at in self._last.items() if track in alive}

"""Measures Paraschiv's table of smoothing windows: python -m benchmarks.studies.smoothing.

Rendered clips run through the live path: the Haar detector, tracking, crops, a classifier, smoothing per person,
hysteresis. Flicker is how often the label of a person with one steady expression changes (clips "flicker"); lag is the
time from a true change of expression to the first frame that shows it (clips "changing"). N counts frames of a
thirtieth of a second; "adaptive 10" is the default of the live loop.

Without --model, a linear classifier on gradients, fitted here to rendered faces, stands in for a network.
"""

import itertools
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from ferjax import cli, errors, runtime
from ferjax.data.synthetic.clips import EXPRESSIONS, render_clip
from ferjax.data.synthetic.rendering import render_faces
from ferjax.runtime.faces.detector import Face, create_detector, crop
from ferjax.runtime.faces.video import VideoTracker
from ferjax.runtime.smoothing import Labeler, Limits, Smoother
from ferjax.spec import ModelSpec
from tools import tables

COLUMNS = [
    ("window N", "{window}"),
    ("smoothing", "{smoothing}"),
    ("label changes per minute, steady face", "{flicker:.1f}"),
    ("lag ms, median", "{lag:.0f}"),
    ("lag ms, 90 %", "{lag_90:.0f}"),
    ("changes shown within 0.4 s %", "{prompt:.0f}"),
    ("the paper's latency ms", "{paper}"),
]
PAPER = {1: 33, 5: 167, 10: 333, 20: 667}
FPS = 30
_RATE = 10  # classifications a second


class Classifier(Protocol):
    """What the loop needs of a model."""

    spec: ModelSpec

    def probabilities(self, faces: np.ndarray) -> np.ndarray:
        """Returns float (N, C) for uint8 (N, H, W, C)."""


class Gradients:
    """Histograms of gradients and a ridge regression on rendered faces, calibrated to a softmax."""

    spec = ModelSpec(
        class_names=EXPRESSIONS, input_size=(48, 48), color_order="gray", mean=(0.5,), std=(0.25,), architecture=""
    )

    def __init__(self, faces: int = 3500):
        labels = np.arange(faces) % len(EXPRESSIONS)
        x = self._features(render_faces(labels, seed=0))
        targets = np.eye(len(EXPRESSIONS))[labels]
        self._weights = np.linalg.solve(x.T @ x + 3.0 * np.eye(x.shape[1]), x.T @ targets)

    def probabilities(self, faces: np.ndarray) -> np.ndarray:
        """Returns float (N, C) for uint8 (N, H, W, C)."""
        scores = 8.0 * self._features(faces) @ self._weights
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    @staticmethod
    def _features(faces: np.ndarray) -> np.ndarray:
        hog = cv2.HOGDescriptor((48, 48), (16, 16), (8, 8), (8, 8), 9)
        rows = np.stack([np.ravel(hog.compute(face[..., 0])) for face in faces])
        return np.hstack([rows, np.ones((len(rows), 1))])


class Answer(NamedTuple):
    """What the classifier said of the person in a clip, and what was true."""

    time: float
    track: int
    probabilities: np.ndarray
    label: int


def main() -> None:
    parser = tables.arguments(__doc__)
    parser.add_argument("--model", type=pathlib.Path, help="an exported file for the seven expressions")
    parser.add_argument("--clips", type=int, default=6, help="clips of each kind (default 6)")
    parser.add_argument("--seconds", type=float, default=20, help="length of a clip (default 20)")
    options = parser.parse_args()
    classifier = runtime.load(options.model) if options.model else Gradients()
    if classifier.spec.class_names != EXPRESSIONS:
        raise errors.InputError(f"the model must tell {', '.join(EXPRESSIONS)} apart, in this order")
    cv2.setNumThreads(1)
    steady, changing = (
        [list(answers(kind, seed, options.seconds, classifier)) for seed in range(options.clips)]
        for kind in ("flicker", "changing")
    )
    rows = [row("mean", window, steady, changing, PAPER[window]) for window in PAPER]
    rows += [row(smoothing, 10, steady, changing, "–") for smoothing in ("exponential", "adaptive")]
    command = tables.command("benchmarks.studies.smoothing")
    packages = ["numpy", "opencv-python"]
    table = tables.save("smoothing", COLUMNS, rows, command=command, packages=packages, results=options.results)
    print(tables.render(table))


def answers(kind: str, seed: int, seconds: float, classifier: Classifier) -> Iterable[Answer]:
    """Yields what the classifier says of the person in a clip, ten times a second."""
    tracker = VideoTracker(create_detector("haar"))
    for index, (frame, people) in enumerate(render_clip(kind, seed=seed, frames=round(seconds * FPS))):
        tracks = tracker.track(frame, index / FPS)
        if tracks and people and index % (FPS // _RATE) == 0:
            track = tracks[0]
            cut = crop(frame, Face(track.box, track.score, track.landmarks), classifier.spec)
            (p,) = classifier.probabilities(cut[None])
            yield Answer(index / FPS, track.id, np.asarray(p, float), people[0].label)


def row(smoothing: str, window: int, steady: list, changing: list, paper: int | str) -> dict:
    """Returns one line of the table."""
    minutes = sum(len(clip) for clip in steady) / (60 * _RATE)
    raw = sum(_changes([int(a.probabilities.argmax()) for a in clip]) for clip in steady)
    shown = sum(_changes(labels(clip, smoothing, window)) for clip in steady)
    lags = [lag for clip in changing for lag in _lags(clip, labels(clip, smoothing, window))]
    known = [lag for lag in lags if lag is not None]
    return {
        "name": f"{smoothing} {window}",
        "smoothing": smoothing,
        "window": window,
        "raw": raw / minutes,
        "flicker": shown / minutes,
        "fewer": raw / max(shown, 1),
        "lag": 1e3 * float(np.median(known)),
        "lag_90": 1e3 * float(np.percentile(known, 90)),
        "prompt": 100 * sum(lag is not None and round(lag, 3) <= 0.4 for lag in lags) / len(lags),
        "changes": len(lags),
        "paper": paper,
    }


def labels(clip: Sequence[Answer], smoothing: str, window: int) -> list[str]:
    """Returns the label shown at each answer; a window of 1 is Paraschiv's raw label, without hysteresis."""
    smoother = Smoother(smoothing, window)
    labeler = Labeler(EXPRESSIONS, limits=Limits(confidence=0.0), hysteresis=0.15 if window > 1 else 0.0)
    return [labeler.label(a.track, smoother.smooth(a.track, a.probabilities, a.time)).label for a in clip]


def _changes(shown: Sequence) -> int:
    return sum(a != b for a, b in itertools.pairwise(shown))


def _lags(clip: Sequence[Answer], shown: Sequence[str]) -> list[float | None]:
    """The time until each change is shown, None if never; changes that the classifier misses do not count.

    It misses one if it is wrong about the new expression more often than once in five times.
    """
    lags: list[float | None] = []
    for k in range(1, len(clip)):
        if clip[k].label == clip[k - 1].label or clip[k].time - clip[0].time < 1:
            continue
        until = [j for j in range(k, len(clip)) if clip[j].time < clip[k].time + 1.9 and clip[j].label == clip[k].label]
        seen = np.mean([int(clip[j].probabilities.argmax()) == clip[k].label for j in until]) >= 0.8
        if seen and shown[k - 1] != EXPRESSIONS[clip[k].label]:
            name = EXPRESSIONS[clip[k].label]
            first = next((j for j in until if shown[j] == name), None)
            lags.append(None if first is None else clip[first].time - clip[k].time)
    return lags


if __name__ == "__main__":
    cli.run(main)

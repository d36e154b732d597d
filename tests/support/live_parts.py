"""Frames, results and detectors by hand, for the tests of the live loop."""

import dataclasses

import cv2
import numpy as np

from ferjax.runtime.engine import Engine, Port
from ferjax.runtime.faces.detector import Face, create_detector
from ferjax.runtime.model import Model
from ferjax.runtime.result import FaceResult, Latency, Result
from ferjax.runtime.sources.frame import Frame
from tests.support import small_files

NAMES = ("angry", "happy", "sad")
# A linear network on 24x24 pixels whose answers are far from certain.
SPEC = small_files.GRAY.replace(input_size=(24, 24), std=(12.0,))

RED = np.random.default_rng(0).integers(0, 256, (20, 20)).repeat(2, 0).repeat(2, 1)  # something to be sharp


def frame(index=0, *, size=(120, 160), fps=30.0, value=90, time=None):
    image = np.full((*size, 3), value, np.uint8)
    return Frame(image, index / fps if time is None else time, index, 0, 1.0)


def face(track=1, box=(10, 20, 40, 40), p=(0.7, 0.2, 0.1), label=None, raw=None):
    probabilities = dict(zip(NAMES, p, strict=True))
    best = max(probabilities, key=probabilities.__getitem__)
    named = None if raw is None else dict(zip(NAMES, raw, strict=True))
    return FaceResult(track, box, label or best, probabilities[best], probabilities, named)


def result(*faces, of=None):
    of = of or frame()
    return Result(of, of.time, list(faces), Latency(1.0, 2.0, 3.0, 4.0))


def coloured_patches(picture, least, most):
    """Finds squares whose blue is 255, if they do not touch."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(cv2.inRange(picture, (255, 0, 0), (255, 255, 255)))
    return [Face((float(x), float(y), float(w), float(w)), 0.9) for x, y, w, *_ in stats[1:].tolist()]


def patch_detector():
    """A detector that searches every frame in full and never errs."""
    return dataclasses.replace(create_detector("none"), find=coloured_patches)


def patches(index, places, *, size=(240, 320), fps=30.0, time=None):
    """A frame with one square face of 40 pixels at each place; its green tells them apart."""
    made = frame(index, size=size, fps=fps, time=time)
    for tone, (x, y) in places.items():
        made.image[y : y + 40, x : x + 40] = (255, tone, 0)
        made.image[y : y + 40, x : x + 40, 2] = RED
    return made


def brightness_model():
    """A model that is certain: of dark faces "angry", of bright ones "sad", of those between "happy"."""

    def run(batch):
        gray = (batch.mean(axis=(1, 2, 3)) * SPEC.std[0] + SPEC.mean[0]) * 255
        return 8 * np.eye(3, dtype=np.float32)[np.digitize(gray, [95, 157])]

    ports = (Port((1, *SPEC.input_shape), np.dtype(np.float32)), Port((1, 3), np.dtype(np.float32)))
    return Model(SPEC, Engine("brightness", *ports, run))

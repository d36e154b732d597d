"""Frames, results and detectors by hand, for the tests of the live loop."""

import numpy as np
import small_files

from ferjax.runtime.faces import Detector, Face
from ferjax.runtime.frame import Frame
from ferjax.runtime.result import FaceResult, Latency, Result

NAMES = ("angry", "happy", "sad")
# A linear network on 24x24 pixels whose answers are far from certain.
SPEC = small_files.GRAY.replace(input_size=(24, 24), std=(12.0,))


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
    """Finds squares whose blue is 255: a detector that never errs."""
    found = []
    ys, xs = np.nonzero(picture[..., 0] == 255)
    for tone in sorted(set(picture[ys, xs, 1].tolist())):
        y, x = np.nonzero((picture[..., 0] == 255) & (picture[..., 1] == tone))
        side = float(max(np.ptp(x), np.ptp(y)) + 1)
        if side >= 4:
            found.append(Face((float(x.min()), float(y.min()), side, side), 0.9))
    return found


def patch_detector():
    return Detector("patches", coloured_patches, 8, 10_000, 1.0)


def patches(index, places, *, size=(240, 320), fps=30.0, time=None):
    """A frame with one square face of 40 pixels at each place; its green tells them apart."""
    made = frame(index, size=size, fps=fps, time=time)
    for tone, (x, y) in places.items():
        made.image[y : y + 40, x : x + 40] = (255, tone, 60)
    return made

"""Finding faces in a frame, behind one small interface, and cutting them out as a model wants them.

Whatever the detector, a box is the square from forehead to chin that OpenCV's frontal Haar cascade marks, so
that every detector feeds a model the same crop.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ferjax.errors import InputError, unknown
from ferjax.runtime.faces import finders
from ferjax.runtime.faces.boxes import LARGEST_SCALE, Box, Face, check_frame, cut, reduced
from ferjax.runtime.faces.finders import Find
from ferjax.spec import ModelSpec

_ALIGN = math.radians(45)  # a steeper line between "eyes" is a mistake of the landmarks
_AROUND = 0.35  # of a known face's side, searched on each of its sides
_NEXT = (0.75, 1.35)  # how much smaller or larger a face may be in the next frame


@dataclasses.dataclass(frozen=True)
class Detector:
    """Finds faces: `detector(frame)` returns them in the frame's pixels.

    Attributes:
      name: one of DETECTORS.
      find: (picture, least, most) -> faces whose side lies between these two, all in the picture's pixels.
      find_hints: the same on less evidence, to be confirmed in the next frames or by those before.
      sure: score that says a face is one, whatever the frames before and after say.
      smallest: side of the smallest face it finds, in pixels of the picture it searches.
      known: side that a known face is reduced to when it is searched for again.
      longest: side in pixels that frames are reduced to when no scale is given.
      scale: size of the searched picture relative to the frame, or None.
      span: how many times `smallest` a face may be so that the search of one picture stays cheap.
      tile: area in pixels of a picture that costs it a millisecond or a few.
      find_turned: as `find`, faces turned to their side, which take too long to be looked for in a film.
    """

    name: str
    find: Find
    find_hints: Find
    sure: float
    smallest: float
    known: float
    longest: float
    scale: float | None = None
    span: float = math.inf
    tile: float = math.inf
    find_turned: Find | None = None

    def smallest_face(self, frame_shape: tuple[int, ...]) -> float:
        """Returns the side of the smallest face found in a frame of shape (H, W, ...), in its pixels."""
        scale = self.scale or min(1.0, self.longest / max(frame_shape[:2]))
        return self.smallest / scale

    def __call__(
        self,
        frame: np.ndarray,
        region: Box | None = None,
        min_face: float | None = None,
        max_face: float | None = None,
    ) -> list[Face]:
        """Finds the faces in a frame or a part of it.

        Args:
          frame: uint8 (H, W, 3), BGR.
          region: (x, y, width, height) to search, in the frame's pixels; parts outside the frame do not count.
          min_face: side of the smallest face to find; it decides how much the picture is reduced. The default is
            `smallest_face`.
          max_face: side of the largest face to find.

        Returns:
          The faces, in the frame's pixels, in no order.

        Raises:
          InputError: if the frame is empty or not BGR.
        """
        check_frame(frame)
        least = min_face or self.smallest_face(frame.shape)
        return _search(self.find, frame, region, self.smallest / least, self.smallest, max_face or math.inf)

    def hints(self, frame: np.ndarray, region: Box, min_face: float, max_face: float) -> list[Face]:
        """Finds what may be a face: as `detector(...)`, on less evidence."""
        return _search(self.find_hints, frame, region, self.smallest / min_face, self.smallest, max_face)

    def still(self, frame: np.ndarray) -> list[Face]:
        """Finds the faces in a photograph: as `detector(frame)`, and where it can, those turned to their side."""
        faces = self(frame)
        if self.find_turned is None:
            return faces
        least = self.smallest_face(frame.shape) / 2  # seen twice as large: such a face has less to be known by
        scale = min(1.0, self.smallest / least)
        turned = _search(self.find_turned, frame, None, scale, scale * least, math.inf)
        return faces + [face for face in turned if not any(_meet(face.box, other.box) for other in faces)]

    def near(self, frame: np.ndarray, box: Box) -> Face | None:
        """Finds the face that should be where `box` is, or nearly so and nearly as large.

        Args:
          frame: uint8 (H, W, 3), BGR.
          box: (x, y, width, height) in the frame's pixels.
        """
        x, y, w, h = box
        around = (x - _AROUND * w, y - _AROUND * h, (1 + 2 * _AROUND) * w, (1 + 2 * _AROUND) * h)
        least = max(self.smallest, _NEXT[0] * self.known)
        found = _search(self.find_hints, frame, around, self.known / w, least, _NEXT[1] * w)
        return max(found, key=lambda face: face.score, default=None)


def create_detector(name: str = "haar", *, scale: float | None = None, model: str | Path | None = None) -> Detector:
    """Returns a face detector.

    Args:
      name: "haar", OpenCV's frontal cascade with Paraschiv's (2026) parameters: scale factor 1.1, 5 neighbours,
        smallest face 30 pixels of the searched picture; "yunet" (Wu et al. 2023), 16 pixels, five landmarks;
        "dlib", histograms of oriented gradients (King 2009), 80 pixels; "none", the frame's central square
        is one face.
      scale: size of the searched picture relative to the frame: 1 gives Haar's 30 pixels, 0.5 finds faces
        from 60. By default the longer side is reduced to 320 pixels (dlib: 640).
      model: the cascade (haar), the .onnx file (yunet), the 68-landmark predictor (dlib, for landmarks).

    Raises:
      InputError: if the name is unknown, the scale is no positive number, or the model is missing or unreadable.
    """
    if name not in DETECTORS:
        raise unknown("detector", name, DETECTORS)
    if scale is not None and not 0 < scale <= LARGEST_SCALE:
        raise InputError(f"the detector's scale must be greater than 0 and at most {LARGEST_SCALE:g}, got {scale}")
    path = Path(model) if model is not None else None
    if path is not None and not path.is_file():
        raise InputError(f"the detector's model {path} is no file")
    if name == "none" and (scale is not None or path is not None):
        raise InputError("the detector none searches nothing: leave out its scale and its model")
    return _CREATE[name](path, scale)


def crop(frame: np.ndarray, face: Face, spec: ModelSpec) -> np.ndarray:
    """Cuts a face out as the model wants it: squared, eyes level where they are known, resized.

    The square turns about its middle; what lies beyond the frame repeats its edge. A face of exactly the
    model's size comes out pixel for pixel.

    Args:
      frame: uint8 (H, W, 3), BGR.
      face: where it is.
      spec: gives size and colour order.

    Returns:
      uint8 `spec.input_shape`.
    """
    height, width = spec.input_size
    x, y, w, h = face.box
    side = max(w, h, 1.0)
    fine = max(1, round(side / max(height, width)))  # sample about every pixel, then average
    cosine, sine = math.cos(tilt(face)), math.sin(tilt(face))
    kx, ky = side / (width * fine), side / (height * fine)
    # Pixel centres: (i + 0.5) * k measured from the corner of the turned square, less the half pixel of the frame.
    matrix = np.array([[cosine * kx, -sine * ky, 0.0], [sine * kx, cosine * ky, 0.0]])
    middle = np.array([width * fine / 2 - 0.5, height * fine / 2 - 0.5])
    matrix[:, 2] = np.array([x + w / 2 - 0.5, y + h / 2 - 0.5]) - matrix[:, :2] @ middle
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    square = cv2.warpAffine(frame, matrix, (width * fine, height * fine), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    if fine > 1:
        square = cv2.resize(square, (width, height), interpolation=cv2.INTER_AREA)
    if spec.color_order == "gray":
        return cv2.cvtColor(square, cv2.COLOR_BGR2GRAY)[..., None]
    return np.ascontiguousarray(square[..., ::-1]) if spec.color_order == "rgb" else square


def tilt(face: Face) -> float:
    """Returns the angle of the line between the eyes in radians, clockwise on the screen; 0 if not known."""
    if face.landmarks is None:
        return 0.0
    (ax, ay), (bx, by) = sorted(face.landmarks[:2].tolist())
    angle = math.atan2(by - ay, bx - ax)
    return angle if abs(angle) < _ALIGN else 0.0


def _search(find: Find, frame: np.ndarray, region: Box | None, scale: float, least: float, most: float) -> list[Face]:
    """Searches a region reduced by a factor; `least` is in pixels of the reduced picture, `most` of the frame."""
    x, y, part = cut(frame, region)
    if not part.size:
        return []
    small = reduced(part, min(scale, LARGEST_SCALE))
    fx, fy = part.shape[1] / small.shape[1], part.shape[0] / small.shape[0]
    return [_moved(face, fx, fy, x, y) for face in find(small, least, most / fx)]


def _meet(a: Box, b: Box) -> bool:
    """Whether the middle of one box lies in the other."""
    apart = (abs(a[i] + a[i + 2] / 2 - b[i] - b[i + 2] / 2) for i in (0, 1))
    return max(apart) < max(a[2], b[2]) / 2


def _moved(face: Face, fx: float, fy: float, x: float, y: float) -> Face:
    left, top, w, h = face.box
    points = None if face.landmarks is None else face.landmarks * np.array([fx, fy]) + np.array([x, y])
    return Face((left * fx + x, top * fy + y, w * fx, h * fy), face.score, points)


_CREATE: dict[str, Callable[[Path | None, float | None], Detector]] = {
    "haar": lambda path, scale: Detector(
        "haar",
        *finders.haar(path),
        sure=0.5,
        smallest=30,
        known=40,
        longest=320,
        scale=scale,
        span=1.55,
        tile=27_000,
        find_turned=None if path else finders.haar_profile(),
    ),
    "yunet": lambda path, scale: Detector(
        "yunet", *finders.yunet(path), sure=0.7, smallest=16, known=37, longest=320, scale=scale, span=4, tile=45_000
    ),
    "dlib": lambda path, scale: Detector(
        "dlib", *finders.dlib_hog(path), sure=0, smallest=80, known=110, longest=640, scale=scale, span=8, tile=400_000
    ),
    "none": lambda path, scale: Detector("none", *finders.whole(path), sure=0, smallest=1, known=48, longest=math.inf),
}
DETECTORS = tuple(_CREATE)

"""Detects faces behind one interface, and crops them to the input of a model.

The box of every detector is converted to the square from forehead to chin of OpenCV's frontal Haar cascade, so that a
model gets the same crop from all of them.
"""

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ferjax.errors import InputError, unknown
from ferjax.runtime import preprocessing
from ferjax.runtime.faces import finders
from ferjax.runtime.faces.boxes import MAX_SCALE, Box, Face, check_frame, crop_region, resized
from ferjax.runtime.faces.finders import Find
from ferjax.spec import ModelSpec

MAX_TILT = math.radians(45)  # a steeper line between the eyes is a landmark error
MARGIN = 0.35  # searched on each side of a tracked face, relative to its side
SIZE_CHANGE = (0.75, 1.35)  # relative size of a tracked face in the next frame


@dataclasses.dataclass(frozen=True)
class Detector:
    """A face detector: `detector(frame)` returns the faces in the frame's pixels.

    Attributes:
      name: one of DETECTORS.
      find: (image, min_size, max_size) -> faces with a side in this range, in pixels of the image.
      gray: whether the image of `find` is gray, otherwise BGR.
      find_candidates: as `find` with a lower threshold, for faces that other frames confirm.
      confirm_score: score from which one detection is enough evidence for a face.
      min_size: side of the smallest face it finds, in pixels of the searched image.
      track_size: side to which a tracked face is resized before it is searched again, in pixels.
      max_side: longer side to which frames are reduced if `scale` is None, in pixels.
      scale: size of the searched image relative to the frame, or None.
      size_ratio: largest to smallest face size that one search covers at low cost.
      tile_area: area in pixels that takes a few milliseconds to search.
      find_profile: as `find`, for faces in profile; too slow for video.
    """

    name: str
    find: Find
    find_candidates: Find
    confirm_score: float
    min_size: float
    track_size: float
    max_side: float
    gray: bool = False
    scale: float | None = None
    size_ratio: float = math.inf
    tile_area: float = math.inf
    find_profile: Find | None = None

    def smallest_face(self, frame_shape: tuple[int, ...]) -> float:
        """Returns the side of the smallest face found in a frame of shape (H, W, ...), in its pixels."""
        scale = self.scale or min(1.0, self.max_side / max(frame_shape[:2]))
        return self.min_size / scale

    def __call__(
        self,
        frame: np.ndarray,
        region: Box | None = None,
        min_face: float | None = None,
        max_face: float | None = None,
    ) -> list[Face]:
        """Finds the faces in a frame or a region of it.

        Args:
          frame: uint8 (H, W, 3), BGR.
          region: (x, y, width, height) to search, in pixels; clipped to the frame.
          min_face: side of the smallest face to find, which sets the scale of the search (default: `smallest_face`).
          max_face: side of the largest face to find.

        Returns:
          The faces in the frame's pixels, unordered.

        Raises:
          InputError: if the frame is empty or not BGR.
        """
        check_frame(frame)
        min_face = min_face or self.smallest_face(frame.shape)
        return self._search(self.find, frame, region, self.min_size / min_face, self.min_size, max_face or math.inf)

    def candidates(self, frame: np.ndarray, region: Box, min_face: float, max_face: float) -> list[Face]:
        """Finds faces as `detector(...)` with a lower threshold."""
        return self._search(self.find_candidates, frame, region, self.min_size / min_face, self.min_size, max_face)

    def detect_photo(self, frame: np.ndarray) -> list[Face]:
        """Finds the faces in a photo, including profiles if the detector supports them."""
        faces = self(frame)
        if self.find_profile is None:
            return faces
        min_face = self.smallest_face(frame.shape) / 2  # profiles need twice the resolution
        scale = min(1.0, self.min_size / min_face)
        profiles = self._search(self.find_profile, frame, None, scale, scale * min_face, math.inf)
        return faces + [face for face in profiles if not any(_same_place(face.box, other.box) for other in faces)]

    def detect_near(self, frame: np.ndarray, box: Box) -> Face | None:
        """Finds the face at about the place and size of `box`.

        Args:
          frame: uint8 (H, W, 3), BGR.
          box: (x, y, width, height) in the frame's pixels.
        """
        x, y, w, h = box
        region = (x - MARGIN * w, y - MARGIN * h, (1 + 2 * MARGIN) * w, (1 + 2 * MARGIN) * h)
        min_size = max(self.min_size, SIZE_CHANGE[0] * self.track_size)
        found = self._search(self.find_candidates, frame, region, self.track_size / w, min_size, SIZE_CHANGE[1] * w)
        return max(found, key=lambda face: face.score, default=None)

    def _search(
        self, find: Find, frame: np.ndarray, region: Box | None, scale: float, min_size: float, max_face: float
    ) -> list[Face]:
        """Searches a resized region; `min_size` is in its pixels, `max_face` in those of the frame."""
        x, y, part = crop_region(frame, region)
        if not part.size:
            return []
        small = resized(part, min(scale, MAX_SCALE), gray=self.gray)
        fx, fy = part.shape[1] / small.shape[1], part.shape[0] / small.shape[0]
        return [_to_frame(face, fx, fy, x, y) for face in find(small, min_size, max_face / fx)]


def create_detector(
    name: str = "haar", *, scale: float | None = None, model: str | os.PathLike[str] | None = None
) -> Detector:
    """Creates a face detector.

    Args:
      name: "haar", OpenCV's frontal cascade with Paraschiv's (2026) parameters: scale factor 1.1, 5 neighbors, smallest
        face 30 pixels of the searched image; "yunet" (Wu et al. 2023), 16 pixels, five landmarks; "dlib", histograms of
        oriented gradients (King 2009), 80 pixels; "none", the central square of the frame is the face.
      scale: size of the searched image relative to the frame: with Haar, 1 finds faces from 30 pixels, 0.5 from 60.
        By default the longer side is reduced to 320 pixels (dlib: 640).
      model: the cascade (haar), the .onnx file (yunet), the 68-landmark predictor (dlib, optional).

    Raises:
      InputError: if the name is unknown, the scale is invalid, or the model is missing or unreadable.
    """
    if name not in DETECTORS:
        raise unknown("detector", name, DETECTORS)
    if scale is not None and not 0 < scale <= MAX_SCALE:
        raise InputError(f"the detector scale must be greater than 0 and at most {MAX_SCALE:g}, got {scale}")
    path = Path(model) if model is not None else None
    if path is not None and not path.is_file():
        raise InputError(f"the detector model {path} is not a file")
    if name == "none" and (scale is not None or path is not None):
        raise InputError("detector 'none' takes no scale and no model")
    return _CREATE[name](path, scale)


def crop(frame: np.ndarray, face: Face, spec: ModelSpec) -> np.ndarray:
    """Crops a face to the input of a model: square, rotated so that known eyes are level, resized.

    The square is taken at the resolution of the frame, and resized as the training images were. It rotates about its
    center; pixels outside the frame repeat its edge. A face of exactly the model's input size keeps its pixels.

    Args:
      frame: uint8 (H, W, 3), BGR.
      face: its box and landmarks.
      spec: gives size and color order.

    Returns:
      uint8 `spec.input_shape`.
    """
    x, y, w, h = face.box
    side = max(w, h, 1.0)
    pixels, angle = round(side), tilt(face)
    left, top = round(x + (w - pixels) / 2), round(y + (h - pixels) / 2)
    if not angle and min(left, top) >= 0 and top + pixels <= frame.shape[0] and left + pixels <= frame.shape[1]:
        square = frame[top : top + pixels, left : left + pixels]
    else:
        square = _rotated(frame, (x + w / 2, y + h / 2), side, angle, pixels)
    return np.ascontiguousarray(preprocessing.to_input(square, spec))


def _rotated(frame: np.ndarray, center: tuple[float, float], side: float, angle: float, pixels: int) -> np.ndarray:
    """Returns (pixels, pixels, 3): the square of this side about a center, rotated by an angle in radians."""
    cosine, sine = math.cos(angle), math.sin(angle)
    # Pixel centers: (i + 0.5) * side / pixels from the corner of the rotated square, minus half a pixel of the frame.
    matrix = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0]]) * (side / pixels)
    matrix[:, 2] = np.array(center) - 0.5 - matrix[:, :2] @ np.full(2, pixels / 2 - 0.5)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(frame, matrix, (pixels, pixels), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def tilt(face: Face) -> float:
    """Returns the angle of the line between the eyes in radians, clockwise on the screen; 0 without landmarks."""
    if face.landmarks is None:
        return 0.0
    (ax, ay), (bx, by) = sorted(face.landmarks[:2].tolist())
    angle = math.atan2(by - ay, bx - ax)
    return angle if abs(angle) < MAX_TILT else 0.0


def _same_place(a: Box, b: Box) -> bool:
    """Returns whether the center of one box lies in the other."""
    distances = (abs(a[i] + a[i + 2] / 2 - b[i] - b[i + 2] / 2) for i in (0, 1))
    return max(distances) < max(a[2], b[2]) / 2


def _to_frame(face: Face, fx: float, fy: float, x: float, y: float) -> Face:
    left, top, w, h = face.box
    points = None if face.landmarks is None else face.landmarks * np.array([fx, fy]) + np.array([x, y])
    return Face((left * fx + x, top * fy + y, w * fx, h * fy), face.score, points)


def _haar(path: Path | None, scale: float | None) -> Detector:
    find, candidates = finders.haar(path)
    return Detector(
        "haar",
        find,
        candidates,
        confirm_score=0.5,
        min_size=30,
        track_size=40,
        max_side=320,
        gray=True,
        scale=scale,
        size_ratio=1.55,
        tile_area=27_000,
        find_profile=None if path else finders.haar_profile(),
    )


def _yunet(path: Path | None, scale: float | None) -> Detector:
    find, candidates = finders.yunet(path)
    return Detector(
        "yunet",
        find,
        candidates,
        confirm_score=0.7,
        min_size=16,
        track_size=37,
        max_side=320,
        scale=scale,
        size_ratio=4,
        tile_area=45_000,
    )


def _dlib(path: Path | None, scale: float | None) -> Detector:
    find, candidates = finders.dlib_hog(path)
    return Detector(
        "dlib",
        find,
        candidates,
        confirm_score=0,
        min_size=80,
        track_size=110,
        max_side=640,
        gray=True,
        scale=scale,
        size_ratio=8,
        tile_area=400_000,
    )


def _none(path: Path | None, scale: float | None) -> Detector:
    find, candidates = finders.center_square(path)
    return Detector("none", find, candidates, confirm_score=0, min_size=1, track_size=48, max_side=math.inf)


_CREATE: dict[str, Callable[[Path | None, float | None], Detector]] = {
    "haar": _haar,
    "yunet": _yunet,
    "dlib": _dlib,
    "none": _none,
}
DETECTORS = tuple(_CREATE)

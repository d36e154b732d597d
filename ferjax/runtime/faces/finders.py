"""Implements the search of each detector: OpenCV's cascades, YuNet, dlib, the central square.

A finder is a function (image, min_size, max_size) -> faces with a side in this range. The cascades and dlib take a gray
image, the others BGR. Each detector has two finders: one with the usual threshold, and one with a lower threshold for
candidates that other frames confirm.
"""

import collections
import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np

from ferjax.errors import InputError
from ferjax.folders import native
from ferjax.runtime import fetch
from ferjax.runtime.engine import silence_stderr
from ferjax.runtime.faces.boxes import Face, crop_region, resized

T = TypeVar("T")
Find = Callable[[np.ndarray, float, float], list[Face]]
_EYE_SEARCH_SIZE = 200.0  # pixels to which larger faces are reduced before the search for eyes
_FACE_TO_HEAD = 0.7  # side of the face relative to the box of the profile cascade
_YUNET_MIN_SIDE = 64  # pixels
YUNET_SCORE, YUNET_CANDIDATE_SCORE, YUNET_MAX_IOU = 0.7, 0.5, 0.3
# The Haar square, relative to the sum of width and height, and its top; fitted on 150 rendered faces and six portraits.
YUNET_SQUARE, YUNET_TOP = 0.525, 0.53
_TILE, _CLIP_LIMIT = 40, 2.0  # CLAHE: tile side in pixels, about the smallest face; contrast limit


class _Spare(Generic[T]):
    """Lends objects that are not thread-safe, one to each thread that needs one at the same time."""

    def __init__(self, create: Callable[[], T]):
        self._create, self._free = create, collections.deque([create()])

    @contextlib.contextmanager
    def lent(self) -> Iterator[T]:
        try:
            item = self._free.pop()
        except IndexError:
            item = self._create()
        yield item
        self._free.append(item)


def haar(path: Path | None) -> tuple[Find, Find]:
    """Returns the finders of a Haar cascade: scale factor 1.1; 5 neighbors, 2 for candidates.

    The local contrast is equalized first (CLAHE; Zuiderveld 1994): the cascade normalizes by the contrast of a window,
    and dark faces in dim rooms have too little of it.

    Args:
      path: the cascade (default: OpenCV's frontal cascade).
    """
    file = path.absolute() if path else "haarcascade_frontalface_default.xml"
    spare = _Spare(lambda: (_cascade(file), _equalizer()))

    def find(image: np.ndarray, min_size: float, max_size: float, neighbors: int = 5) -> list[Face]:
        low = round(min_size)
        high = (0, 0) if math.isinf(max_size) else (max(low, round(max_size)),) * 2
        with spare.lent() as (cascade, equalize):
            boxes, counts = cascade.detectMultiScale2(equalize(image), 1.1, neighbors, minSize=(low, low), maxSize=high)
        pairs = zip(np.reshape(boxes, (-1, 4)).tolist(), np.ravel(counts).tolist(), strict=True)
        return [Face((float(x), float(y), float(w), float(h)), n / (n + 5)) for (x, y, w, h), n in pairs]

    return find, functools.partial(find, neighbors=2)


def haar_profile() -> Find:
    """Returns the finder of OpenCV's profile cascade: scale factor 1.1, 8 neighbors, both sides.

    The cascade marks the head; the face is its lower middle. In 200 rendered rooms, 5 neighbors give 9 false positives
    and 8 neighbors give 2.
    """
    cascade = functools.cache(lambda: _cascade("haarcascade_profileface.xml"))  # not loaded for video

    def find(image: np.ndarray, min_size: float, max_size: float) -> list[Face]:
        low = round(min_size / _FACE_TO_HEAD)
        faces = []
        for mirrored in (False, True):
            view = np.ascontiguousarray(image[:, ::-1]) if mirrored else image
            boxes, counts = cascade().detectMultiScale2(view, 1.1, 8, minSize=(low, low))
            for (x, y, w, h), n in zip(np.reshape(boxes, (-1, 4)).tolist(), np.ravel(counts).tolist(), strict=True):
                left, side = image.shape[1] - x - w if mirrored else x, _FACE_TO_HEAD * w
                box = (left + (w - side) / 2, y + 0.58 * h - side / 2, side, side)
                if side <= max_size:
                    faces.append(Face(box, n / (n + 5)))
        return faces

    return find


def yunet(given: Path | None) -> tuple[Find, Find]:
    """Returns the finders of YuNet: score 0.7, 0.5 for candidates.

    Args:
      given: the .onnx file (default: the downloaded one).
    """
    path = given or fetch.cached("yunet")
    # One network per input size: changing the size costs as much as a small search.
    spare = _Spare(dict[tuple[int, int], Any])

    def net(nets: dict[tuple[int, int], Any], size: tuple[int, int]) -> Any:
        if size not in nets:
            if len(nets) >= 12:
                nets.pop(next(iter(nets)))
            try:
                with silence_stderr():
                    nets[size] = cv2.FaceDetectorYN.create(
                        native(path), "", size, YUNET_CANDIDATE_SCORE, YUNET_MAX_IOU, 1000
                    )
            except cv2.error as error:
                raise InputError(f"OpenCV {cv2.__version__} cannot read {path} as a YuNet model") from error
        return nets[size]

    def find(image: np.ndarray, min_size: float, max_size: float, score: float = YUNET_SCORE) -> list[Face]:
        height, width = image.shape[:2]
        # Pad to multiples of 32, at least 64: OpenCV returns NaN for inputs of one cell of 32 pixels.
        right, bottom = max(-width % 32, _YUNET_MIN_SIDE - width), max(-height % 32, _YUNET_MIN_SIDE - height)
        padded = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT) if right or bottom else image
        try:
            with spare.lent() as nets:
                _, rows = net(nets, (width + right, height + bottom)).detect(padded)
        except cv2.error as error:
            raise InputError(f"OpenCV {cv2.__version__} cannot read {path} as a YuNet model") from error
        faces = []
        for row in rows[np.isfinite(rows).all(1)] if rows is not None else ():
            x, y, w, h = row[:4].tolist()
            side = YUNET_SQUARE * (w + h)
            box = (x + w / 2 - side / 2, y + h / 2 - YUNET_TOP * side, side, side)
            if row[14] >= score and 0.8 * min_size <= side <= max_size:
                faces.append(Face(box, float(row[14]), np.array(row[4:14], float).reshape(5, 2)))
        return faces

    find(np.zeros((32, 32, 3), np.uint8), 0, math.inf)  # report an invalid file before the first frame
    return find, functools.partial(find, score=YUNET_CANDIDATE_SCORE)


def dlib_hog(path: Path | None) -> tuple[Find, Find]:
    """Returns the finders of dlib's frontal detector, which are equal.

    Args:
      path: the 68-landmark predictor, or None for no landmarks.
    """
    try:
        import dlib
    except ImportError as error:
        raise InputError("detector 'dlib' requires the package dlib: pip install dlib") from error
    spare = _Spare(dlib.get_frontal_face_detector)
    try:
        predict = dlib.shape_predictor(native(path)) if path else None
    except RuntimeError as error:
        raise InputError(f"{path} is not a 68-landmark predictor: {error}") from error

    def landmarks(gray: np.ndarray, rectangle: Any) -> np.ndarray | None:
        if predict is None:
            return None
        shape = predict(gray, rectangle)
        points = np.array([(shape.part(i).x, shape.part(i).y) for i in range(shape.num_parts)], float)
        return np.array([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])

    def find(image: np.ndarray, min_size: float, max_size: float) -> list[Face]:
        with spare.lent() as search:
            rectangles, scores, _ = search.run(image, 0, 0.0)
        faces = []
        for rectangle, score in zip(rectangles, scores, strict=True):
            side = 1.07 * rectangle.width()  # the Haar square, fitted on 73 rendered faces
            x, y = rectangle.left() + rectangle.width() / 2, rectangle.top() + rectangle.height() / 2
            if 0.8 * min_size <= side <= max_size:
                box = (x - side / 2, y - 0.59 * side, side, side)
                faces.append(Face(box, score / (score + 1), landmarks(image, rectangle)))
        return faces

    return find, find


def center_square(path: Path | None) -> tuple[Find, Find]:
    """Returns finders that take the central square of the image as the face."""

    def find(image: np.ndarray, min_size: float, max_size: float) -> list[Face]:
        height, width = image.shape[:2]
        side = min(height, width)
        return [Face((float((width - side) // 2), float((height - side) // 2), float(side), float(side)), 1.0)]

    return find, find


def eye_finder() -> Callable[[np.ndarray, Face], Face]:
    """Returns a function (frame, face) -> face, which adds the eyes as landmarks if both are found.

    It uses OpenCV's eye cascade and takes a few milliseconds per face: for photos, not for video.
    """
    cascade = _cascade("haarcascade_eye.xml")

    def find(frame: np.ndarray, face: Face) -> Face:
        x, y, w, h = face.box
        left, top, part = crop_region(frame, (x, y, w, 0.6 * h))
        upper = resized(part, min(1.0, _EYE_SEARCH_SIZE / w), gray=True)
        scale = upper.shape[1] / part.shape[1]
        low = max(8, round(w * scale) // 8)
        boxes = cascade.detectMultiScale(upper, 1.1, 5, minSize=(low, low))
        largest = sorted(np.reshape(boxes, (-1, 4)).tolist(), key=lambda box: -box[2])[:2]
        centers = sorted(((bx + bw / 2) / scale + left, (by + bh / 2) / scale + top) for bx, by, bw, bh in largest)
        if len(centers) < 2:
            return face
        (ax, ay), (bx, by) = centers
        level = abs(math.atan2(by - ay, bx - ax)) < math.radians(30)
        pair = level and 0.25 < (bx - ax) / w < 0.7
        return face._replace(landmarks=np.array(centers)) if pair else face

    return find


def _equalizer() -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that equalizes the local contrast of a gray image (CLAHE)."""
    clahe = cv2.createCLAHE(_CLIP_LIMIT)

    def equalize(gray: np.ndarray) -> np.ndarray:
        height, width = gray.shape
        clahe.setTilesGridSize((max(1, round(width / _TILE)), max(1, round(height / _TILE))))
        return clahe.apply(gray)

    return equalize


def _cascade(file: str | Path) -> Any:
    """Reads a cascade from an absolute path, or by the name of a file of OpenCV."""
    file = Path(cv2.__file__).parent / "data" / file
    try:
        cascade = cv2.CascadeClassifier(str(file))
    except AttributeError as error:
        raise InputError(f"OpenCV {cv2.__version__} has no Haar cascades: pip install 'ferjax[live]'") from error
    except (cv2.error, SystemError) as error:
        raise InputError(f"{file} is not a Haar cascade") from error
    if cascade.empty():
        raise InputError(f"{file} is not a Haar cascade")
    return cascade

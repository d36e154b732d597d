"""How each detector finds faces in a picture: OpenCV's cascades, YuNet, dlib, or taking the whole for one.

A finder is a function (picture, least, most) -> faces whose side lies between these two. Each also comes in a form that
needs less evidence, for what the frames before and after confirm.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ferjax.errors import InputError
from ferjax.runtime import fetch
from ferjax.runtime.engine import quiet
from ferjax.runtime.faces.boxes import Face, cut, reduced

Find = Callable[[np.ndarray, float, float], list[Face]]
_EYES_AT = 200.0  # pixels; a larger face is searched for eyes at this size
_OF_HEAD = 0.7  # of the side of what the profile cascade marks
_YUNET = 64  # pixels, the least side that YuNet searches
_TILE, _CLIP = 40, 2.0  # pixels a side, about the smallest face; the steepest stretch of the grey values


def haar(path: Path | None) -> tuple[Find, Find]:
    """Reads OpenCV's frontal cascade, or another one: scale factor 1.1; 5 neighbours, 2 as a hint.

    Each picture's local contrast is equalised first, with a limit (CLAHE; Zuiderveld 1994): the cascade divides by
    the contrast of a whole window, and dark faces in dim rooms have too little of it.
    """
    cascade, contrast = _cascade(path.absolute() if path else "haarcascade_frontalface_default.xml"), _contrast()

    def find(picture: np.ndarray, least: float, most: float, neighbours: int = 5) -> list[Face]:
        low = round(least)
        high = (0, 0) if math.isinf(most) else (max(low, round(most)),) * 2
        gray = contrast(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY))
        boxes, counts = cascade.detectMultiScale2(gray, 1.1, neighbours, minSize=(low, low), maxSize=high)
        pairs = zip(np.reshape(boxes, (-1, 4)).tolist(), np.ravel(counts).tolist(), strict=True)
        return [Face((float(x), float(y), float(w), float(h)), n / (n + 5)) for (x, y, w, h), n in pairs]

    return find, functools.partial(find, neighbours=2)


def haar_profile() -> Find:
    """Reads OpenCV's cascade for faces turned to their side: scale factor 1.1, 8 neighbours; both sides are searched.

    It marks the head, of which the face is the lower middle. In 200 rendered rooms five neighbours have 9 false finds,
    eight have 2.
    """
    cascade = functools.cache(lambda: _cascade("haarcascade_profileface.xml"))  # films and cameras never need it

    def find(picture: np.ndarray, least: float, most: float) -> list[Face]:
        gray = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        low = round(least / _OF_HEAD)
        faces = []
        for mirrored in (False, True):
            seen = np.ascontiguousarray(gray[:, ::-1]) if mirrored else gray
            boxes, counts = cascade().detectMultiScale2(seen, 1.1, 8, minSize=(low, low))
            for (x, y, w, h), n in zip(np.reshape(boxes, (-1, 4)).tolist(), np.ravel(counts).tolist(), strict=True):
                left, side = gray.shape[1] - x - w if mirrored else x, _OF_HEAD * w
                box = (left + (w - side) / 2, y + 0.58 * h - side / 2, side, side)
                if side <= most:
                    faces.append(Face(box, n / (n + 5)))
        return faces

    return find


def yunet(given: Path | None) -> tuple[Find, Find]:
    """Reads YuNet, the fetched one or another: score 0.7, as a hint 0.5."""
    path = given or fetch.cached("yunet")
    nets: dict[tuple[int, int], Any] = {}  # changing a net's input size costs as much as a small search

    def net(size: tuple[int, int]) -> Any:
        if size not in nets:
            if len(nets) >= 12:
                nets.pop(next(iter(nets)))
            try:
                with quiet():  # OpenCV writes its own account of what it cannot read
                    nets[size] = cv2.FaceDetectorYN.create(str(path), "", size, 0.5, 0.3, 1000)
            except cv2.error as error:
                raise InputError(f"{path} is no YuNet model that OpenCV {cv2.__version__} reads") from error
        return nets[size]

    def find(picture: np.ndarray, least: float, most: float, score: float = 0.7) -> list[Face]:
        height, width = picture.shape[:2]
        # Multiples of 32, and two at least: of nets that are one cell wide or high OpenCV's answers are no numbers.
        right, bottom = max(-width % 32, _YUNET - width), max(-height % 32, _YUNET - height)
        padded = cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_CONSTANT) if right or bottom else picture
        try:
            _, rows = net((width + right, height + bottom)).detect(padded)
        except cv2.error as error:
            raise InputError(f"{path} is no YuNet model that OpenCV {cv2.__version__} reads") from error
        faces = []
        for row in rows[np.isfinite(rows).all(1)] if rows is not None else ():
            x, y, w, h = row[:4].tolist()
            side = 0.525 * (w + h)  # the Haar cascade's square, by 150 rendered faces and six portraits
            box = (x + w / 2 - side / 2, y + h / 2 - 0.53 * side, side, side)
            if row[14] >= score and 0.8 * least <= side <= most:
                faces.append(Face(box, float(row[14]), np.array(row[4:14], float).reshape(5, 2)))
        return faces

    find(np.zeros((32, 32, 3), np.uint8), 0, math.inf)  # a wrong file is said now, not at the first frame
    return find, functools.partial(find, score=0.5)


def dlib_hog(path: Path | None) -> tuple[Find, Find]:
    """Takes dlib's frontal detector, and the 68-landmark predictor of a file if there is one."""
    try:
        import dlib
    except ImportError as error:
        raise InputError("the detector dlib needs the package dlib: pip install dlib") from error
    search = dlib.get_frontal_face_detector()
    try:
        predict = dlib.shape_predictor(str(path)) if path else None
    except RuntimeError as error:
        raise InputError(f"{path} is no 68-landmark predictor: {error}") from error

    def landmarks(gray: np.ndarray, rectangle: Any) -> np.ndarray | None:
        if predict is None:
            return None
        shape = predict(gray, rectangle)
        points = np.array([(shape.part(i).x, shape.part(i).y) for i in range(shape.num_parts)], float)
        return np.array([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])

    def find(picture: np.ndarray, least: float, most: float) -> list[Face]:
        gray = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        rectangles, scores, _ = search.run(gray, 0, 0.0)
        faces = []
        for rectangle, score in zip(rectangles, scores, strict=True):
            side = 1.07 * rectangle.width()  # the Haar cascade's square, by 73 rendered faces
            x, y = rectangle.left() + rectangle.width() / 2, rectangle.top() + rectangle.height() / 2
            if 0.8 * least <= side <= most:
                box = (x - side / 2, y - 0.59 * side, side, side)
                faces.append(Face(box, score / (score + 1), landmarks(gray, rectangle)))
        return faces

    return find, find


def whole(path: Path | None) -> tuple[Find, Find]:
    """Takes the central square of a picture for a face."""

    def find(picture: np.ndarray, least: float, most: float) -> list[Face]:
        height, width = picture.shape[:2]
        side = min(height, width)
        return [Face((float((width - side) // 2), float((height - side) // 2), float(side), float(side)), 1.0)]

    return find, find


def eye_finder() -> Callable[[np.ndarray, Face], Face]:
    """Returns a function (frame, face) -> the face with its eyes as landmarks, if both are found.

    It takes OpenCV's cascade for eyes, a few milliseconds a face: for photographs, not for live pictures.
    """
    cascade = _cascade("haarcascade_eye.xml")

    def find(frame: np.ndarray, face: Face) -> Face:
        x, y, w, h = face.box
        left, top, part = cut(frame, (x, y, w, 0.6 * h))
        upper = reduced(part, min(1.0, _EYES_AT / w))
        scale = upper.shape[1] / part.shape[1]
        least = max(8, round(w * scale) // 8)
        boxes = cascade.detectMultiScale(cv2.cvtColor(upper, cv2.COLOR_BGR2GRAY), 1.1, 5, minSize=(least, least))
        largest = sorted(np.reshape(boxes, (-1, 4)).tolist(), key=lambda box: -box[2])[:2]
        middles = sorted(((bx + bw / 2) / scale + left, (by + bh / 2) / scale + top) for bx, by, bw, bh in largest)
        if len(middles) < 2:
            return face
        (ax, ay), (bx, by) = middles
        level = abs(math.atan2(by - ay, bx - ax)) < math.radians(30)
        pair = level and 0.25 < (bx - ax) / w < 0.7
        return face._replace(landmarks=np.array(middles)) if pair else face

    return find


def _contrast() -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that equalises the local contrast of a grey picture, in tiles of about _TILE pixels."""
    clahe = cv2.createCLAHE(_CLIP)

    def equalised(gray: np.ndarray) -> np.ndarray:
        height, width = gray.shape
        clahe.setTilesGridSize((max(1, round(width / _TILE)), max(1, round(height / _TILE))))
        return clahe.apply(gray)

    return equalised


def _cascade(file: str | Path) -> Any:
    """Reads a cascade; a bare name is one of those that come with OpenCV."""
    file = Path(cv2.__file__).parent / "data" / file
    try:
        cascade = cv2.CascadeClassifier(str(file))
    except AttributeError as error:
        raise InputError(f"OpenCV {cv2.__version__} has no Haar cascades: pip install 'ferjax[live]'") from error
    except (cv2.error, SystemError) as error:
        raise InputError(f"{file} is no Haar cascade") from error
    if cascade.empty():
        raise InputError(f"{file} is no Haar cascade")
    return cascade

"""Draws results on frames: box, track, label, confidence, a bar per class, and the latency.

Rendered text is cached: drawing four faces at 640x480 takes far less than a millisecond.
"""

import functools
import math
import time
import unicodedata
from collections.abc import Sequence

import cv2
import numpy as np

from ferjax.runtime.result import FaceResult, Latency, Result
from ferjax.runtime.show.fonts import fonts

Color = tuple[int, int, int]
Area = tuple[int, int, int, int]

# Okabe and Ito (2008): distinct for all common forms of color blindness. BGR, by class name.
_PALETTE: dict[str, Color] = {
    "angry": (0, 94, 213),
    "disgust": (115, 158, 0),
    "fear": (167, 121, 204),
    "happy": (66, 228, 240),
    "neutral": (200, 200, 200),
    "sad": (178, 114, 0),
    "surprise": (233, 180, 86),
    "contempt": (0, 159, 230),
}
UNCERTAIN: Color = (255, 255, 255)
_BACKGROUND, _EMPTY_BAR, _TEXT = 28, 64, (235, 235, 235)
_REFRESH = 0.5  # seconds between updates of the status line, so that it can be read
_HYSTERESIS = 0.2  # cost advantage, relative to the panel's area, from which a panel moves
_FACE_COST = 3  # cost of a covered face pixel, in covered panel pixels


def colors(class_names: Sequence[str]) -> dict[str, Color]:
    """Returns a BGR color per class: the fixed colors of the expressions, and unused ones for other names."""
    free = [c for name, c in _PALETTE.items() if name not in class_names] or list(_PALETTE.values())
    others = [name for name in class_names if name not in _PALETTE]
    return {name: _PALETTE.get(name) or free[others.index(name) % len(free)] for name in class_names}


class Painter:
    """Draws results on their frames. It keeps the position of each track's panel, so that panels do not jump."""

    def __init__(self, class_names: Sequence[str]):
        self._colors, (self._shown, self._fonts) = colors(class_names), shown_names(class_names)
        self._places: dict[int, int] = {}
        self._panel = functools.lru_cache(maxsize=4)(self._render_panel)
        self._sums, self._frames, self._since = np.zeros(4), 0, time.monotonic()
        self._status, self._draw_ms = "", 0.0

    def draw(self, result: Result) -> None:
        """Draws the faces and the status line on the image of the result, uint8 (H, W, 3), in place."""
        start = time.perf_counter()
        self.draw_faces(result)
        unit = _unit(result.frame.image)
        self._draw_status(result.frame.image, result.latency._replace(draw=self._draw_ms), result.frame.dropped, unit)
        self._draw_ms = (time.perf_counter() - start) * 1e3

    def draw_faces(self, result: Result) -> None:
        """Draws boxes and panels on the image of the result, in place."""
        image, unit = result.frame.image, _unit(result.frame.image)
        height, width = image.shape[:2]
        for face in result.faces:
            self._draw_box(image, face, unit)
        boxes = [face.box for face in result.faces]
        taken: list[Area] = []
        panel, bottom = self._panel(unit), height - _text("Ag", unit).shape[0]  # above the status line
        free = bottom if len(panel) <= bottom else height
        for face in result.faces:
            area = self._place(face, boxes, taken, panel.shape, (free, width))
            if area is None:
                self._draw_caption(image, face, unit)
            else:
                taken.append(area)
                self._draw_panel(image, area, panel, face, unit)
        self._places = {f.track: self._places[f.track] for f in result.faces if f.track in self._places}

    def _color(self, face: FaceResult) -> Color:
        return self._colors.get(face.label, UNCERTAIN)

    def _label(self, face: FaceResult, unit: float, *, end: str = "") -> np.ndarray:
        """Returns track and label as a sprite."""
        label = self._shown.get(face.label, face.label)
        if label not in self._fonts:
            return _text(f"#{face.track} {label}{end}", unit)
        return np.hstack([_text(f"#{face.track} ", unit), _text(label, unit, self._fonts[label]), _text(end, unit)])

    def _draw_box(self, image: np.ndarray, face: FaceResult, unit: float) -> None:
        x, y, w, h = face.box
        thickness = max(1, round(2 * unit))
        cv2.rectangle(image, (x, y), (x + w, y + h), (0, 0, 0), 2 * thickness)  # contrast on any background
        cv2.rectangle(image, (x, y), (x + w, y + h), self._color(face), thickness)

    def _draw_caption(self, image: np.ndarray, face: FaceResult, unit: float) -> None:
        """Draws the label only, if the image is too small for a panel."""
        sprite = self._label(face, unit, end=f" {face.confidence:.0%}")
        _paste(image, sprite, face.box[0], face.box[1] - sprite.shape[0])

    def _render_panel(self, unit: float) -> np.ndarray:
        """Returns the constant part of a panel, names and empty bars, as uint8 (h, w, 3)."""
        names, layout = self._names(unit), self._layout(unit)
        panel = np.full((layout.height, layout.width, 3), _BACKGROUND, np.uint8)
        for i, name in enumerate(names):
            _paste(panel, name, layout.margin, layout.row(i))
            bar = layout.bar(i)
            panel[bar[1] : bar[1] + bar[3], bar[0] : bar[0] + bar[2]] = _EMPTY_BAR
        return panel

    def _names(self, unit: float) -> list[np.ndarray]:
        return [_text(name, unit, self._fonts.get(name, "")) for name in self._shown.values()]

    def _layout(self, unit: float) -> "_Layout":
        return _Layout([name.shape[1] for name in self._names(unit)], unit)

    def _draw_panel(self, image: np.ndarray, area: Area, panel: np.ndarray, face: FaceResult, unit: float) -> None:
        layout, (x, y, w, h) = self._layout(unit), area
        target = image[y : y + h, x : x + w]
        target[:] = panel
        target[: layout.margin] = self._color(face)
        _paste(target, self._label(face, unit), layout.margin, layout.head)
        _paste(target, _text(f"{face.confidence:.0%}", unit), layout.percent, layout.head)
        for i, (name, p) in enumerate(face.probabilities.items()):
            bx, by, bw, bh = layout.bar(i)
            target[by : by + bh, bx : bx + round(p * bw)] = self._colors[name]
            _paste(target, _text(f"{p:.0%}", unit), layout.percent, layout.row(i))

    def _place(
        self, face: FaceResult, boxes: list[Area], taken: list[Area], panel: tuple[int, ...], frame: tuple[int, int]
    ) -> Area | None:
        """Returns the area of a face's panel that covers least, with hysteresis; None if the panel does not fit."""
        h, w = panel[:2]
        if h > frame[0] or w > frame[1]:
            return None
        x, y, bw, bh = face.box
        right, left, low, under, over = x + bw + 4, x - w - 4, y + bh - h, y + bh + 4, y - h - 4
        corners = ((right, y), (left, y), (right, low), (left, low), (x, under), (x, over))
        areas = [(min(max(cx, 0), frame[1] - w), min(max(cy, 0), frame[0] - h), w, h) for cx, cy in corners]

        def cost(area: Area) -> int:
            return sum(_FACE_COST * _overlap(area, box) for box in boxes) + sum(
                _overlap(area, other) for other in taken
            )

        before = self._places.get(face.track)
        if before is None or cost(areas[before]):  # a place without overlaps stays
            costs = [cost(area) for area in areas]
            best = costs.index(min(costs))
            if before is None or costs[before] > costs[best] + _HYSTERESIS * w * h:
                self._places[face.track] = best
        return areas[self._places[face.track]]

    def _draw_status(self, image: np.ndarray, latency: Latency, dropped: int, unit: float) -> None:
        """Draws the status line with means since its last update."""
        self._sums += latency
        self._frames += 1
        now = time.monotonic()
        if not self._status or now - self._since >= _REFRESH:
            means = self._sums / self._frames
            parts = "  ".join(f"{name} {ms:.1f}" for name, ms in zip(Latency._fields, means, strict=True))
            rate = f"{self._frames / (now - self._since):.0f} fps  " if self._status else ""
            lost = f"  dropped {dropped}" if dropped else ""
            self._status = f"{rate}{parts}  = {means.sum():.1f} ms{lost}"
            self._sums, self._frames, self._since = np.zeros(4), 0, now
        sprite = _text(self._status, unit)
        _paste(image, sprite, 0, image.shape[0] - sprite.shape[0])


def _unit(image: np.ndarray) -> float:
    """Returns the size of text and lines, 1 at 640x480."""
    return max(0.75, min(image.shape[0] / 480, image.shape[1] / 640))


class _Layout:
    """Positions in a panel in pixels; `unit` is 1 at 640x480."""

    def __init__(self, widths: Sequence[int], unit: float):
        """Takes the widths of the drawn class names."""
        self.line = _text("Ag", unit).shape[0]
        self.margin = max(2, round(3 * unit))
        self.head = self.margin + 1
        self.rows = len(widths)
        self.left = self.margin + max(widths) + self.margin
        self.length = round(44 * unit)
        self.percent = self.left + self.length + self.margin
        self.width = self.percent + _text("100%", unit).shape[1] + self.margin
        self.height = self.row(self.rows) + self.margin

    def row(self, i: int) -> int:
        """Returns the top of the row of class i."""
        return self.head + self.line + self.margin + i * self.line

    def bar(self, i: int) -> Area:
        """Returns (x, y, width, height) of the bar of class i at probability 1."""
        gap = max(2, self.line // 5)
        return self.left, self.row(i) + gap, self.length, self.line - 2 * gap


def shown_names(class_names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the drawn form of each name, and the font file of each form that has letters beyond ASCII."""
    files, plain = fonts(class_names), _ascii_names(class_names)
    return {name: name if name in files else plain[name] for name in class_names}, files


def _ascii_names(names: Sequence[str]) -> dict[str, str]:
    """Returns an ASCII form of each name, as OpenCV draws ASCII only: without accents, else "class N"."""
    plain = [unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().strip() for name in names]
    return {
        name: text if plain.count(text) == 1 and (name.isascii() or any(map(str.isalpha, text))) else f"class {i}"
        for i, (name, text) in enumerate(zip(names, plain, strict=True), start=1)
    }


@functools.lru_cache(maxsize=512)
def _text(text: str, unit: float, font: str = "") -> np.ndarray:
    """Returns text on the panel's background, uint8 (h, w, 3): in a font file, or ASCII in OpenCV's font."""
    scale, thick = 0.4 * unit, max(1, round(unit))
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    pad = max(1, round(2 * unit))
    if font:
        return _render(text, height + below + pad, font)
    sprite = np.full((height + below + pad, width + 2, 3), _BACKGROUND, np.uint8)
    cv2.putText(sprite, text, (1, height + pad // 2), cv2.FONT_HERSHEY_SIMPLEX, scale, _TEXT, thick, cv2.LINE_AA)
    return sprite


def _render(text: str, height: int, font: str) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    typeface = ImageFont.truetype(font, round(0.9 * height))
    sprite = Image.new("RGB", (math.ceil(typeface.getlength(text)) + 2, height), (_BACKGROUND,) * 3)
    top = (height - sum(typeface.getmetrics())) / 2  # the metrics are the ascent and the descent
    ImageDraw.Draw(sprite).text((1, top), text, fill=_TEXT, font=typeface)
    return np.asarray(sprite)


def _paste(image: np.ndarray, sprite: np.ndarray, x: int, y: int) -> None:
    """Copies a sprite to (x, y), moved or clipped to stay inside the image."""
    height, width = image.shape[:2]
    h, w = min(sprite.shape[0], height), min(sprite.shape[1], width)
    x, y = min(max(x, 0), width - w), min(max(y, 0), height - h)
    image[y : y + h, x : x + w] = sprite[:h, :w]


def _overlap(a: Area, b: Area) -> int:
    """Returns the area of the intersection in pixels."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return w * h if w > 0 and h > 0 else 0

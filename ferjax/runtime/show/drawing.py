"""Drawing of results: box, person, label, confidence, the whole distribution as bars, and what a frame costs.

Text is rendered once and copied afterwards, which keeps four faces at 640x480 far below a millisecond.
"""

import functools
import time
import unicodedata
from collections.abc import Sequence

import cv2
import numpy as np

from ferjax.runtime.result import FaceResult, Latency, Result

Color = tuple[int, int, int]
Area = tuple[int, int, int, int]

# Okabe and Ito (2008): distinct for every common form of colour blindness. BGR, chosen by class name where known.
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
_UNSURE: Color = (255, 255, 255)
_BACK, _TRACK, _INK = 28, 64, (235, 235, 235)
_REFRESH = 0.5  # seconds: figures that change every frame cannot be read
_STAY = 0.2  # of a panel's area: how much better another place must be before a panel moves
_FACE = 3  # a hidden pixel of a face costs as much as so many of a panel


def colors(class_names: Sequence[str]) -> dict[str, Color]:
    """Returns a colour (BGR) per class: the emotions' own, then what is left of the palette in turn."""
    free = [c for name, c in _PALETTE.items() if name not in class_names] or list(_PALETTE.values())
    others = [name for name in class_names if name not in _PALETTE]
    return {name: _PALETTE.get(name) or free[others.index(name) % len(free)] for name in class_names}


class Painter:
    """Draws results on their frames; remembers where each person's panel was, so that it does not jump."""

    def __init__(self, class_names: Sequence[str]):
        self._written, self._colors = _written(class_names), colors(class_names)
        self._places: dict[int, int] = {}
        self._panel = functools.lru_cache(maxsize=4)(self._render_panel)
        self._sums, self._frames, self._since = np.zeros(4), 0, time.monotonic()
        self._status, self._spent = "", 0.0

    def draw(self, result: Result) -> None:
        """Draws on the result's own picture, uint8 (H, W, 3), in place."""
        start = time.perf_counter()
        image = result.frame.image
        height, width = image.shape[:2]
        unit = max(0.75, min(height / 480, width / 640))
        for face in result.faces:
            self._box(image, face, unit)
        boxes = [face.box for face in result.faces]
        taken: list[Area] = []
        panel, above = self._panel(unit), height - _text("Ag", unit).shape[0]  # the line at the bottom
        free = above if len(panel) <= above else height
        for face in result.faces:
            area = self._place(face, boxes, taken, panel.shape, (free, width))
            if area is None:
                self._caption(image, face, unit)
            else:
                taken.append(area)
                self._fill(image, area, panel, face, unit)
        self._places = {f.track: self._places[f.track] for f in result.faces if f.track in self._places}
        self._strip(image, result.latency._replace(draw=self._spent), result.frame.dropped, unit)
        self._spent = (time.perf_counter() - start) * 1e3

    def _color(self, face: FaceResult) -> Color:
        return self._colors.get(face.label, _UNSURE)

    def _label(self, face: FaceResult) -> str:
        return self._written.get(face.label, face.label)

    def _box(self, image: np.ndarray, face: FaceResult, unit: float) -> None:
        x, y, w, h = face.box
        thin = max(1, round(2 * unit))
        cv2.rectangle(image, (x, y), (x + w, y + h), (0, 0, 0), 2 * thin)  # seen on any background
        cv2.rectangle(image, (x, y), (x + w, y + h), self._color(face), thin)

    def _caption(self, image: np.ndarray, face: FaceResult, unit: float) -> None:
        """The label alone, where the picture has no room for a panel."""
        sprite = _text(f"#{face.track} {self._label(face)} {face.confidence:.0%}", unit)
        _paste(image, sprite, face.box[0], face.box[1] - sprite.shape[0])

    def _render_panel(self, unit: float) -> np.ndarray:
        """Returns what never changes of a panel: names and empty bars, uint8 (h, w, 3)."""
        layout = _Layout(tuple(self._written.values()), unit)
        panel = np.full((layout.height, layout.width, 3), _BACK, np.uint8)
        for i, name in enumerate(self._written.values()):
            top = layout.row(i)
            _paste(panel, _text(name, unit), layout.margin, top)
            bar = layout.bar(i)
            panel[bar[1] : bar[1] + bar[3], bar[0] : bar[0] + bar[2]] = _TRACK
        return panel

    def _fill(self, image: np.ndarray, area: Area, panel: np.ndarray, face: FaceResult, unit: float) -> None:
        layout, (x, y, w, h) = _Layout(tuple(self._written.values()), unit), area
        target = image[y : y + h, x : x + w]
        target[:] = panel
        target[: layout.margin] = self._color(face)
        _paste(target, _text(f"#{face.track} {self._label(face)}", unit), layout.margin, layout.head)
        _paste(target, _text(f"{face.confidence:.0%}", unit), layout.percent, layout.head)
        for i, (name, p) in enumerate(face.probabilities.items()):
            bx, by, bw, bh = layout.bar(i)
            target[by : by + bh, bx : bx + round(p * bw)] = self._colors[name]
            _paste(target, _text(f"{p:.0%}", unit), layout.percent, layout.row(i))

    def _place(
        self, face: FaceResult, boxes: list[Area], taken: list[Area], panel: tuple[int, ...], frame: tuple[int, int]
    ) -> Area | None:
        """Returns where a face's panel hides least, or nearly so where it was; None if it does not fit at all."""
        h, w = panel[:2]
        if h > frame[0] or w > frame[1]:
            return None
        x, y, bw, bh = face.box
        right, left, low, under, over = x + bw + 4, x - w - 4, y + bh - h, y + bh + 4, y - h - 4
        corners = ((right, y), (left, y), (right, low), (left, low), (x, under), (x, over))
        areas = [(min(max(cx, 0), frame[1] - w), min(max(cy, 0), frame[0] - h), w, h) for cx, cy in corners]
        costs = [
            sum(_FACE * _overlap(area, box) for box in boxes) + sum(_overlap(area, other) for other in taken)
            for area in areas
        ]
        best = costs.index(min(costs))
        before = self._places.get(face.track, best)
        chosen = before if costs[before] <= costs[best] + _STAY * w * h else best
        self._places[face.track] = chosen
        return areas[chosen]

    def _strip(self, image: np.ndarray, latency: Latency, dropped: int, unit: float) -> None:
        """The line at the bottom: means since it was last written."""
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


class _Layout:
    """Where things are in a panel, in pixels; `unit` is 1 at 640x480."""

    def __init__(self, names: tuple[str, ...], unit: float):
        self.line = _text("Ag", unit).shape[0]
        self.margin = max(2, round(3 * unit))
        self.head = self.margin + 1
        self.rows = len(names)
        self.left = self.margin + max(_text(name, unit).shape[1] for name in names) + self.margin
        self.length = round(44 * unit)
        self.percent = self.left + self.length + self.margin
        self.width = self.percent + _text("100%", unit).shape[1] + self.margin
        self.height = self.row(self.rows) + self.margin

    def row(self, i: int) -> int:
        """Top of the line of class i."""
        return self.head + self.line + self.margin + i * self.line

    def bar(self, i: int) -> Area:
        """(x, y, width, height) of the bar of class i at probability 1."""
        gap = max(2, self.line // 5)
        return self.left, self.row(i) + gap, self.length, self.line - 2 * gap


def _written(names: Sequence[str]) -> dict[str, str]:
    """Returns each name in OpenCV's letters, which are ASCII: without accents, or by number where little is left."""
    plain = [unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().strip() for name in names]
    return {
        name: text if plain.count(text) == 1 and (name.isascii() or any(map(str.isalpha, text))) else f"class {i}"
        for i, (name, text) in enumerate(zip(names, plain, strict=True), start=1)
    }


@functools.lru_cache(maxsize=512)
def _text(plain: str, unit: float) -> np.ndarray:
    """Returns ASCII text on the panel's background, uint8 (h, w, 3)."""
    scale, thick = 0.4 * unit, max(1, round(unit))
    (width, height), below = cv2.getTextSize(plain, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    pad = max(1, round(2 * unit))
    sprite = np.full((height + below + pad, width + 2, 3), _BACK, np.uint8)
    cv2.putText(sprite, plain, (1, height + pad // 2), cv2.FONT_HERSHEY_SIMPLEX, scale, _INK, thick, cv2.LINE_AA)
    return sprite


def _paste(image: np.ndarray, sprite: np.ndarray, x: int, y: int) -> None:
    """Copies a sprite to (x, y), moved or cut so that it stays inside."""
    height, width = image.shape[:2]
    h, w = min(sprite.shape[0], height), min(sprite.shape[1], width)
    x, y = min(max(x, 0), width - w), min(max(y, 0), height - h)
    image[y : y + h, x : x + w] = sprite[:h, :w]


def _overlap(a: Area, b: Area) -> int:
    """Pixels that two areas share."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return w * h if w > 0 and h > 0 else 0

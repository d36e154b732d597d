"""Draws a face with Pillow: flat colors, multiplied by shading and wrinkles."""

import math

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from ferjax.data.synthetic.action_units import ActionUnits, Identity
from ferjax.data.synthetic.geometry import ACROSS, EYE_Y, REACH, Light, Points, Pose, Shape

_CIRCLE = np.linspace(0, 2 * np.pi, 18)
_LEVELS = np.arange(256)

Color = tuple[int, int, int]


def draw_face(canvas: Image.Image, identity: Identity, units: ActionUnits, pose: Pose, light: Light) -> None:
    """Draws a head on an RGB canvas, in place; the head is clipped to the canvas."""
    reach = REACH * pose.scale
    left, top = max(0, math.floor(pose.x - reach)), max(0, math.floor(pose.y - reach))
    right, bottom = min(canvas.width, math.ceil(pose.x + reach)), min(canvas.height, math.ceil(pose.y + reach))
    if left >= right or top >= bottom:
        return
    fine = max(2, min(4, round(60 / pose.scale)))  # supersampling: Pillow draws polygons without antialiasing
    origin = ((pose.x - left) * fine, (pose.y - top) * fine)
    size = ((right - left) * fine, (bottom - top) * fine)
    drawing = _Drawing(Shape(identity, units, pose, pose.scale * fine, origin, size))
    for draw in (_hair_behind, _skin, _beard, _mouth, _eyes, _nose, _brows, _hair, _glasses):
        draw(drawing)
    patch = canvas.crop((left, top, right, bottom)).resize(size, Image.Resampling.NEAREST)
    patch.paste(ImageChops.multiply(drawing.colors, drawing.lighting(light)), mask=drawing.mask)
    canvas.paste(patch.reduce(fine), (left, top))


def draw_shoulders(canvas: Image.Image, pose: Pose, color: Color) -> None:
    """Draws the shoulders below a head, down to the edge of the canvas; call it before `draw_face`."""
    k, x, y = pose.scale, pose.x, pose.y
    ink = ImageDraw.Draw(canvas)
    ink.ellipse((x - 2.1 * k, y + 1.45 * k, x + 2.1 * k, y + 4.5 * k), fill=color)
    ink.rectangle((x - 2.1 * k, y + 3.0 * k, x + 2.1 * k, max(y + 3.0 * k, canvas.height)), fill=color)


class _Drawing:
    """Layers of one head: colors, mask, and wrinkles, which are part of the shading."""

    def __init__(self, shape: Shape):
        self.shape, self.identity, self.au = shape, shape.identity, shape.au
        self.colors = Image.new("RGB", shape.size)
        self.mask = Image.new("L", shape.size)
        self.ink, self._cut = ImageDraw.Draw(self.colors), ImageDraw.Draw(self.mask)
        self._creases: list[tuple[np.ndarray, np.ndarray, float, float]] = []

    def solid(self, points: Points, color: Color) -> None:
        """Fills an opaque area of the head."""
        self.ink.polygon(points, fill=color)
        self._cut.polygon(points, fill=255)

    def width(self, length: float) -> int:
        return max(1, round(length * self.shape.scale))

    def disc(self, ink: ImageDraw.ImageDraw, center: tuple[float, float], radius: float, color: Color) -> None:
        (x, y), r = center, radius * self.shape.scale
        ink.ellipse((x - r, y - r, x + r, y + r), fill=color)

    def crease(self, x, y, strength: float, width: float = 0.03) -> None:
        """Adds a wrinkle to the shading."""
        if strength > 0.02:
            x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
            self._creases.append((x, y, min(strength, 0.75), width))

    def lighting(self, light: Light) -> Image.Image:
        """Returns the RGB factor of each pixel."""
        coarse = Image.fromarray(self.shape.shading(light))
        shade = coarse.resize(self.shape.size, Image.Resampling.BICUBIC)
        lines = Image.new("L", self.shape.size, 255)
        ink = ImageDraw.Draw(lines)
        points = self.shape.px(*(np.concatenate([crease[k] for crease in self._creases]) for k in (0, 1)))
        start = 0
        for x, _, strength, width in self._creases:
            line = points[start : start + len(x)]
            ink.line(line, fill=round(255 * (1 - strength)), width=self.width(width), joint="curve")
            start += len(x)
        shade = ImageChops.multiply(shade, lines.filter(ImageFilter.GaussianBlur(0.018 * self.shape.scale)))
        return Image.merge("RGB", [shade.point((_LEVELS * f).astype(int).tolist()) for f in light.color])


def _hair_behind(drawing: _Drawing) -> None:
    if drawing.identity.hair_style == 4:
        a = np.linspace(np.pi, 2 * np.pi, 20)
        x = np.concatenate([[-1.22], 1.2 * np.cos(a), [1.22, 1.0, -1.0]]) * drawing.identity.width
        y = np.concatenate([[1.3], 1.62 * np.sin(a), [1.3, 1.5, 1.5]])
        drawing.solid(drawing.shape.px(x, y, z=-0.2), _tint(drawing.identity.hair, 0.8))


def _skin(drawing: _Drawing) -> None:
    shape, skin, w = drawing.shape, drawing.identity.skin, drawing.identity.width
    half = np.sin(_CIRCLE[:9]), np.cos(_CIRCLE[:9])
    neck_x = w * np.concatenate([[-0.62, 0.62], 0.68 * half[1]])
    drawing.solid(shape.px(neck_x, np.concatenate([[0.7, 0.7], 1.78 + 0.22 * half[0]]), z=-0.25), _tint(skin, 0.9))
    for side in (-1, 1):
        ear = shape.px(side * w + 0.13 * np.cos(_CIRCLE), 0.02 + 0.26 * np.sin(_CIRCLE), z=-0.05)
        drawing.solid(ear, _tint(skin, 0.92))
    x, y = shape.outline()
    drawing.solid(shape.px(x, y, z=0.5 * np.clip(y / shape.chin, 0, 1) ** 2), _tint(skin))


def _beard(drawing: _Drawing) -> None:
    shape, identity = drawing.shape, drawing.identity
    if identity.beard + identity.mustache <= 0:
        return
    layer = Image.new("L", shape.size)
    ink = ImageDraw.Draw(layer)
    if identity.beard > 0:
        x, y = shape.outline(0.98)
        x, y = x[y > 0.15], y[y > 0.15]
        cheeks = shape.px([-0.75, -0.45, 0.0, 0.45, 0.75], [0.45, 0.72, 0.66, 0.72, 0.45])
        ink.polygon([*shape.px(x, y, z=0.5 * (y / shape.chin) ** 2), *cheeks], fill=round(235 * identity.beard))
    if identity.mustache > 0:
        x = 0.9 * shape.lips[0][-1] * np.array([-1, -0.5, 0, 0.5, 1, 0.5, 0, -0.5])
        y = shape.lips[1].min() + np.array([0.1, -0.08, -0.1, -0.08, 0.1, 0.03, 0.01, 0.03])
        ink.polygon(shape.px(x, y, 0.03), fill=round(235 * identity.mustache))
    soft = layer.filter(ImageFilter.GaussianBlur(0.04 * shape.scale))
    drawing.colors.paste(_tint(identity.hair), mask=soft)


def _mouth(drawing: _Drawing) -> None:
    shape, (r, g, b) = drawing.shape, drawing.identity.skin
    x, upper_outer, upper_inner, lower_inner, lower_outer = shape.lips
    lip = (0.82 * r, 0.58 * g, 0.58 * b)
    top, bottom = shape.px(x, upper_inner, 0.02), shape.px(x, lower_inner, 0.02)
    drawing.ink.polygon([*shape.px(x, upper_outer, 0.04), *top[::-1]], fill=_tint(lip, 0.88))
    drawing.ink.polygon([*bottom, *shape.px(x, lower_outer, 0.04)[::-1]], fill=_tint(lip))
    if float((lower_inner - upper_inner).max()) > 0.015:
        _mouth_inside(drawing, top, bottom)
    else:
        drawing.ink.line(top, fill=_tint(lip, 0.4), width=drawing.width(0.03))
    _mouth_folds(drawing, float(x[-1]), float(upper_inner[0]), float(lower_outer.max()))


def _mouth_inside(drawing: _Drawing, top: Points, bottom: Points) -> None:
    shape, au = drawing.shape, drawing.au
    x, _, upper_inner, lower_inner, _ = shape.lips
    gap = float((lower_inner - upper_inner).max())
    opening = Image.new("L", shape.size)
    ImageDraw.Draw(opening).polygon([*top, *bottom[::-1]], fill=255)
    inside = Image.new("RGB", shape.size, (58, 18, 20))
    ink = ImageDraw.Draw(inside)
    if gap > 0.2:
        drawing.disc(ink, shape.px(0, lower_inner.max() + 0.02, -0.1)[0], 0.17, (165, 75, 78))  # tongue
    teeth = min(0.7 * gap, 0.11 * min(1.0, 0.25 + au.au12 + 0.7 * au.au10 + 0.8 * au.au20))
    ink.polygon([*top, *shape.px(x, upper_inner + teeth, 0.02)[::-1]], fill=(248, 244, 236))
    drawing.colors.paste(inside, mask=opening)


def _mouth_folds(drawing: _Drawing, half: float, corner: float, bottom: float) -> None:
    au, chin, y = drawing.au, drawing.shape.chin, drawing.shape.nose_y - 0.06
    wing, smile = drawing.identity.nose_width + 0.03, au.au12
    depth = 0.08 + 0.2 * drawing.identity.age + 0.5 * smile + 0.45 * au.au10 + 0.35 * au.au9
    for side in (-1, 1):
        fold = side * np.array([wing, 0.5 * (wing + half) + 0.10 + 0.05 * smile, half + 0.10])
        drawing.crease(fold, [y, 0.5 * (y + corner) - 0.04 * smile, corner - 0.02], depth, 0.04)
        drawing.crease([side * half, side * (half + 0.05)], [corner, corner + 0.07], 0.6 * au.au15, 0.04)
        drawing.crease([side * 0.06, side * 0.1], [chin - 0.3, chin - 0.2], 0.5 * au.au17, 0.06)
    drawing.crease([-0.16, 0, 0.16], [bottom + 0.10, bottom + 0.07, bottom + 0.10], 0.2 + 0.4 * au.au17, 0.06)


def _eyes(drawing: _Drawing) -> None:
    shape, identity, au = drawing.shape, drawing.identity, drawing.au
    openings = Image.new("L", shape.size)
    cut = ImageDraw.Draw(openings)
    inside = Image.new("RGB", shape.size, (240, 236, 232))
    ink = ImageDraw.Draw(inside)
    lids = []
    for side in (-1, 1):
        x, upper, lower = shape.eye(side)
        lids.append(shape.px(x, upper))
        cut.polygon([*lids[-1], *shape.px(x, lower)[::-1]], fill=255)
        u, v = shape.px(side * identity.eye_distance, EYE_Y - 0.01)[0]
        drawing.disc(ink, (u, v), 0.108, _tint(identity.iris))
        drawing.disc(ink, (u, v), 0.055, (12, 10, 10))
        drawing.disc(ink, (u - 0.03 * shape.scale, v - 0.03 * shape.scale), 0.022, (255, 255, 255))
        drawing.crease(x, upper - 0.055, 0.3)
        drawing.crease(x, lower + 0.06 - 0.02 * au.au6, 0.15 + 0.25 * identity.age + 0.4 * au.au6 + 0.3 * au.au7)
        corner = side * (identity.eye_distance + identity.eye_size + 0.04)
        for rise in (-0.08, 0.0, 0.08):  # crow's feet
            y = [EYE_Y + 0.4 * rise, EYE_Y + 1.3 * rise]
            drawing.crease([corner, corner + side * 0.14], y, 0.45 * au.au6, 0.02)
    drawing.colors.paste(inside, mask=openings)
    for lid in lids:
        drawing.ink.line(lid, fill=_tint(identity.skin, 0.22), width=drawing.width(0.04))


def _nose(drawing: _Drawing) -> None:
    shape, au, y = drawing.shape, drawing.au, drawing.shape.nose_y
    w = drawing.identity.nose_width * (1 + 0.15 * au.au9)
    for side in (-1, 1):
        nostril = shape.px(side * 0.5 * w + 0.065 * np.cos(_CIRCLE), y + 0.035 * np.sin(_CIRCLE), 0.18)
        drawing.ink.polygon(nostril, fill=_tint(drawing.identity.skin, 0.35))
        drawing.crease(side * w * np.array([0.85, 1.12, 1.0]), [y - 0.13, y - 0.05, y + 0.02], 0.35, 0.035)
        flank = [EYE_Y + 0.12, EYE_Y + 0.34]
        drawing.crease([side * 0.16, side * 0.26], flank, 0.45 * au.au9 + 0.15 * au.au10, 0.035)
    for k, level in enumerate((0.01, 0.10, 0.19)):  # across the bridge
        half = 0.15 - 0.02 * k
        drawing.crease([-half, 0, half], [EYE_Y + level, EYE_Y + level - 0.05, EYE_Y + level], 0.6 * au.au9)


def _brows(drawing: _Drawing) -> None:
    shape, au, identity = drawing.shape, drawing.au, drawing.identity
    x, y, half = shape.brow()
    color = _tint(identity.hair, 0.75 if sum(identity.hair) < 450 else 0.55)
    base = EYE_Y - identity.brow_height
    for side in (-1, 1):
        drawing.ink.polygon([*shape.px(side * x, y - half), *shape.px(side * x, y + half)[::-1]], fill=color)
        drawing.crease([side * 0.05, side * 0.06], [base - 0.08, base + 0.14], 0.6 * au.au4, 0.035)
    forehead = {0: 2.0, 3: 0.62}.get(identity.hair_style, identity.hairline - 0.1)
    for level in (0.74, 0.88):
        if level < forehead:  # else the hair hides them
            arch = 0.03 * ACROSS**2 - 0.06 * au.au4 * (1 - np.abs(ACROSS)) - 0.04 * (au.au1 + au.au2)
            depth = 0.08 * identity.age + 0.4 * max(au.au1, au.au2)
            drawing.crease((0.3 + 0.3 * au.au2) * ACROSS, arch - level, depth)


def _hair(drawing: _Drawing) -> None:
    shape, style, w, line = (
        drawing.shape,
        drawing.identity.hair_style,
        drawing.identity.width,
        drawing.identity.hairline,
    )
    if style == 0:
        return
    low = {1: -0.35, 2: -0.30, 3: -0.15, 4: 0.55}[style]
    a = np.linspace(np.pi, 2 * np.pi, 32)
    x, y = 1.08 * w * np.sign(np.cos(a)) * np.abs(np.cos(a)) ** 0.85, -1.56 * np.abs(np.sin(a)) ** 0.85
    x, y = x[y < low], y[y < low]
    outer_x, outer_y = shape.turn(np.concatenate([[-w], x, [w]]), np.concatenate([[low], y, [low]]), z=0.0)
    t = ACROSS[::-1]
    arch, parting = 1 - np.abs(t) ** 3, {2: 0.11, 4: 0.03}.get(style, 0.0)
    y = low + (parting * np.sin(2.2 * t + 0.6) - line - low) * arch
    if style == 3:
        y = np.where(np.abs(t) < 0.8, np.maximum(y, -0.72 - 0.05 * np.cos(9 * t)), y)
    line_x, line_y = shape.turn(0.93 * w * t, y)
    # Clipped to the silhouette: the polygon of a turned head would otherwise intersect itself.
    line_x = np.clip(line_x, outer_x.min() + 0.09 * w, outer_x.max() - 0.09 * w)
    points = shape.place(np.concatenate([outer_x, line_x]), np.concatenate([outer_y, line_y]))
    drawing.solid(points, _tint(drawing.identity.hair))
    for shift in (-0.5, -0.1, 0.35):  # strands add texture to the hair
        strand = shape.px(np.linspace(shift, 1.7 * shift, 6), np.linspace(-1.42, -line - 0.12, 6), 0.08)
        drawing.ink.line(strand, fill=_tint(drawing.identity.hair, 1.15), width=drawing.width(0.05))


def _glasses(drawing: _Drawing) -> None:
    shape, identity = drawing.shape, drawing.identity
    if identity.glasses <= 0:
        return
    color, width = _tint((60, 50, 50), 1.1 - identity.glasses), drawing.width(0.045)
    c, s = np.cos(_CIRCLE), np.sin(_CIRCLE)
    x, y = 0.31 * np.sign(c) * np.abs(c) ** 0.7, EYE_Y + 0.02 + 0.23 * np.sign(s) * np.abs(s) ** 0.7
    for side in (-1, 1):
        drawing.ink.line(shape.px(side * (identity.eye_distance + 0.01) + x, y, 0.1), fill=color, width=width)
        drawing.ink.line(shape.px([side * 0.78, side * 1.0], [EYE_Y, EYE_Y - 0.03], 0.02), fill=color, width=width)
    drawing.ink.line(shape.px([-0.13, 0.13], [EYE_Y, EYE_Y], 0.15), fill=color, width=width)


def _tint(color: tuple[float, float, float], factor: float = 1.0) -> Color:
    r, g, b = (max(0, min(255, round(c * factor))) for c in color)
    return r, g, b

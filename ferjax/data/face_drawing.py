"""Draws one face with Pillow: features are points on an ellipsoid that turns, shading is a low-resolution field.

Lengths are in half face widths. The origin is the middle of the face, between the eyes and the mouth;
x points to the viewer's right, y down, z towards the viewer.
"""

import dataclasses
import math

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from ferjax.data.faces import ActionUnits, Identity

_EYE_Y, _MOUTH_Y = -0.22, 0.80
_REACH = 2.1  # everything that belongs to a head lies within this distance of its middle
_SHADE_GRID = 32
_T = np.linspace(-1.0, 1.0, 15)
_ARC = np.linspace(0.0, np.pi, 25)

Color = tuple[int, int, int]
Curve = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pose:
    """Where a head is and how it is turned.

    Attributes:
      x: column of the middle of the face, in pixels.
      y: row of the middle of the face, in pixels.
      scale: pixels for half a face width.
      roll: rotation in the picture, in radians, clockwise.
      yaw: turn to the viewer's right, in radians.
      pitch: nod upwards, in radians.
    """

    x: float
    y: float
    scale: float
    roll: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0

    def box(self) -> tuple[int, int, int, int]:
        """Returns the square (x, y, width, height) that a frontal face detector marks, forehead to chin."""
        side = 2.36 * self.scale
        dx, dy = 0.45 * math.sin(self.yaw), 0.05 - 0.45 * math.sin(self.pitch)
        c, s = math.cos(self.roll), math.sin(self.roll)
        x, y = self.x + self.scale * (c * dx - s * dy), self.y + self.scale * (s * dx + c * dy)
        return round(x - side / 2), round(y - side / 2), round(side), round(side)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Light:
    """Illumination of a head.

    Attributes:
      direction: unit vector from the head to the light.
      ambient: light from everywhere, in 0..1.
      diffuse: light from `direction`, in 0..1.
      color: RGB factors in 0..1.
    """

    direction: tuple[float, float, float] = (0.0, -0.4, 0.917)
    ambient: float = 0.45
    diffuse: float = 0.5
    color: tuple[float, float, float] = (1.0, 1.0, 1.0)


def draw_face(canvas: Image.Image, identity: Identity, units: ActionUnits, pose: Pose, light: Light) -> None:
    """Draws a head on a canvas, in place.

    Args:
      canvas: RGB image; parts of the head outside it are cut off.
      identity: whose head it is.
      units: what its muscles do.
      pose: where it is and how it is turned.
      light: how it is lit.
    """
    reach = _REACH * pose.scale
    left, top = max(0, math.floor(pose.x - reach)), max(0, math.floor(pose.y - reach))
    right, bottom = min(canvas.width, math.ceil(pose.x + reach)), min(canvas.height, math.ceil(pose.y + reach))
    if left >= right or top >= bottom:
        return
    ss = max(2, min(4, round(60 / pose.scale)))  # polygons have hard edges: draw larger, then shrink
    head = _Head(identity, units, pose, (left, top), ss, ((right - left) * ss, (bottom - top) * ss))
    head.draw_hair_behind()
    head.draw_skin()
    head.draw_beard()
    head.draw_mouth()
    head.draw_eyes()
    head.draw_nose()
    head.draw_brows()
    head.draw_hair_in_front()
    head.draw_glasses()
    lit = ImageChops.multiply(head.albedo, head.shading(light))
    patch = canvas.crop((left, top, right, bottom)).resize(head.size, Image.Resampling.NEAREST)
    patch.paste(lit, mask=head.mask)
    canvas.paste(patch.reduce(ss), (left, top))


class _Head:
    """One head being drawn: albedo and mask at `ss` times the canvas's resolution, wrinkles kept apart."""

    def __init__(self, identity: Identity, units: ActionUnits, pose: Pose, corner: tuple[int, int], ss: int, size):
        self.who, self.au, self.pose, self.size = identity, units, pose, size
        self.k = pose.scale * ss
        self.origin = ((pose.x - corner[0]) * ss, (pose.y - corner[1]) * ss)
        self.trig = [(math.cos(a), math.sin(a)) for a in (pose.roll, pose.yaw, pose.pitch)]
        self.albedo = Image.new("RGB", size, _mix(identity.skin, 1.0))
        self.mask = Image.new("L", size, 0)
        self.ink, self.cut = ImageDraw.Draw(self.albedo), ImageDraw.Draw(self.mask)
        self.wrinkles: list[tuple[list, float, float]] = []
        self.drop = 0.30 * units.au26
        self.chin = identity.chin + self.drop - 0.03 * units.au17
        self.mouth = self._mouth()

    # -- geometry ------------------------------------------------------------------------------

    def turn(self, x, y, lift=0.0, z=None) -> tuple[np.ndarray, np.ndarray]:
        """Turns points of the face by yaw and pitch; `lift` raises them above the ellipsoid."""
        x, y = np.asarray(x, float), np.asarray(y, float)
        if z is None:
            z = 0.95 * np.sqrt(np.maximum(1 - (x / 1.15) ** 2 - (y / 1.75) ** 2, 0.0)) + lift
        (cy, sy), (cp, sp) = self.trig[1], self.trig[2]
        return x * cy + z * sy, y * cp - (z * cy - x * sy) * sp

    def px(self, x, y, lift: float = 0.0, z=None) -> list[tuple[float, float]]:
        """Returns pixel positions in the drawing of points of the face."""
        x, y = self.turn(x, y, lift, z)
        c, s = self.trig[0]
        u, v = self.origin[0] + self.k * (c * x - s * y), self.origin[1] + self.k * (s * x + c * y)
        return list(zip(np.atleast_1d(u).tolist(), np.atleast_1d(v).tolist(), strict=True))

    def width(self, length: float) -> int:
        return max(1, round(length * self.k))

    def disc(self, ink: ImageDraw.ImageDraw, center: tuple[float, float], radius: float, fill) -> None:
        (x, y), r = center, radius * self.k
        ink.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def crease(self, x, y, strength: float, width: float = 0.03) -> None:
        """Notes a wrinkle, to be blurred into the shading."""
        if strength > 0.02:
            self.wrinkles.append((self.px(x, y), min(strength, 0.75), width))

    # -- head and hair -------------------------------------------------------------------------

    def solid(self, points: list[tuple[float, float]], color: Color) -> None:
        self.ink.polygon(points, fill=color)
        self.cut.polygon(points, fill=255)

    def outline(self, grow: float = 1.0) -> Curve:
        """Returns the silhouette: an ellipse above, a superellipse (the jaw) below."""
        w, c, s = self.who.width * grow, np.cos(_ARC), np.sin(_ARC)
        jaw_x = w * np.sign(c) * np.abs(c) ** (2 / self.who.jaw)
        x = np.concatenate([jaw_x, -w * c])
        y = np.concatenate([self.chin * grow * s ** (2 / 2.15), -1.5 * grow * s])
        return x, y

    def draw_hair_behind(self) -> None:
        if self.who.hair_style == 4:
            a = np.linspace(np.pi, 2 * np.pi, 20)
            x = np.concatenate([[-1.22], 1.2 * np.cos(a), [1.22, 0.8, -0.8]]) * self.who.width
            y = np.concatenate([[1.3], 1.72 * np.sin(a), [1.3, 1.55, 1.55]])
            self.solid(self.px(x, y, z=-0.2), _mix(self.who.hair, 0.8))

    def draw_skin(self) -> None:
        skin, w = _mix(self.who.skin, 1.0), self.who.width
        self.solid(
            self.px([-0.62 * w, 0.62 * w, 0.7 * w, -0.7 * w], [0.7, 0.7, 2.0, 2.0], z=-0.25), _mix(self.who.skin, 0.8)
        )
        a = np.linspace(0, 2 * np.pi, 14)
        for side in (-1, 1):
            self.solid(
                self.px(side * 1.0 * w + 0.13 * np.cos(a), 0.02 + 0.26 * np.sin(a), z=-0.05), _mix(self.who.skin, 0.92)
            )
        x, y = self.outline()
        self.solid(self.px(x, y, z=0.5 * np.clip(y / self.chin, 0, 1) ** 2), skin)

    def draw_hair_in_front(self) -> None:
        style, w, line = self.who.hair_style, self.who.width, self.who.hairline
        if style == 0:
            return
        a = np.linspace(np.pi, 2 * np.pi, 24)
        low = {1: -0.35, 2: -0.30, 3: -0.15, 4: 0.55}[style]
        t = np.linspace(1, -1, 15)
        x_in = 0.93 * w * t
        part = {1: 0.0, 2: 0.45, 3: 0.0, 4: 0.1}[style]
        arch = 1 - np.abs(t) ** 3
        y_in = low + (-line - low) * arch + 0.25 * part * arch * np.sin(2.2 * t + 0.6)
        if style == 3:
            y_in = np.maximum(y_in, -0.72 - 0.05 * np.cos(9 * t)) * (np.abs(t) < 0.8) + y_in * (np.abs(t) >= 0.8)
        top = self.px(1.09 * w * np.cos(a), 1.66 * np.sin(a), z=0.0)
        edges = self.px([1.09 * w], [low], z=0.0), self.px([-1.09 * w], [low], z=0.0)
        line_points = self.px(x_in, y_in)
        self.solid([*edges[1], *top, *edges[0], *line_points], _mix(self.who.hair, 1.0))
        for shift in (-0.5, -0.1, 0.35):  # a few strands, so that hair is not one flat patch
            x = np.linspace(shift, shift * 1.7, 6)
            strand = self.px(x, np.linspace(-1.5, -line - 0.12, 6), lift=0.08)
            self.ink.line(strand, fill=_mix(self.who.hair, 1.35), width=self.width(0.04))

    def draw_beard(self) -> None:
        if self.who.beard + self.who.moustache <= 0:
            return
        layer = Image.new("L", self.size, 0)
        ink = ImageDraw.Draw(layer)
        if self.who.beard > 0:
            x, y = self.outline(0.98)
            low = y > 0.15
            x, y = x[low], y[low]
            inner = self.px([-0.75, -0.45, 0.0, 0.45, 0.75], [0.45, 0.72, 0.66, 0.72, 0.45])
            ink.polygon([*self.px(x, y, z=0.5 * (y / self.chin) ** 2), *inner], fill=round(235 * self.who.beard))
        if self.who.moustache > 0:
            cx = 0.9 * self.mouth["x"][-1]
            lip = float(self.mouth["upper_outer"].min())
            across = cx * np.array([-1, -0.5, 0, 0.5, 1, 0.5, 0, -0.5])
            down = lip + np.array([0.1, -0.08, -0.1, -0.08, 0.1, 0.03, 0.01, 0.03])
            ink.polygon(self.px(across, down, 0.03), fill=round(235 * self.who.moustache))
        self.albedo.paste(_mix(self.who.hair, 1.0), mask=layer.filter(ImageFilter.GaussianBlur(0.04 * self.k)))

    # -- features ------------------------------------------------------------------------------

    def _mouth(self) -> dict[str, np.ndarray]:
        """Returns the lips as curves over a common x: outer and inner edge of either lip."""
        au, who = self.au, self.who
        half = who.mouth_width * (
            1 + 0.30 * au.au12 + 0.42 * au.au20 - 0.15 * au.au24 - 0.20 * au.au26 - 0.08 * au.au17
        )
        y = _MOUTH_Y - 0.07 * au.au17
        corner = (
            y - who.mouth_curve - 0.19 * au.au12 + 0.17 * au.au15 + 0.05 * au.au20 + 0.12 * au.au26 + 0.06 * au.au17
        )
        upper = y - 0.11 * au.au10 - 0.05 * au.au9 - 0.02 * au.au25 + 0.02 * au.au12
        gap = 0.10 * au.au25 + 0.40 * au.au26 + 0.06 * au.au12 * au.au25
        gap = max(0.0, gap - 0.02 - 0.1 * au.au24)
        lower = upper + gap + 0.05 * au.au10 * au.au25
        bend = np.abs(_T) ** (1.7 + 0.8 * au.au26)
        upper_inner = upper + (corner - upper) * bend
        lower_inner = np.maximum(lower + (corner - lower) * np.abs(_T) ** (2 + au.au26), upper_inner)
        body = np.clip(1 - _T**2, 0, 1) ** 0.7
        press = 1 - 0.65 * au.au24
        bow = 1 - 0.22 * np.exp(-((_T / 0.16) ** 2))
        upper_lip = who.lips * press * (1 - 0.3 * au.au12 - 0.2 * au.au20 + 0.25 * au.au10) * body * bow
        lower_lip = 1.3 * who.lips * press * (1 - 0.2 * au.au12 + 0.3 * au.au17) * body
        return {
            "x": half * _T,
            "upper_outer": upper_inner - upper_lip,
            "upper_inner": upper_inner,
            "lower_inner": lower_inner,
            "lower_outer": lower_inner + lower_lip,
        }

    def draw_mouth(self) -> None:
        m, au, skin = self.mouth, self.au, self.who.skin
        x, back = m["x"], m["x"][::-1]
        lip = _mix((skin[0] * 0.82, skin[1] * 0.58, skin[2] * 0.58), 1.0)
        outer_up, inner_up = self.px(x, m["upper_outer"], 0.04), self.px(x, m["upper_inner"], 0.02)
        inner_low, outer_low = self.px(back, m["lower_inner"][::-1], 0.02), self.px(back, m["lower_outer"][::-1], 0.04)
        self.ink.polygon([*outer_up, *inner_up[::-1]], fill=_mix(lip, 0.88))
        self.ink.polygon([*inner_low, *outer_low[::-1]], fill=lip)
        gap = float((m["lower_inner"] - m["upper_inner"]).max())
        if gap > 0.015:
            opening = Image.new("L", self.size, 0)
            ImageDraw.Draw(opening).polygon([*inner_up, *inner_low], fill=255)
            inside = Image.new("RGB", self.size, (58, 18, 20))
            ink = ImageDraw.Draw(inside)
            if gap > 0.2:
                self.disc(ink, self.px(0, m["lower_inner"].max() + 0.02, -0.1)[0], 0.17, (165, 75, 78))
            show = 0.11 * min(1.0, 0.25 + au.au12 + 0.7 * au.au10 + 0.8 * au.au20)
            teeth = [*inner_up, *self.px(back, (m["upper_inner"] + min(show, 0.7 * gap))[::-1], 0.02)]
            ink.polygon(teeth, fill=(248, 244, 236))
            self.albedo.paste(inside, mask=opening)
        else:
            self.ink.line(inner_up, fill=_mix(lip, 0.4), width=self.width(0.03))
        half, corner = float(x[-1]), float(m["upper_inner"][0])
        for side in (-1, 1):
            depth = 0.12 + 0.25 * self.who.age + 0.45 * au.au12 + 0.45 * au.au10 + 0.35 * au.au9
            wing = self.who.nose_width + 0.03
            y0 = self._nose_y() - 0.06
            fold = [wing, 0.5 * (wing + half) + 0.10 + 0.05 * au.au12, half + 0.10]
            self.crease(side * np.array(fold), [y0, 0.5 * (y0 + corner) - 0.04 * au.au12, corner - 0.02], depth, 0.04)
            self.crease(side * np.array([half, half + 0.05]), [corner, corner + 0.07], 0.2 + 0.5 * au.au15, 0.04)
            self.crease(side * np.array([0.06, 0.1]), [self.chin - 0.3, self.chin - 0.2], 0.5 * au.au17, 0.06)
        bottom = float(m["lower_outer"].max())
        self.crease([-0.16, 0, 0.16], [bottom + 0.10, bottom + 0.07, bottom + 0.10], 0.25 + 0.4 * au.au17, 0.06)

    def draw_eyes(self) -> None:
        au, who = self.au, self.who
        size = who.eye_size
        up = size * 0.50 * max(0.15, 1 + 0.55 * au.au5 - 0.42 * au.au7 - 0.25 * au.au6 - 0.25 * au.au9)
        low = size * 0.36 * max(0.05, 1 - 0.55 * au.au7 - 0.80 * au.au6 - 0.4 * au.au9 + 0.15 * au.au5)
        openings = Image.new("L", self.size, 0)
        cut = ImageDraw.Draw(openings)
        inside = Image.new("RGB", self.size, (240, 236, 232))
        ink = ImageDraw.Draw(inside)
        lashes = _mix(who.skin, 0.22)
        for side in (-1, 1):
            x = side * who.eye_distance + size * _T
            outward = side * _T
            droop = (0.05 * au.au1 * au.au15 - who.eye_tilt) * outward
            upper = _EYE_Y + droop - up * (1 - np.abs(_T) ** 2.3) ** 0.85
            lower = _EYE_Y + droop + low * (1 - _T**2)
            upper_px = self.px(x, upper)
            cut.polygon([*upper_px, *self.px(x[::-1], lower[::-1])], fill=255)
            center = self.px(side * who.eye_distance, _EYE_Y - 0.01)[0]
            self.disc(ink, center, 0.108, _mix(who.iris, 1.0))
            self.disc(ink, center, 0.055, (12, 10, 10))
            self.disc(ink, (center[0] - 0.03 * self.k, center[1] - 0.03 * self.k), 0.022, (255, 255, 255))
            self.wrinkles.append((self.px(x, upper - 0.055), 0.3, 0.03))
            self.crease(x, lower + 0.06 - 0.02 * au.au6, 0.15 + 0.25 * who.age + 0.4 * au.au6 + 0.3 * au.au7, 0.03)
            corner = side * (who.eye_distance + size + 0.04)
            for rise in (-0.08, 0.0, 0.08):
                self.crease(
                    [corner, corner + side * 0.14], [_EYE_Y + rise * 0.4, _EYE_Y + rise * 1.3], 0.45 * au.au6, 0.02
                )
            self.lashes = lashes
            self._upper_lids = [*getattr(self, "_upper_lids", []), upper_px]
        self.albedo.paste(inside, mask=openings)
        for lid in self._upper_lids:
            self.ink.line(lid, fill=lashes, width=self.width(0.04))

    def _nose_y(self) -> float:
        return _EYE_Y + self.who.nose_length - 0.06 * self.au.au9

    def draw_nose(self) -> None:
        au, y, w = self.au, self._nose_y(), self.who.nose_width * (1 + 0.15 * self.au.au9)
        dark = _mix(self.who.skin, 0.35)
        a = np.linspace(0, 2 * np.pi, 10)
        for side in (-1, 1):
            self.ink.polygon(self.px(side * 0.5 * w + 0.065 * np.cos(a), y + 0.035 * np.sin(a), 0.18), fill=dark)
            wing = self.px(side * np.array([0.8, 1.05, 0.95]) * w, [y - 0.13, y - 0.05, y + 0.02], 0.12)
            self.wrinkles.append((wing, 0.35, 0.035))
        for k, level in enumerate((-0.02, 0.07, 0.16)):  # nose wrinkles run across the bridge
            half = 0.15 - 0.02 * k
            self.crease(
                [-half, 0, half], [_EYE_Y + level + 0.03, _EYE_Y + level - 0.02, _EYE_Y + level + 0.03], 0.6 * au.au9
            )
        for side in (-1, 1):
            self.crease(
                side * np.array([0.16, 0.26]), [_EYE_Y + 0.12, _EYE_Y + 0.34], 0.45 * au.au9 + 0.15 * au.au10, 0.035
            )

    def draw_brows(self) -> None:
        au, who = self.au, self.who
        base = _EYE_Y - who.brow_height
        inner = base + 0.02 - 0.17 * au.au1 + 0.14 * au.au4 + 0.10 * au.au9
        middle = base - who.brow_arch - 0.06 * au.au1 - 0.13 * au.au2 + 0.10 * au.au4 + 0.05 * au.au9
        outer = base + 0.03 - 0.14 * au.au2 + 0.02 * au.au4 + 0.03 * au.au1
        y = middle + (outer - inner) / 2 * _T + ((inner + outer) / 2 - middle) * _T**2
        y = np.minimum(y, _EYE_Y - 0.11)
        start, end = 0.15 - 0.06 * au.au4, who.eye_distance + 0.30
        x = start + (end - start) * (_T + 1) / 2
        half = who.brow_thickness * (0.75 + 0.25 * np.cos(2.2 * (_T + 0.45))) * np.linspace(1.15, 0.55, len(_T))
        color = _mix(who.hair, 0.75) if sum(who.hair) < 450 else _mix(who.hair, 0.55)
        for side in (-1, 1):
            self.ink.polygon([*self.px(side * x, y - half), *self.px(side * x[::-1], (y + half)[::-1])], fill=color)
            self.crease(side * np.array([0.05, 0.06]), [base - 0.08, base + 0.14], 0.6 * au.au4, 0.035)
        for level in (-0.74, -0.88):
            arch = 0.06 * au.au4 * (1 - np.abs(_T))
            depth = 0.08 * who.age + 0.4 * max(au.au1, au.au2)
            self.crease((0.3 + 0.3 * au.au2) * _T, level - 0.04 * (au.au1 + au.au2) + 0.03 * _T**2 - arch, depth, 0.03)

    def draw_glasses(self) -> None:
        if self.who.glasses <= 0:
            return
        color, width, a = _mix((60, 50, 50), 1.1 - self.who.glasses), self.width(0.045), np.linspace(0, 2 * np.pi, 24)
        for side in (-1, 1):
            rim_x = np.sign(np.cos(a)) * np.abs(np.cos(a)) ** 0.7
            rim_y = np.sign(np.sin(a)) * np.abs(np.sin(a)) ** 0.7
            rim = self.px(side * (self.who.eye_distance + 0.01) + 0.31 * rim_x, _EYE_Y + 0.02 + 0.23 * rim_y, 0.1)
            self.ink.line(rim, fill=color, width=width)
            self.ink.line(self.px([side * 0.78, side * 1.0], [_EYE_Y, _EYE_Y - 0.03], 0.02), fill=color, width=width)
        self.ink.line(self.px([-0.13, 0.13], [_EYE_Y, _EYE_Y], 0.15), fill=color, width=width)

    # -- light ---------------------------------------------------------------------------------

    def _bumps(self, light: Light) -> np.ndarray:
        """Returns the relief as rows (x, y, sigma x, sigma y, brightness)."""
        au, ex, ny = self.au, self.who.eye_distance, self._nose_y()
        lip, lx = float(self.mouth["lower_outer"].max()), light.direction[0]
        rows = [
            (0.0, _EYE_Y + 0.20, 0.07, 0.26, 0.16, 0.15),
            (0.0, ny - 0.10, 0.09, 0.08, 0.12, 0.3),
            (0.0, ny + 0.10, 0.18, 0.06, -0.16, 0.1),
            (0.0, lip + 0.09, 0.20, 0.06, -0.14, 0.0),
            (0.0, self.chin - 0.22, 0.20, 0.13, 0.08, 0.0),
            (0.0, -0.80, 0.50, 0.25, 0.08, 0.0),
            (0.0, _EYE_Y - 0.18, 0.09, 0.10, -0.16 * au.au4 - 0.14 * au.au9, 0.0),
            (0.0, self.chin + 0.32, 0.80, 0.20, -0.30, 0.0),
        ]
        for s in (-1, 1):
            puff = 0.10 + 0.10 * au.au12 + 0.08 * au.au6
            rows += [
                (s * ex, _EYE_Y - 0.03, 0.25, 0.17, -0.24, 0.0),
                (s * 0.18, _EYE_Y + 0.02, 0.08, 0.15, -0.14 + 0.08 * s * lx, 0.0),
                (s * 0.19, ny - 0.16, 0.07, 0.13, -0.08 + 0.14 * s * lx, 0.05),
                (s * 0.54, 0.24 - 0.06 * au.au6, 0.20, 0.17, puff, 0.0),
                (s * 0.62, 0.72, 0.12, 0.22, -0.08, 0.0),
            ]
        return np.array(rows)

    def shading(self, light: Light) -> Image.Image:
        """Returns the light on every pixel: Lambert's law on the ellipsoid, the relief, and the wrinkles."""
        w, h = self.size
        u = ((np.arange(_SHADE_GRID, dtype=np.float32) + 0.5) * (w / _SHADE_GRID) - self.origin[0]) / self.k
        v = ((np.arange(_SHADE_GRID, dtype=np.float32) + 0.5) * (h / _SHADE_GRID) - self.origin[1]) / self.k
        c, s = self.trig[0]
        x, y = c * u[None, :] + s * v[:, None], -s * u[None, :] + c * v[:, None]
        nx, ny = np.clip(x / 1.12, -1, 1), np.clip(y / 1.65, -1, 1)
        nz = np.sqrt(np.clip(1 - nx**2 - ny**2, 0, 1))
        lx, ly, lz = light.direction
        field = light.ambient + light.diffuse * np.clip(nx * lx + ny * ly + nz * lz, 0, 1)
        bumps = self._bumps(light)
        cx, cy = self.turn(bumps[:, 0], bumps[:, 1], bumps[:, 5])
        cx, cy, sx, sy, amp = (a.astype(np.float32)[:, None, None] for a in (cx, cy, *bumps[:, 2:5].T))
        relief = (amp * np.exp(-0.5 * (((x - cx) / sx) ** 2 + ((y - cy) / sy) ** 2))).sum(0)
        field = field * (1 + relief)
        shade = Image.fromarray(np.clip(field * 255, 0, 255).astype(np.uint8)).resize(
            self.size, Image.Resampling.BICUBIC
        )
        lines = Image.new("L", self.size, 255)
        ink = ImageDraw.Draw(lines)
        for points, strength, width in self.wrinkles:
            ink.line(points, fill=round(255 * (1 - strength)), width=self.width(width), joint="curve")
        shade = ImageChops.multiply(shade, lines.filter(ImageFilter.GaussianBlur(0.018 * self.k)))
        levels = np.arange(256)
        return Image.merge("RGB", [shade.point((levels * f).astype(int).tolist()) for f in light.color])


def _mix(color, factor: float) -> Color:
    r, g, b = (max(0, min(255, round(c * factor))) for c in color)
    return r, g, b

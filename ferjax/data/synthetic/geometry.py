"""Computes the geometry and the shading of a face from pose and action units.

Lengths are in half face widths. The origin is the middle of the face, between the eyes and the mouth; x points to the
viewer's right, y down, z toward the viewer. The head is an ellipsoid.
"""

import dataclasses
import math

import numpy as np

from ferjax.data.synthetic.action_units import ActionUnits, Identity

EYE_Y, MOUTH_Y = -0.22, 0.80
REACH = 2.1  # maximum distance of any point of a head from its middle
ACROSS = np.linspace(-1.0, 1.0, 15)  # parameter along brows, lids and lips
_ARC = np.linspace(0.0, np.pi, 25)
_SHADE_GRID = 32

Curve = tuple[np.ndarray, np.ndarray]
Points = list[tuple[float, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pose:
    """Position and rotation of a head.

    Attributes:
      x, y: column and row of the middle of the face, in pixels.
      scale: half a face width, in pixels.
      roll, yaw, pitch: rotation clockwise in the image plane, to the viewer's right and upward, in radians.
    """

    x: float
    y: float
    scale: float
    roll: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0

    def box(self) -> tuple[int, int, int, int]:
        """Returns the square (x, y, width, height) that a frontal face detector marks, forehead to chin."""
        side = 2.36 * self.scale  # the mean of OpenCV's frontal Haar cascade on rendered scenes
        dx, dy = 0.45 * math.sin(self.yaw), 0.05 - 0.45 * math.sin(self.pitch)
        c, s = math.cos(self.roll), math.sin(self.roll)
        x, y = self.x + self.scale * (c * dx - s * dy), self.y + self.scale * (s * dx + c * dy)
        return round(x - side / 2), round(y - side / 2), round(side), round(side)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Light:
    """Illumination of a head.

    Attributes:
      direction: unit vector from the head to the light.
      ambient, diffuse: ambient light and light from `direction`, in 0..1.
      color: RGB factors in 0..1.
    """

    direction: tuple[float, float, float] = (0.0, -0.4, 0.917)
    ambient: float = 0.45
    diffuse: float = 0.5
    color: tuple[float, float, float] = (1.0, 1.0, 1.0)


class Shape:
    """A face with given pose and action units, at `scale` pixels per unit of length."""

    def __init__(
        self,
        identity: Identity,
        au: ActionUnits,
        pose: Pose,
        scale: float,
        origin: tuple[float, float],
        size: tuple[int, int],
    ):
        self.identity, self.au, self.scale, self.origin, self.size = identity, au, scale, origin, size
        self._roll, self._yaw, self._pitch = ((math.cos(a), math.sin(a)) for a in (pose.roll, pose.yaw, pose.pitch))
        self.chin = identity.chin + 0.30 * au.au26 - 0.03 * au.au17
        self.nose_y = EYE_Y + identity.nose_length - 0.06 * au.au9
        self.lips = _lips(identity, au)

    def turn(self, x, y, lift=0.0, z=None) -> Curve:
        """Rotates points by yaw and pitch; without z they are `lift` above the ellipsoid."""
        x, y = np.asarray(x, float), np.asarray(y, float)
        if z is None:
            z = 0.95 * np.sqrt(np.maximum(1 - (x / 1.15) ** 2 - (y / 1.75) ** 2, 0.0)) + lift
        (cy, sy), (cp, sp) = self._yaw, self._pitch
        return x * cy + z * sy, y * cp - (z * cy - x * sy) * sp

    def place(self, x: np.ndarray, y: np.ndarray) -> Points:
        """Returns the pixel positions of rotated points."""
        c, s = self._roll
        u, v = self.origin[0] + self.scale * (c * x - s * y), self.origin[1] + self.scale * (s * x + c * y)
        return list(zip(np.atleast_1d(u).tolist(), np.atleast_1d(v).tolist(), strict=True))

    def px(self, x, y, lift=0.0, z=None) -> Points:
        """Returns the pixel positions of points of the face."""
        return self.place(*self.turn(x, y, lift, z))

    def outline(self, grow: float = 1.0) -> Curve:
        """Returns the silhouette: a superellipse below (the jaw), half an ellipse above."""
        w, c, s = self.identity.width * grow, np.cos(_ARC), np.sin(_ARC)
        jaw_x = w * np.sign(c) * np.abs(c) ** (2 / self.identity.jaw)
        return np.concatenate([jaw_x, -w * c]), np.concatenate(
            [self.chin * grow * s ** (2 / 2.15), -1.42 * grow * s**0.85]
        )

    def eye(self, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns x, the upper lid's y and the lower lid's y of the eye at side -1 or 1."""
        au, identity = self.au, self.identity
        up = 0.50 * identity.eye_size * max(0.15, 1 + 0.65 * au.au5 - 0.42 * au.au7 - 0.25 * au.au6 - 0.25 * au.au9)
        low = 0.36 * identity.eye_size * max(0.05, 1 + 0.15 * au.au5 - 0.55 * au.au7 - 0.80 * au.au6 - 0.4 * au.au9)
        middle = EYE_Y + (0.05 * au.au1 * au.au15 - identity.eye_tilt) * side * ACROSS
        x = side * identity.eye_distance + identity.eye_size * ACROSS
        return x, middle - up * (1 - np.abs(ACROSS) ** 2.3) ** 0.85, middle + low * (1 - ACROSS**2)

    def brow(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns x, y and half thickness along the right-hand brow, from its inner end."""
        au, identity, t = self.au, self.identity, ACROSS
        base = EYE_Y - identity.brow_height
        inner = base + 0.02 - 0.19 * au.au1 + 0.16 * au.au4 + 0.08 * au.au9
        middle = base - identity.brow_arch - 0.06 * au.au1 - 0.13 * au.au2 + 0.09 * au.au4 + 0.06 * au.au9
        outer = base + 0.03 + 0.03 * au.au1 - 0.14 * au.au2 + 0.05 * au.au9
        y = middle + (outer - inner) / 2 * t + ((inner + outer) / 2 - middle) * t**2
        start, end = 0.15 - 0.06 * au.au4, identity.eye_distance + 0.30
        half = identity.brow_thickness * (0.75 + 0.25 * np.cos(2.2 * (t + 0.45))) * np.linspace(1.15, 0.55, len(t))
        return start + (end - start) * (t + 1) / 2, np.minimum(y, EYE_Y - 0.11), half

    def shading(self, light: Light) -> np.ndarray:
        """Returns the shading (Lambert's law times the relief) on a coarse grid, uint8 (32, 32); 255 is full light."""
        steps = (np.arange(_SHADE_GRID, dtype=np.float32) + 0.5) / _SHADE_GRID
        u, v = ((steps * n - o) / self.scale for n, o in zip(self.size, self.origin, strict=True))
        c, s = self._roll
        x, y = c * u[None, :] + s * v[:, None], -s * u[None, :] + c * v[:, None]
        nx, ny = np.clip(x / 1.12, -1, 1), np.clip(y / 1.65, -1, 1)
        nz = np.sqrt(np.maximum(1 - nx**2 - ny**2, 0))
        lx, ly, lz = light.direction
        field = light.ambient + light.diffuse * np.clip(nx * lx + ny * ly + nz * lz, 0, 1)
        bumps = self._relief(light)
        cx, cy = self.turn(bumps[:, 0], bumps[:, 1], bumps[:, 5])
        cx, cy, sx, sy, amp = (a.astype(np.float32)[:, None, None] for a in (cx, cy, *bumps[:, 2:5].T))
        relief = (amp * np.exp(-0.5 * (((x - cx) / sx) ** 2 + ((y - cy) / sy) ** 2))).sum(0)
        return np.clip(field * (1 + relief) * 255, 0, 255).astype(np.uint8)

    def _relief(self, light: Light) -> np.ndarray:
        """Returns hollows and bulges as rows (x, y, sigma x, sigma y, brightness, height above the ellipsoid)."""
        au, ny, lip, lx = self.au, self.nose_y, float(self.lips[4].max()), light.direction[0]
        rows = [
            (0.0, EYE_Y + 0.20, 0.07, 0.26, 0.16, 0.15),  # nose ridge
            (0.0, ny - 0.10, 0.09, 0.08, 0.12, 0.30),  # tip
            (0.0, ny + 0.10, 0.18, 0.06, -0.16, 0.10),  # below the nose
            (0.0, lip + 0.09, 0.20, 0.06, -0.14, 0.0),  # below the lip
            (0.0, self.chin - 0.22, 0.20, 0.13, 0.08, 0.0),  # chin
            (0.0, -0.80, 0.50, 0.25, 0.08, 0.0),  # forehead
            (0.0, EYE_Y - 0.18, 0.09, 0.10, -0.16 * au.au4 - 0.14 * au.au9, 0.0),  # frown
            (0.0, self.chin + 0.32, 0.80, 0.20, -0.20, 0.0),  # shadow of the chin on the neck
        ]
        for s in (-1, 1):
            cheek = 0.10 + 0.10 * au.au12 + 0.08 * au.au6
            rows += [
                (s * self.identity.eye_distance, EYE_Y - 0.03, 0.25, 0.17, -0.24, 0.0),  # eye socket
                (s * 0.18, EYE_Y + 0.02, 0.08, 0.15, -0.14 + 0.08 * s * lx, 0.0),  # root of the nose
                (s * 0.19, ny - 0.16, 0.07, 0.13, -0.08 + 0.14 * s * lx, 0.05),  # flank of the nose
                (s * 0.54, 0.24 - 0.06 * au.au6, 0.20, 0.17, cheek, 0.0),
                (s * 0.62, 0.72, 0.12, 0.22, -0.08, 0.0),  # below the cheek
            ]
        return np.array(rows)


def _lips(identity: Identity, au: ActionUnits) -> tuple[np.ndarray, ...]:
    """Returns x, and y of the outer and inner edge of the upper lip and the inner and outer edge of the lower lip."""
    t = ACROSS
    stretch = 0.30 * au.au12 + 0.42 * au.au20 - 0.15 * au.au24 - 0.20 * au.au26 - 0.08 * au.au17
    y = MOUTH_Y - 0.07 * au.au17
    corner = (
        y - identity.mouth_curve - 0.19 * au.au12 + 0.20 * au.au15 + 0.05 * au.au20 + 0.12 * au.au26 + 0.06 * au.au17
    )
    upper = y - 0.11 * au.au10 - 0.05 * au.au9 - 0.02 * au.au25 + 0.02 * au.au12
    gap = 0.10 * au.au25 + 0.40 * au.au26 + 0.06 * au.au12 * au.au25 - 0.1 * au.au24
    lower = upper + max(0.0, gap - 0.02) + 0.05 * au.au10 * au.au25
    upper_inner = upper + (corner - upper) * np.abs(t) ** (1.7 + 0.8 * au.au26)
    lower_inner = np.maximum(lower + (corner - lower) * np.abs(t) ** (2 + au.au26), upper_inner)
    body = identity.lips * (1 - 0.65 * au.au24) * np.maximum(1 - t**2, 0) ** 0.7
    upper_lip = body * (1 - 0.3 * au.au12 - 0.2 * au.au20 + 0.25 * au.au10) * (1 - 0.22 * np.exp(-((t / 0.16) ** 2)))
    lower_lip = 1.3 * body * (1 - 0.2 * au.au12 + 0.3 * au.au17)
    x = identity.mouth_width * (1 + stretch) * t
    return x, upper_inner - upper_lip, upper_inner, lower_inner, lower_inner + lower_lip

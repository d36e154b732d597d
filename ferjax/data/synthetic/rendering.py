"""Renders the data set synthetic_faces, labeled faces and scenes for demos, tests and benchmarks.

Each image depends on its own key only, not on the number of images rendered with it.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ferjax.data.synthetic.action_units import EXPRESSIONS, sample_action_units, sample_identity
from ferjax.data.synthetic.drawing import draw_face, draw_shoulders
from ferjax.data.synthetic.geometry import Light, Pose
from ferjax.errors import InputError, unknown

SPLITS = ("train", "validation", "test")
SIZES = (24, 256)  # smallest and largest face image, in pixels
_SMALLEST = 14.0  # minimum half face width in a scene: a box of 33 pixels, which Haar cascades detect


def render_faces(
    labels: Sequence[int] | np.ndarray, *, seed: int, split: str = "train", size: int = 48, channels: int = 1
) -> np.ndarray:
    """Renders one face per label.

    Image i depends on (seed, split, i, labels[i], size, channels) only. Another size or number of channels shows the
    same person in the same pose.

    Args:
      labels: (N,) indices into EXPRESSIONS.
      seed: at least 0.
      split: "train", "validation" or "test"; the faces of different splits differ.
      size: height and width in pixels, 24..256.
      channels: 1 (gray) or 3 (RGB).

    Returns:
      uint8 (N, size, size, channels).

    Raises:
      InputError: if an argument is outside its range.
    """
    labels = _check_labels(labels)
    _check_common(seed, channels)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if not SIZES[0] <= size <= SIZES[1]:
        raise InputError(f"size {size} is outside {SIZES[0]}..{SIZES[1]} pixels")
    images = np.empty((len(labels), size, size, channels), np.uint8)
    for i, label in enumerate(labels.tolist()):
        images[i] = _render_crop(_generator(SPLITS.index(split), seed, i, label), label, size, channels)
    return images


def _render_crop(rng: np.random.Generator, label: int, size: int, channels: int) -> np.ndarray:
    identity = sample_identity(rng)
    units = sample_action_units(rng, EXPRESSIONS[label])
    canvas = _backdrop(rng, (size, size))
    scale = size / 2.4 * rng.uniform(0.92, 1.08)
    roll, yaw, pitch = rng.normal(0, (0.08, 0.15, 0.07))
    x, y = (0.5 + rng.uniform(-0.09, 0.09, 2)) * size
    pose = Pose(x=x - 0.3 * yaw * scale, y=y - 0.22 * scale, scale=scale, roll=roll, yaw=yaw, pitch=pitch)
    draw_face(canvas, identity, units, pose, sample_light(rng))
    _occlude(rng, canvas)
    return _photograph(rng, canvas, channels)


def sample_light(rng: np.random.Generator) -> Light:
    """Samples an illumination, mostly from above and the front, often from a side."""
    azimuth, height = rng.normal(0, 0.6), rng.uniform(-0.2, 0.9)
    direction = np.array([math.sin(azimuth), -math.sin(height), math.cos(azimuth) * math.cos(height) + 0.3])
    direction /= np.linalg.norm(direction)
    warmth = rng.uniform(-0.1, 0.1)
    ambient = rng.uniform(0.25, 0.6)
    return Light(
        direction=(float(direction[0]), float(direction[1]), float(direction[2])),
        ambient=ambient,
        diffuse=rng.uniform(0.85, 1.1) - ambient,
        color=(1.0, 1.0 - abs(warmth) / 2, 1.0 - 0.1 + warmth),
    )


def _backdrop(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Returns a soft random background of (width, height) pixels."""
    base = rng.uniform(40, 210) + rng.normal(0, 18, 3)
    coarse = np.clip(base + rng.normal(0, rng.uniform(5, 35), (4, 4, 1)) + rng.normal(0, 8, (4, 4, 3)), 0, 255)
    return Image.fromarray(coarse.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def _muted(rng: np.random.Generator) -> tuple[int, int, int]:
    r, g, b = np.clip(rng.uniform(40, 200) + rng.normal(0, 25, 3), 0, 255).round().astype(int).tolist()
    return r, g, b


def _occlude(rng: np.random.Generator, canvas: Image.Image) -> None:
    """Occludes the border of 12 % of the faces with a disc."""
    covered = rng.random() < 0.12
    angle, radius, color = rng.uniform(0, 2 * math.pi), rng.uniform(0.12, 0.2), _muted(rng)
    if covered:
        side = canvas.width
        x, y, r = side * (0.5 + 0.42 * math.cos(angle)), side * (0.5 + 0.42 * math.sin(angle)), side * radius
        ImageDraw.Draw(canvas).ellipse((x - r, y - r, x + r, y + r), fill=color)


def _photograph(rng: np.random.Generator, canvas: Image.Image, channels: int) -> np.ndarray:
    """Applies blur, exposure, contrast and sensor noise; returns uint8 (H, W, channels)."""
    focus = max(0.0, rng.normal(0.1, 0.25)) * canvas.width / 48
    gain, offset, noise = rng.uniform(0.7, 1.15), rng.uniform(-15, 25), rng.uniform(1, 6)
    if focus > 0.15:
        canvas = canvas.filter(ImageFilter.GaussianBlur(focus))
    pixels = np.asarray(canvas if channels == 3 else canvas.convert("L"), np.float32)
    pixels = pixels.reshape(canvas.height, canvas.width, channels) * np.float32(gain) + np.float32(offset)
    pixels += noise * rng.standard_normal((canvas.height, canvas.width, 1), np.float32)
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)


def render_scene(
    *, seed: int, faces: int, size: tuple[int, int] = (480, 640), channels: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Renders an image of a room with people that do not overlap.

    Args:
      seed: at least 0.
      faces: number of faces, at least 0.
      size: (height, width) in pixels.
      channels: 1 (gray) or 3 (RGB).

    Returns:
      Image, uint8 (H, W, channels); face boxes (x, y, width, height) as of a frontal face detector, int32 (faces, 4);
      indices into EXPRESSIONS, int32 (faces,).

    Raises:
      InputError: if an argument is outside its range, or the faces do not fit.
    """
    _check_common(seed, channels)
    height, width = size
    if faces < 0:
        raise InputError(f"faces must be at least 0, got {faces}")
    if min(height, width) < 64:
        raise InputError(f"a scene needs at least 64x64 pixels, got {height}x{width}")
    rng = _generator(len(SPLITS), seed, faces, height * 100_000 + width)
    canvas, light = draw_room(rng, (width, height)), sample_light(rng)
    poses = _places(rng, faces, (height, width))
    labels = rng.integers(len(EXPRESSIONS), size=faces).astype(np.int32)
    for pose, label in zip(poses, labels.tolist(), strict=True):
        identity = sample_identity(rng)
        draw_shoulders(canvas, pose, _muted(rng))
        draw_face(canvas, identity, sample_action_units(rng, EXPRESSIONS[label]), pose, light)
    boxes = np.array([pose.box() for pose in poses], np.int32).reshape(faces, 4)
    pixels = np.asarray(canvas if channels == 3 else canvas.convert("L"), np.float32).reshape(height, width, channels)
    pixels = pixels + rng.uniform(1, 5) * rng.standard_normal((height, width, 1), np.float32)
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8), boxes, labels


def draw_room(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Returns a blurred wall of (width, height) pixels with a few rectangles."""
    canvas = _backdrop(rng, size)
    ink = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(0, 4))):
        x, y, w, h = rng.uniform(0, 1, 4) * (size[0], size[1] * 0.6, size[0] * 0.3, size[1] * 0.3)
        ink.rectangle((x, y, x + 10 + w, y + 10 + h), fill=_muted(rng))
    return canvas.filter(ImageFilter.GaussianBlur(2))


def _places(rng: np.random.Generator, faces: int, size: tuple[int, int]) -> list[Pose]:
    """Samples non-overlapping head poses inside the image, farthest first."""
    height, width = size
    largest = max(0.14 * min(height, width), _SMALLEST)
    while largest >= _SMALLEST:
        poses: list[Pose] = []
        for _ in range(400):
            if len(poses) == faces:
                return sorted(poses, key=lambda pose: pose.y)
            scale = max(_SMALLEST, rng.uniform(0.57, 1.0) * largest)
            margin = 1.75 * scale
            x, y = rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)
            roll, yaw, pitch = rng.normal(0, (0.06, 0.10, 0.06))
            if all(math.hypot(x - other.x, y - other.y) > 1.9 * (scale + other.scale) for other in poses):
                poses.append(Pose(x=x, y=y, scale=scale, roll=roll, yaw=yaw, pitch=pitch))
        largest *= 0.8
    raise InputError(f"{faces} faces do not fit into {height}x{width} pixels: use fewer faces or a larger image")


def _generator(stream: int, *key: int) -> np.random.Generator:
    """Returns the random generator of one image."""
    return np.random.default_rng(np.random.SeedSequence([stream, *key]))


def _check_labels(labels: Sequence[int] | np.ndarray) -> np.ndarray:
    array = np.asarray(labels)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise InputError(f"labels must be integers of shape (N,), got {array.dtype} {array.shape}")
    array = array.astype(np.int64)
    if wrong := sorted(set(array[(array < 0) | (array >= len(EXPRESSIONS))].tolist())):
        raise InputError(f"label {wrong[0]} is outside 0..{len(EXPRESSIONS) - 1} ({', '.join(EXPRESSIONS)})")
    return array


def _check_common(seed: int, channels: int) -> None:
    if seed < 0:
        raise InputError(f"seed must be at least 0, got {seed}")
    if channels not in (1, 3):
        raise InputError(f"channels must be 1 (gray) or 3 (RGB), got {channels}")

"""Renders video clips with known identities, face boxes and expressions, for tests of the live loop.

A clip depends on kind, seed and size only; its frames do not depend on their number.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ferjax import folders
from ferjax.cli import progress
from ferjax.data.synthetic.action_units import EXPRESSIONS, ActionUnits, Identity, sample_action_units, sample_identity
from ferjax.data.synthetic.drawing import draw_face, draw_shoulders
from ferjax.data.synthetic.geometry import Pose
from ferjax.data.synthetic.rendering import draw_room, sample_light
from ferjax.errors import InputError, unknown

_HEIGHT = 480.0  # pixels; speeds and sizes below are for frames of this height
_FADE = 0.1  # seconds of transition between two expressions


class Person(NamedTuple):
    """One person in one frame.

    Attributes:
      id: identity, constant over the clip.
      box: (x, y, width, height) in pixels, as of a frontal face detector.
      label: index into EXPRESSIONS.
    """

    id: int
    box: tuple[int, int, int, int]
    label: int


@dataclasses.dataclass(frozen=True)
class _Actor:
    """A person, with pose, label and action units as functions of the time in seconds."""

    identity: Identity
    clothes: tuple[int, int, int]
    pose: Callable[[float], Pose]
    label: Callable[[float], int]
    face: Callable[[float], ActionUnits]


def render_clip(
    kind: str, *, seed: int, frames: int, size: tuple[int, int] = (480, 640), fps: float = 30.0
) -> Iterator[tuple[np.ndarray, list[Person]]]:
    """Renders a clip frame by frame. At 480 rows and 30 fps, faces move by at least two pixels per frame.

    Args:
      kind: "moving": one person; "crossing": two people, one passes in front of the other; "returning": two people,
        one leaves for two seconds and returns; "four": four people; "none": an empty room; "changing": one person with
        a new expression every two seconds; "flicker": one person with a weak expression under flickering light.
      seed: at least 0; random seed of people, room, light and paths.
      frames: number of frames, at least 1.
      size: (height, width) in pixels, at least 120 x 160.
      fps: frames per second.

    Yields:
      The frame, uint8 (H, W, 3) in BGR order, and the people with more than half of the face box inside the frame,
      occluded people included.

    Raises:
      InputError: if an argument is outside its range.
    """
    if kind not in KINDS:
        raise unknown("kind of clip", kind, KINDS)
    height, width = size
    if seed < 0 or frames < 1 or fps <= 0 or height < 120 or width < 160:
        raise InputError(
            "a clip requires seed >= 0, frames >= 1, fps > 0 and at least 120x160 pixels, got "
            f"seed {seed}, {frames} frames, {fps} fps, {height}x{width} pixels"
        )
    return _frames(kind, np.random.default_rng([len(KINDS), KINDS.index(kind), seed, height, width]), frames, size, fps)


def write_clip(kind: str, path: str | Path, *, seed: int = 0, seconds: float = 10.0, fps: float = 30.0) -> int:
    """Renders a clip into an .mp4 file and returns the number of frames.

    Args:
      kind: see `render_clip`.
      path: .mp4 file in an existing folder.
      seed: see `render_clip`.
      seconds: duration, greater than 0.
      fps: frames per second.

    Raises:
      InputError: if an argument is outside its range, or the file cannot be written.
    """
    import cv2

    if not 0 < seconds < float("inf"):
        raise InputError(f"seconds must be greater than 0, got {seconds}")
    path, count = Path(path), round(seconds * fps)
    if path.suffix.lower() != ".mp4" or not path.parent.is_dir():
        raise InputError(f"the output must be an .mp4 file in an existing folder, got {path}")
    part = path.with_name(f".{path.stem}.part.mp4")
    writer = None
    try:
        for image, _ in progress(render_clip(kind, seed=seed, frames=count, fps=fps), what="frames", total=count):
            if writer is None:
                writer = cv2.VideoWriter(folders.native(part), cv2.VideoWriter.fourcc(*"mp4v"), fps, image.shape[1::-1])
                if not writer.isOpened():
                    raise InputError(
                        f"OpenCV cannot write {path}: the codec mp4v is missing, or the folder is not writable"
                    )
            writer.write(image)
        if writer is not None:
            writer.release()
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return count


def _frames(
    kind: str, rng: np.random.Generator, frames: int, size: tuple[int, int], fps: float
) -> Iterator[tuple[np.ndarray, list[Person]]]:
    height, width = size
    room, light = draw_room(rng, (width, height)), sample_light(rng)
    actors = _CASTS[kind](rng, width, height)
    grain = rng.uniform(1, 4) * rng.standard_normal((8, height, width, 1), np.float32)
    lamps = _flicker(rng) if kind == "flicker" else (lambda time: 1.0)
    for index in range(frames):
        time = index / fps
        canvas, present = room.copy(), []
        for number, actor in enumerate(actors):  # farthest first
            pose = actor.pose(time)
            if -2.2 * pose.scale < pose.x < width + 2.2 * pose.scale:
                draw_shoulders(canvas, pose, actor.clothes)
                draw_face(canvas, actor.identity, actor.face(time), pose, light)
                if _inside(pose.box(), width, height) > 0.5:
                    present.append(Person(number, pose.box(), actor.label(time)))
        pixels = np.asarray(canvas, np.float32)[..., ::-1] * np.float32(lamps(time)) + grain[index % len(grain)]
        yield np.clip(pixels + 0.5, 0, 255).astype(np.uint8), present


def _inside(box: tuple[int, int, int, int], width: int, height: int) -> float:
    """Returns the fraction of a box inside the frame, 0..1."""
    x, y, w, h = box
    return max(0, min(x + w, width) - max(x, 0)) * max(0, min(y + h, height) - max(y, 0)) / (w * h)


def _actor(rng: np.random.Generator, pose: Callable[[float], Pose], hold: float = math.inf) -> _Actor:
    """Samples a person on a given path, with a new expression every `hold` seconds."""
    red, green, blue = rng.integers(40, 200, 3).tolist()
    count = 1 if math.isinf(hold) else 64
    labels = [int(rng.integers(len(EXPRESSIONS)))]
    while len(labels) < count:
        labels.append(int((labels[-1] + rng.integers(1, len(EXPRESSIONS))) % len(EXPRESSIONS)))
    shown = [sample_action_units(rng, EXPRESSIONS[label], intensity=1.0) for label in labels]

    def at(time: float) -> int:
        return int(time / hold) % count

    def face(time: float) -> ActionUnits:
        now, part = at(time), (time % hold) / _FADE
        return shown[now] if time < hold or part >= 1 else shown[now - 1].blend(shown[now], part)

    return _Actor(sample_identity(rng), (red, green, blue), pose, lambda time: labels[at(time)], face)


def _path(
    rng: np.random.Generator, scale: float, x: tuple[float, float], y: float, speed: float, start: float
) -> Callable[[float], Pose]:
    """Returns a path back and forth between two columns at `speed` pixels per second, with small sway.

    `start` is the initial position: 0 the first column, 1 the second, 1.5 halfway back.
    """
    (left, right), phase = x, rng.uniform(0, 2 * math.pi, 4)
    reach = max(abs(right - left), 1.0)

    def pose(time: float) -> Pose:
        way = (start + speed * time / reach) % 2
        sway = [math.sin(0.7 * (k + 2) * time + p) for k, p in enumerate(phase)]
        return Pose(
            x=left + (right - left) * (way if way <= 1 else 2 - way),
            y=y + 0.15 * scale * sway[0],
            scale=scale * (1 + 0.04 * sway[1]),
            roll=0.08 * sway[2],
            yaw=0.12 * sway[3],
        )

    return pose


def _walker(rng: np.random.Generator, width: int, height: int, hold: float = math.inf) -> list[_Actor]:
    k = height / _HEIGHT
    scale, speed = k * rng.uniform(38, 62), k * rng.uniform(70, 130)
    y = rng.uniform(0.36, 0.55) * height
    ends = (1.8 * scale, width - 1.8 * scale)
    return [_actor(rng, _path(rng, scale, ends, y, speed, rng.uniform(0, 2)), hold)]


def _crossing(rng: np.random.Generator, width: int, height: int) -> list[_Actor]:
    k = height / _HEIGHT
    near, far = k * rng.uniform(50, 60), k * rng.uniform(38, 44)
    y, speed = rng.uniform(0.40, 0.50) * height, k * rng.uniform(110, 170)
    ends = (1.8 * near, width - 1.8 * near)
    return [
        _actor(rng, _path(rng, far, ends[::-1], y - 0.3 * near, speed, rng.uniform(0, 0.2))),
        _actor(rng, _path(rng, near, ends, y, speed, rng.uniform(0, 0.2))),
    ]


def _returning(rng: np.random.Generator, width: int, height: int) -> list[_Actor]:
    k = height / _HEIGHT
    scale, speed = k * rng.uniform(38, 50), k * rng.uniform(150, 200)
    away = 2 * (2.2 * scale / speed) + 2.0  # out of the frame and back, plus two seconds
    leaver = _path(rng, scale, (0.7 * width, width + speed * away / 2), 0.45 * height, speed, 0.0)
    stayer = _path(rng, scale, (0.2 * width, 0.35 * width), 0.5 * height, k * 70, rng.uniform(0, 2))
    return [_actor(rng, leaver), _actor(rng, stayer)]


def _four(rng: np.random.Generator, width: int, height: int) -> list[_Actor]:
    k = height / _HEIGHT
    actors = []
    for row in range(2):
        for column in range(2):
            scale, speed = k * rng.uniform(34, 42), k * rng.uniform(65, 95)
            middle = (0.27 + 0.46 * column) * width
            ends = (middle - 0.08 * width, middle + 0.08 * width)
            path = _path(rng, scale, ends, (0.25 + 0.45 * row) * height, speed, rng.uniform(0, 2))
            actors.append(_actor(rng, path))
    return actors


def _flicker(rng: np.random.Generator) -> Callable[[float], float]:
    """Returns the brightness over time: flicker of about 7 and 3 Hz."""
    a, b = rng.uniform(0, 2 * math.pi, 2)
    return lambda time: 0.8 + 0.14 * math.sin(44 * time + a) + 0.06 * math.sin(19 * time + b)


def _weak_expression(rng: np.random.Generator, width: int, height: int) -> list[_Actor]:
    (actor,) = _walker(rng, width, height)
    label = actor.label(0.0)
    other = EXPRESSIONS[(label + 1 + int(rng.integers(len(EXPRESSIONS) - 1))) % len(EXPRESSIONS)]
    main = sample_action_units(rng, EXPRESSIONS[label], intensity=0.6)
    mixed, (a, b) = sample_action_units(rng, other, intensity=0.6), rng.uniform(0, 2 * math.pi, 2)

    def face(time: float) -> ActionUnits:
        return main.blend(mixed, 0.35 + 0.2 * math.sin(17 * time + a) + 0.1 * math.sin(7 * time + b))

    return [dataclasses.replace(actor, face=face)]


_CASTS: dict[str, Callable[[np.random.Generator, int, int], list[_Actor]]] = {
    "moving": _walker,
    "crossing": _crossing,
    "returning": _returning,
    "four": _four,
    "none": lambda rng, width, height: [],
    "changing": lambda rng, width, height: _walker(rng, width, height, hold=2.0),
    "flicker": _weak_expression,
}
KINDS = tuple(_CASTS)

"""Draws the timeline of a film: for each person the shares of the expressions over time, and faces at their times."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ferjax.runtime.analysis.timeline import THUMBNAIL, Lane, Thumbnail, Timeline
from ferjax.runtime.show.drawing import Color, colors, shown_names

if TYPE_CHECKING:
    from PIL import Image

_WIDTH, _LEFT, _RIGHT = 1200, 110, 24  # pixels of the picture, and beside the lanes
_HEAD, _LANE, _GAP, _AXIS = 48, 60, 20, 34  # heights of legend, lane, space below a lane with its faces, time axis
_TEXT, _FAINT, _LINE, _EMPTY = (40, 40, 40), (110, 110, 110), (200, 200, 200), (245, 245, 245)
_HATCH = ((255, 255, 255), (120, 120, 120))
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)  # seconds between ticks


def draw_timeline(timeline: Timeline) -> "Image.Image":
    """Draws a closed timeline with Pillow, one lane per person.

    The height of a color at a time is the share of the time with this label; "uncertain" is hatched, and the rest is
    the time in which the person is not visible.
    """
    from PIL import Image, ImageDraw

    lanes = sorted(timeline.lanes.items(), key=lambda item: item[0])
    height = _HEAD + len(lanes) * (_LANE + THUMBNAIL + _GAP) + _AXIS
    picture = Image.new("RGB", (_WIDTH, height), "white")
    draw, font = ImageDraw.Draw(picture), _font(14)
    palette = [(red, green, blue) for blue, green, red in colors(timeline.labels[:-1]).values()]
    _draw_legend(picture, draw, timeline.labels, palette)
    top = _HEAD
    for track, lane in lanes:
        picture.paste(Image.fromarray(_bars(timeline, lane, palette)), (_LEFT, top))
        draw.rectangle((_LEFT, top, _WIDTH - _RIGHT, top + _LANE), outline=_LINE)
        draw.text((12, top + 12), f"Person {track}", fill=_TEXT, font=font)
        draw.text((12, top + 32), f"{lane.seconds().sum():.1f} s", fill=_FAINT, font=font)
        for x, face in _spaced(timeline, lane):
            _draw_face(picture, draw, x, top + _LANE, face, timeline.labels, palette)
        top += _LANE + THUMBNAIL + _GAP
    _draw_axis(draw, timeline.end, top, font)
    return picture


def _font(size: int, file: str = "") -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(file, size) if file else ImageFont.load_default(size)


def _plot_width() -> int:
    return _WIDTH - _LEFT - _RIGHT


def _x(time: float, end: float) -> int:
    return _LEFT + round(time / end * _plot_width())


def _bars(timeline: Timeline, lane: Lane, palette: list[Color]) -> np.ndarray:
    """Returns the stacked shares as RGB pixels, uint8 (_LANE, plot width, 3)."""
    columns = np.arange(_plot_width())
    times = (columns + 0.5) / len(columns) * timeline.end
    bins = (times / timeline.width).astype(int)
    lengths = np.minimum(timeline.width, timeline.end - bins * timeline.width)  # the last bin is shorter
    seconds = np.array([lane.bins[i] if i in lane.bins else np.zeros(len(timeline.labels)) for i in bins])
    tops = (seconds / lengths[:, None]).cumsum(1).T  # (labels, columns)
    heights = (np.arange(_LANE)[::-1] + 0.5) / _LANE
    chosen = (heights[:, None, None] > tops).sum(1)  # (rows, columns); the number of labels where there is none
    pixels = np.array([*palette, _HATCH[0], _EMPTY], np.uint8)[chosen]
    pixels[(chosen == len(palette)) & _stripes(_LANE, len(columns))] = _HATCH[1]
    return pixels


def _stripes(height: int, width: int) -> np.ndarray:
    return np.add.outer(np.arange(height), np.arange(width)) % 6 < 2


def _spaced(timeline: Timeline, lane: Lane) -> list[tuple[int, Thumbnail]]:
    """Returns the left edges and the thumbnails that do not overlap."""
    placed: list[tuple[int, Thumbnail]] = []
    for _, face in sorted(lane.thumbnails.items(), key=lambda item: item[0]):
        x = min(_x(face.time, timeline.end), _WIDTH - _RIGHT - THUMBNAIL)
        if not placed or x >= placed[-1][0] + THUMBNAIL:
            placed.append((x, face))
    return placed


def _draw_face(
    picture: "Image.Image",
    draw: Any,
    x: int,
    top: int,
    face: Thumbnail,
    labels: tuple[str, ...],
    palette: list[Color],
) -> None:
    """Draws a thumbnail below its lane, with a line in the color of its label."""
    from PIL import Image

    picture.paste(Image.fromarray(np.ascontiguousarray(face.image[..., ::-1])), (x, top + 5))
    color = [*palette, _HATCH[1]][labels.index(face.label)]
    draw.rectangle((x, top + 1, x + THUMBNAIL - 1, top + 4), fill=color)


def _draw_legend(picture: "Image.Image", draw: Any, labels: tuple[str, ...], palette: list[Color]) -> None:
    from PIL import Image

    names, files = shown_names(labels)
    x = _LEFT
    for i, label in enumerate(labels):
        if i < len(palette):
            draw.rectangle((x, 18, x + 14, 32), fill=palette[i])
        else:
            stripes = np.array(_HATCH, np.uint8)[_stripes(15, 15).astype(int)]
            picture.paste(Image.fromarray(stripes), (x, 18))
        font = _font(14, files.get(names[label], ""))
        draw.text((x + 20, 25), names[label], fill=_TEXT, font=font, anchor="lm")
        x += 20 + math.ceil(draw.textlength(names[label], font=font)) + 22


def _draw_axis(draw: Any, end: float, top: int, font: Any) -> None:
    step = next((s for s in _STEPS if end / s <= 12), _STEPS[-1])
    draw.line((_LEFT, top, _WIDTH - _RIGHT, top), fill=_TEXT)
    for tick in range(math.floor(end / step) + 1):
        x = _x(tick * step, end)
        draw.line((x, top, x, top + 5), fill=_TEXT)
        draw.text((x, top + 8), clock(tick * step), fill=_FAINT, font=font, anchor="ma")


def clock(seconds: float) -> str:
    """Returns a time as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

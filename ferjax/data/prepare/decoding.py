"""Decoding one picture into the uint8 (H, W, C) array that everything else works on."""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ferjax.data.datasets.sources import BadExample

Box = tuple[int, int, int, int]


class Decoded(NamedTuple):
    """One decoded picture.

    Attributes:
      image: uint8 (size, size, channels).
      remarks: what had to be done to it, such as "resized"; the same words for every picture.
    """

    image: np.ndarray
    remarks: tuple[str, ...]


def decode(
    data: bytes | np.ndarray,
    size: int,
    channels: int,
    *,
    box: Box | None = None,
    crop: Callable[[Image.Image], Image.Image] | None = None,
) -> Decoded:
    """Decodes a picture of any common kind.

    EXIF rotation is applied, transparency is laid on white, 16-bit depth is scaled to 8 bits, of an animation
    the first frame is taken, colour becomes grey by ITU-R 601 luma (as OpenCV does it), and a picture
    of another size is cropped to its central square and resized with antialiasing.

    Args:
      data: the bytes of a file, or a uint8 array (H, W) or (H, W, C).
      size: height and width of the result in pixels.
      channels: 1 for grey, 3 for RGB.
      box: (left, top, right, bottom) in pixels to cut out first, clipped to the picture.
      crop: cuts the face out of an 8-bit picture, after `box`.

    Returns:
      The image and the remarks on it.

    Raises:
      Exception: whatever Pillow raises on bytes that do not decode; it has no common base class.
    """
    remarks: list[str] = []
    if isinstance(data, np.ndarray):
        picture = Image.fromarray(data.squeeze(-1) if data.shape[2:] == (1,) else data)
    else:
        picture, remarks = _open(data)
    if box is not None:
        picture = picture.crop(_clip(box, picture.size))
    if crop is not None:
        picture = crop(picture)
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (size, size):
        remarks.append(f"resized to {size}x{size}")
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        picture = square.resize((size, size), Image.Resampling.BILINEAR)
    return Decoded(np.array(picture, np.uint8).reshape(size, size, channels), tuple(remarks))


def _open(data: bytes) -> tuple[Image.Image, list[str]]:
    """Returns an upright 8-bit grey or RGB picture, and what was done to get it."""
    remarks = []
    with Image.open(io.BytesIO(data)) as picture:
        # A phone's MPO holds a second, alternative view: that is no animation.
        if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
            remarks.append("animated or of several pages, first one taken")
            picture.seek(0)
        picture.load()
        if picture.getexif().get(0x0112, 1) != 1:
            remarks.append("rotated as the EXIF tag says")
        upright = ImageOps.exif_transpose(picture)
    flat, more = _eight_bit(upright)
    return flat, remarks + more


def _eight_bit(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """Returns an 8-bit grey or RGB picture without transparency, and what was done."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, np.float64)
        # The depth of 16 bits is known however dark the picture; float and 32-bit files do not say theirs.
        tops = [65535.0] if picture.mode.startswith("I;16") else [1.0] * (picture.mode == "F") + [255.0, 65535.0]
        top = next((t for t in tops if values.max() <= t), values.max())
        scaled = np.clip(np.rint(values * (255 / top)), 0, 255).astype(np.uint8)
        return Image.fromarray(scaled), ["of more than 8 bits, scaled to 8"]
    if "A" in picture.getbands() or "a" in picture.getbands() or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        if layer.getchannel("A").getextrema() != (255, 255):
            paper = Image.new("RGBA", layer.size, "white")
            return Image.alpha_composite(paper, layer).convert("RGB"), ["transparent, laid on white"]
        return layer.convert("RGB"), []
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB"), []


def _clip(box: Box, size: tuple[int, int]) -> Box:
    left, top, right, bottom = box
    clipped = max(0, left), max(0, top), min(size[0], right), min(size[1], bottom)
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        raise BadExample(f"the face box {box} lies outside the picture of {size[0]}x{size[1]}")
    return clipped

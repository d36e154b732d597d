"""Decodes image files to uint8 arrays (H, W, C)."""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ferjax.data.datasets.sources import BadExample

Box = tuple[int, int, int, int]


class Decoded(NamedTuple):
    """One decoded image.

    Attributes:
      image: uint8 (size, size, channels).
      remarks: applied conversions, such as "resized to 48x48"; they are keys in manifest.json, so their text is fixed.
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
    """Decodes an image of any format that Pillow reads; returns it with the applied conversions.

    Applies EXIF rotation, blends transparency with white, scales 16 bits to 8 bits, and takes the first frame of an
    animation. Color is converted to gray by ITU-R 601 luma, as in OpenCV. An image of another size is cropped to its
    central square and resized with antialiasing.

    Args:
      data: bytes of a file, or a uint8 array (H, W) or (H, W, C).
      size: height and width of the result in pixels.
      channels: 1 for gray, 3 for RGB.
      box: crop (left, top, right, bottom) in pixels, clipped to the image.
      crop: function that crops the face of an 8-bit image, called after `box`.

    Raises:
      Exception: any type; the errors of Pillow for invalid files have no common base class.
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
    """Returns an upright 8-bit gray or RGB image and the applied conversions."""
    remarks = []
    with Image.open(io.BytesIO(data)) as picture:
        # An MPO file of a phone contains a second view, not an animation.
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
    """Returns an 8-bit gray or RGB image without transparency and the applied conversions."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, np.float64)
        # 16-bit files have a known range. For float and 32-bit files the range is guessed from the maximum.
        tops = [65535.0] if picture.mode.startswith("I;16") else [1.0] * (picture.mode == "F") + [255.0, 65535.0]
        top = next((t for t in tops if values.max() <= t), values.max())
        scaled = np.clip(np.rint(values * (255 / top)), 0, 255).astype(np.uint8)
        return Image.fromarray(scaled), ["of more than 8 bits, scaled to 8"]
    if "A" in picture.getbands() or "a" in picture.getbands() or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        if layer.getchannel("A").getextrema() != (255, 255):
            background = Image.new("RGBA", layer.size, "white")
            return Image.alpha_composite(background, layer).convert("RGB"), ["transparent, laid on white"]
        return layer.convert("RGB"), []
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB"), []


def _clip(box: Box, size: tuple[int, int]) -> Box:
    left, top, right, bottom = box
    clipped = max(0, left), max(0, top), min(size[0], right), min(size[1], bottom)
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        raise BadExample(f"the face box {box} is outside the image of {size[0]}x{size[1]} pixels")
    return clipped

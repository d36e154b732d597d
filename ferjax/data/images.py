"""Decoding one picture into the uint8 (H, W, C) array that everything else works on."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps


class Decoded(NamedTuple):
    """One decoded picture.

    Attributes:
      image: uint8 (size, size, channels).
      remarks: what had to be done to it, such as "resized"; the same words for every picture.
    """

    image: np.ndarray
    remarks: tuple[str, ...]


def decode(data: bytes, size: int, channels: int, box: tuple[int, int, int, int] | None = None) -> Decoded:
    """Decodes a picture file of any common kind.

    EXIF rotation is applied, transparency is laid on white, 16-bit depth is scaled to 8 bits, of an animation
    the first frame is taken, colour becomes grey by ITU-R 601 luma (as OpenCV does it), and a picture
    of another size is cropped to its central square and resized with antialiasing.

    Args:
      data: the bytes of the file.
      size: height and width of the result in pixels.
      channels: 1 for grey, 3 for RGB.
      box: (left, top, right, bottom) in pixels to cut out first, clipped to the picture.

    Returns:
      The image and the remarks on it.

    Raises:
      Exception: whatever Pillow raises on bytes that do not decode; it has no common base class.
    """
    remarks = []
    with Image.open(io.BytesIO(data)) as picture:
        # A phone's MPO holds a second, alternative view: that is no animation.
        if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
            remarks.append("animated or multi-page, first frame taken")
            picture.seek(0)
        picture.load()
        if picture.getexif().get(0x0112, 1) != 1:
            remarks.append("rotated as its EXIF tag says")
        upright = ImageOps.exif_transpose(picture)
    if box is not None:
        upright = upright.crop(_clip(box, upright.size))
    flat, more = _eight_bit(upright)
    remarks += more
    flat = flat.convert("L" if channels == 1 else "RGB")
    if flat.size != (size, size):
        remarks.append(f"resized to {size}x{size}")
        flat = ImageOps.fit(flat, (size, size), Image.Resampling.BILINEAR)
    return Decoded(np.array(flat, np.uint8).reshape(size, size, channels), tuple(remarks))


def fit(image: np.ndarray, size: int, channels: int) -> Decoded:
    """Brings a uint8 (H, W) or (H, W, C) array to (size, size, channels), as `decode` does."""
    picture = Image.fromarray(image.squeeze(-1) if image.ndim == 3 and image.shape[-1] == 1 else image)
    picture = picture.convert("L" if channels == 1 else "RGB")
    remarks: tuple[str, ...] = ()
    if picture.size != (size, size):
        remarks = (f"resized to {size}x{size}",)
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
    return Decoded(np.array(picture, np.uint8).reshape(size, size, channels), remarks)


def _eight_bit(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """Returns an 8-bit picture without transparency, and what was done."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, np.float64)
        top = next(t for t in (1.0 if picture.mode == "F" else 255.0, 255.0, 65535.0, np.inf) if values.max() <= t)
        if picture.mode.startswith("I;16"):
            top = 65535.0  # the depth is known, however dark the picture
        scale = 255 / (top if np.isfinite(top) else values.max())
        scaled = np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)
        return Image.fromarray(scaled), ["more than 8 bits deep, scaled to 8"]
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        if layer.getchannel("A").getextrema() != (255, 255):
            paper = Image.new("RGBA", layer.size, "white")
            return Image.alpha_composite(paper, layer), ["transparent, laid on white"]
        return layer, []
    return picture.convert("RGB") if picture.mode not in ("L", "RGB") else picture, []


def _clip(box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    clipped = max(0, left), max(0, top), min(size[0], right), min(size[1], bottom)
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        raise ValueError(f"the face box {box} lies outside the picture of {size[0]}x{size[1]}")
    return clipped

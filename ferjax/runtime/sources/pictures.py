"""Lists and reads images: the one reader of data preparation, prediction and the live loop.

The content of a file decides its format, never its name. The same bytes give the same pixels everywhere. Pillow is
imported on first use.
"""

import collections
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ferjax.cli import counted, note
from ferjax.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = {  # Pillow's name: usual endings
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "PPM": (".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k"),
}
ENDINGS = tuple(ending for endings in FORMATS.values() for ending in endings)
_LATE_JPEG = "JPEG with other bytes before it"
_NOT_READ = {  # other images and documents: how their files start
    "HEIC": rb".{4}ftyp(heic|heix|hevc|heim|heis|mif1|msf1)",
    "PDF": rb"%PDF",
    "SVG": rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!DOCTYPE )?svg",
    "ICO": rb"\0\0\x01\0[^\0]\0",
    "TGA": rb".\0[\2\3\n\v]\0{5}.{8}[\x08\x10\x18\x20]",
    "PAM": rb"P7\n",
    "PCX": rb"\n[\0-\5][\0\1][\1\2\4\x08]",
    "SGI": rb"\x01\xda[\0\1][\1\2]\0",
    "DDS": rb"DDS ",
    "QOI": rb"qoif",
    "Photoshop": rb"8BPS",
    "JPEG XL": rb"\xff\n|\0\0\0\x0cJXL ",
    "OpenEXR": rb"v/1\x01",
    "Radiance HDR": rb"#\?R(ADIANCE|GBE)",
    "DPX": rb"SDPX|XPDS",
    "Sun raster": rb"\x59\xa6\x6a\x95",
    "XBM": rb"\s*(/\*.*?\*/\s*)?#define \w+_width ",
    "XPM": rb"/\* XPM",
    "MSP": rb"DanM|LinS",
    _LATE_JPEG: rb"(?!\xff)(\xef\xbb\xbf)?[\0\s -~]*\xff\xd8\xff",
}
_NEXT_FRAME = re.compile(rb"\xff\xd9(\s*--[\s -~]{1,1000})?\xff\xd8\xff")  # of Motion JPEG, also as HTTP sends it
_LEFTOVERS = ("__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini")
_MOST_PIXELS = 2**28  # photos of phones have up to 2e8; Pillow refuses twice this number
_ORIENTATION = 0x0112  # EXIF tag
_TURNS = {  # its values: how Pillow names the turn to upright
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_GRAY_STEPS = {"L;2": 85, "L;4": 17}  # PNG of 2 and 4 bits


class UnreadableImage(ValueError):
    """An image cannot be decoded; the message is the reason."""


class Picture(NamedTuple):
    """A decoded image.

    Attributes:
      image: upright, without transparency, of mode "L" or "RGB".
      remarks: applied conversions, such as "transparent, laid on white".
    """

    image: "Image.Image"
    remarks: tuple[str, ...]


def is_picture(path: str) -> bool:
    """Returns whether a path, with forward slashes, has the ending of an image."""
    return PurePosixPath(path).suffix.lower() in ENDINGS


def is_leftover(path: str) -> bool:
    """Returns whether a relative path with forward slashes is hidden, or left by an operating system."""
    return any(part.startswith(".") or part.lower() in _LEFTOVERS for part in PurePosixPath(path).parts)


def listed(folder: Path, paths: Iterable[Path], *, hint: str = "") -> list[Path]:
    """Returns the images among paths in a folder in natural order, img2 before img10; reports the number of others.

    Args:
      folder: the folder.
      paths: files and folders in it.
      hint: what to do with the others, added to the report.

    Raises:
      InputError: if there is no image.
    """
    files = (p.relative_to(folder).as_posix() for p in paths if p.is_file())
    names = sorted((name for name in files if not is_leftover(name)), key=_natural)
    found = [folder / name for name in names if is_picture(name)]
    others = passed_over([name for name in names if not is_picture(name)])
    others += hint if others else ""
    if not found:
        names = [p.relative_to(folder).as_posix() for p in folder.rglob("*")]
        shown = any(is_picture(name) and not is_leftover(name) for name in names)
        below = ", but its subfolders have: give one of them" if shown else ""
        reason = f"; {others}" if others else ""
        raise InputError(f"folder {folder} has no image{below}{reason}; accepted: {', '.join(ENDINGS)}")
    if others:
        note(f"{folder}: {others}")
    return found


def passed_over(names: Sequence[str]) -> str:
    """Returns "3 files passed over, not images: .txt 2, .heic 1" for the names of other files, "" for none."""
    counts = collections.Counter(PurePosixPath(name).suffix.lower() or "no ending" for name in names)
    kinds = ", ".join(f"{ending} {count:,}" for ending, count in counts.most_common(5))
    return f"{counted(len(names), 'file')} passed over, not images: {kinds}" if names else ""


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts] + [(-1, name)]


def read(data: bytes) -> Picture:
    """Decodes an image file of one of FORMATS.

    Applies the EXIF orientation, blends transparency with white, converts CMYK and CIELAB to RGB, scales 16 bits and
    float to 8 bits, and takes the first frame of an animation.

    Raises:
      UnreadableImage: if the file is empty, damaged or of another format.
    """
    from PIL import UnidentifiedImageError

    try:
        with _pillow().open(io.BytesIO(data), formats=tuple(FORMATS)) as picture:
            if picture.format == "PNG" and picture.mode == "L" and "transparency" in picture.info:
                # Pillow scales the pixels only.
                picture.info["transparency"] *= _GRAY_STEPS.get(str(picture.tile[0].args), 1)
            return upright(picture)
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:
        reason = "it is damaged or not an image of an accepted format" if data else "it is empty"
        if kind := _not_read(data):
            reason = f"it is {kind}: convert it to JPEG or PNG"
        raise UnreadableImage(reason) from error
    except Exception as error:  # Pillow raises many types for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(f"Pillow cannot decode it: {reason}") from error


def read_bgr(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an image file as `read`; returns uint8 BGR (h, w, 3).

    Raises:
      UnreadableImage: if the file cannot be opened or decoded.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error)) from error
    return to_bgr(read(data))


def to_bgr(picture: Picture) -> np.ndarray:
    """Returns the pixels as uint8 BGR (h, w, 3)."""
    return np.ascontiguousarray(np.asarray(picture.image.convert("RGB"))[..., ::-1])


def is_still(path: str | os.PathLike[str]) -> bool:
    """Returns whether the content of a file is an image, also one that `read` refuses, such as HEIC.

    Animated GIF and PNG, and Motion JPEG, are videos.
    """
    from PIL import UnidentifiedImageError

    try:
        with _pillow().open(path, formats=tuple(FORMATS)) as picture:
            if picture.format in ("GIF", "PNG"):
                return getattr(picture, "n_frames", 1) == 1
            if picture.format != "JPEG":
                return True
    except UnidentifiedImageError:
        with open(path, "rb") as file:
            kind = _not_read(file.read(2**16))
        if kind != _LATE_JPEG:
            return bool(kind)
    except Exception:  # a damaged image; `read` says why
        return True
    return not _NEXT_FRAME.search(Path(path).read_bytes())


def _not_read(data: bytes) -> str:
    """Returns the name of an image format that is not read, "" for all else."""
    return next((kind for kind, start in _NOT_READ.items() if re.match(start, data, re.DOTALL)), "")


def _pillow() -> Any:
    """Returns the module PIL.Image."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = _MOST_PIXELS
    return Image


def upright(picture: "Image.Image") -> Picture:
    """Converts an image as `read`.

    Raises:
      UnreadableImage: if its pixels are infinite or not a number.
    """
    remarks = []
    # An MPO file of a phone contains a second view, not an animation.
    if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
        remarks.append("animated or of several pages, first one taken")
        picture.seek(0)
    if _turn(picture):
        remarks.append("rotated as the EXIF tag says")
    picture.load()  # turns TIFF
    turn = _turn(picture)
    of_16_bits = picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM")
    flat, more = _eight_bit(picture, of_16_bits)
    upright = flat.transpose(_pillow().Transpose[turn]) if turn else flat
    return Picture(upright, (*remarks, *more))


def _turn(picture: "Image.Image") -> str | None:
    try:
        return _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF, of any type; the pixels may be intact
        return None


def _eight_bit(picture: "Image.Image", of_16_bits: bool) -> tuple["Image.Image", list[str]]:
    """Returns an 8-bit gray or RGB image without transparency and the applied conversions."""
    from PIL import Image

    if picture.mode.startswith("I") or picture.mode == "F":
        return Image.fromarray(_scaled(picture, of_16_bits)), ["of more than 8 bits, scaled to 8"]
    if picture.mode == "LAB":
        from PIL import ImageCms

        lab, rgb = (ImageCms.ImageCmsProfile(ImageCms.createProfile(name)) for name in ("LAB", "sRGB"))
        return ImageCms.buildTransform(lab, rgb, "LAB", "RGB").apply(picture), []
    if "A" in picture.getbands() or "a" in picture.getbands() or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        if layer.getchannel("A").getextrema() != (255, 255):
            background = Image.new("RGBA", layer.size, "white")
            return Image.alpha_composite(background, layer).convert("RGB"), ["transparent, laid on white"]
        return layer.convert("RGB"), []
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB"), []


def _scaled(picture: "Image.Image", of_16_bits: bool) -> np.ndarray:
    """Returns the values of an integer or float image scaled to uint8 (h, w)."""
    values = np.array(picture, np.float64)
    clear = values == picture.info.get("transparency", np.nan)
    largest = values.max()
    if not np.isfinite([largest, values.min()]).all():
        raise UnreadableImage("it has pixels that are infinite or not a number")
    # For float and 32-bit files the range is guessed from the maximum.
    tops = [65535.0] if of_16_bits else [1.0] * (picture.mode == "F") + [255.0, 65535.0]
    values *= 255 / next((top for top in tops if largest <= top), largest)  # in place: images may be large
    scaled = np.clip(np.rint(values, out=values), 0, 255, out=values).astype(np.uint8)
    scaled[clear] = 255
    return scaled

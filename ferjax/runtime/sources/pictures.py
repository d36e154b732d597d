"""Lists and reads images: the one reader of data preparation, prediction and the live loop.

The content of a file decides its format, never its name. The same bytes give the same pixels everywhere. Pillow is
imported on first use.
"""

from pathlib import PurePosixPath

FORMATS = {  # Pillow's name: usual endings
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo",),
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
_LEFTOVERS = ("__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini")


def is_picture(path: str) -> bool:
    """Returns whether a path, with forward slashes, has the ending of an image."""
    return PurePosixPath(path).suffix.lower() in ENDINGS


def is_leftover(path: str) -> bool:
    """Returns whether a relative path with forward slashes is hidden, or left by an operating system."""
    return any(part.startswith(".") or part.lower() in _LEFTOVERS for part in PurePosixPath(path).parts)

"""Finds installed fonts for text beyond ASCII."""

import functools
import importlib.util
import os
import pathlib
import re
from collections.abc import Iterable

from ferjax.cli import note
from ferjax.folders import expand_user

_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    os.path.expandvars(r"$WINDIR\Fonts"),
    os.path.expandvars(r"$LOCALAPPDATA\Microsoft\Windows\Fonts"),
)
_KINDS = (".otc", ".otf", ".ttc", ".ttf")
_SPECIAL = re.compile("black|bold|condensed|italic|light|mono|oblique|serif|thin", re.IGNORECASE)
_reported: set[str] = set()
_NO_CHARACTER = "\uffff"  # never assigned, so every font draws its sign for a missing letter


def fonts(texts: Iterable[str]) -> dict[str, str]:
    """Returns a font file for each text with letters beyond ASCII; a message names letters that no font has."""
    needed = {text: frozenset(c for c in text if not c.isascii() and not c.isspace()) for text in texts}
    installed = _installed() if any(needed.values()) else ()
    found = {text: _font(letters, installed) for text, letters in needed.items() if letters}
    missing = {letter for text, font in found.items() if font is None for letter in needed[text]} - _reported
    if missing:
        _reported.update(missing)
        note(f"no installed font has all of the letters {''.join(sorted(missing))}: install one, such as Noto Sans")
    return {text: font for text, font in found.items() if font is not None}


@functools.cache
def _font(letters: frozenset[str], installed: tuple[str, ...]) -> str | None:
    return next((font for font in installed if _has(font, letters)), None)


def _installed() -> tuple[str, ...]:
    """Returns all font files, plain sans-serif fonts first."""
    folders = [expand_user(folder) for folder in _FOLDERS]
    if matplotlib := importlib.util.find_spec("matplotlib"):  # it contains DejaVu Sans
        folders.append(pathlib.Path(str(matplotlib.origin)).parent / "mpl-data" / "fonts")
    found = [path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in _KINDS]
    found = [path for path in found if "lastresort" not in path.name.lower()]  # draws only the name of the script
    return tuple(str(path) for path in sorted(found, key=_order))


def _order(path: pathlib.Path) -> tuple[int, bool, str]:
    return len(_SPECIAL.findall(path.stem)), "sans" not in path.stem.lower(), path.name


def _has(font: str, letters: frozenset[str]) -> bool:
    from PIL import ImageFont

    try:
        drawn = ImageFont.truetype(font, 20, layout_engine=ImageFont.Layout.BASIC)
        glyphs = {letter: drawn.getmask(letter) for letter in (_NO_CHARACTER, *letters)}
    except OSError:  # a damaged font, or one of bitmaps of other sizes
        return False
    shapes = {letter: (glyph.size, bytes(glyph)) for letter, glyph in glyphs.items()}
    missing = shapes.pop(_NO_CHARACTER)
    return missing not in shapes.values()

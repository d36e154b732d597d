"""A TrueType font of letters that no other font has, for tests of drawn text.

Plane 16 of Unicode is for private use. Fonts are looked up once per letter, so each test takes letters of its own.
"""

import pathlib

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen


def write_font(path: pathlib.Path, letters: str) -> None:
    """Writes a font whose letters are squares; the sign for a missing letter is flat."""
    glyphs = [".notdef", *(f"letter{i}" for i in range(len(letters)))]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap({ord(letter): name for letter, name in zip(letters, glyphs[1:], strict=True)})
    builder.setupGlyf({name: _box(200 if name == ".notdef" else 700) for name in glyphs})
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, sTypoDescender=-200)
    builder.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    builder.save(path)


def _box(height: int):
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((100, height), (900, height), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    return pen.glyph()

"""Draws matplotlib figures as PNG files.

The figures use the Agg canvas directly, so they need no display and leave pyplot's global state unchanged.
"""

import io
import os
import warnings

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font
from matplotlib.text import Text

from ferjax import folders
from ferjax.runtime.show.fonts import fonts


def figure(width: float, height: float) -> Figure:
    """Returns an empty figure; sizes in inches."""
    empty = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(empty)
    return empty


def save(drawn: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure atomically. Its texts, such as class names, are drawn as they are: `$` is no mathematics."""
    texts = drawn.findobj(Text)
    words = {word for text in texts for word in text.get_text().split()}
    found = {str(get_font(file).family_name): file for file in fonts(sorted(words)).values()}
    for file in found.values():
        fontManager.addfont(file)
    for text in texts:
        text.set_parse_math(False)
        text.set_fontfamily([*matplotlib.rcParams["font.family"], *found])
    image = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # `fonts` names the texts
        drawn.savefig(image, format="png", bbox_inches="tight", pad_inches=0.1)
    with folders.atomic_file(path) as part:
        part.write_bytes(image.getvalue())

"""Draws contact sheets and the class distribution of a data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ferjax import folders
from ferjax.data import loading, manifest, subsets
from ferjax.data.store import FaceData
from ferjax.runtime.show.fonts import fonts

_TILE = 72  # pixels
_LINE = 14  # height of a line of a caption
_COLUMNS, _ROWS = 12, 8
COLORS = {"train": "#0072B2", "validation": "#D55E00", "test": "#009E73"}  # Okabe and Ito


class Tile(NamedTuple):
    """One image of a contact sheet, uint8 (H, W, C), and its caption, whose lines are cut at the width of the image."""

    image: np.ndarray
    caption: str = ""
    color: str = "#444444"


def write_sheets(name: str, out: str | Path, data_dir: str | Path | None = None) -> str:
    """Writes `<class>.png` for each class and `distribution.png`; returns a table of the counts.

    Args:
      name: name of a prepared data set.
      out: output folder; created if missing.
      data_dir: folder of prepared data; `default_data_dir()` if None.
    """
    facts = loading.load(name, data_dir, splits=()).manifest
    data = loading.load(name, data_dir, splits=tuple(facts["counts"]))
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    train = data.splits["train"]
    most = np.full(len(data.class_names), _COLUMNS * _ROWS)
    every = subsets.by_class(train.labels, most, subsets.drawn(0))
    files = file_names(data.class_names, taken=("distribution",))
    for label, class_name in enumerate(data.class_names):
        chosen = every[train.labels[every] == label]
        rows = [chosen[i : i + _COLUMNS] for i in range(0, len(chosen), _COLUMNS)]
        title = f"{name}, train: {class_name}, {len(chosen)} of {facts['counts']['train'][class_name]:,}"
        sheet = contact_sheet(title, [("", [Tile(train.images[i]) for i in row]) for row in rows])
        save(sheet, out / f"{files[label]}.png")
    plot_distribution(data, out / "distribution.png")
    return f"{manifest.table(facts)}\nwritten to {out}"


def save(sheet: Image.Image, path: Path) -> None:
    """Writes an image atomically."""
    with folders.atomic_file(path) as part:
        sheet.save(part)


def contact_sheet(title: str, rows: Sequence[tuple[str, Sequence[Tile]]]) -> Image.Image:
    """Draws a contact sheet on white (RGB): a title line and rows of images, each with a caption."""
    captions = {tile.caption for _, row in rows for tile in row}
    below = _LINE * max((len(caption.splitlines()) for caption in captions), default=0)
    above = 16 if any(text for text, _ in rows) else 0
    width = max([len(row) for _, row in rows], default=1) * (_TILE + 4) + 8
    sheet = Image.new("RGB", (max(width, 360), 24 + len(rows) * (_TILE + 4 + above + below)), "white")
    draw = ImageDraw.Draw(sheet)
    found = fonts(
        [title, *(text for text, _ in rows), *sorted(line for text in captions for line in text.splitlines())]
    )
    typefaces = {text: ImageFont.truetype(file, 10) for text, file in found.items()}

    def write(corner: tuple[int, int], text: str, fill: str) -> None:
        draw.text(corner, text, fill=fill, font=typefaces.get(text))

    write((6, 6), title, "black")
    for y, (text, row) in enumerate(rows):
        top = 24 + y * (_TILE + 4 + above + below)
        write((6, top + 2), text, "black")
        for x, (image, caption, color) in enumerate(row):
            picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
            corner = (6 + x * (_TILE + 4), top + above)
            sheet.paste(picture.resize((_TILE, _TILE), Image.Resampling.BICUBIC).convert("RGB"), corner)
            for i, line in enumerate(caption.splitlines()):
                strip = Image.new("RGB", (_TILE, _LINE), "white")
                ImageDraw.Draw(strip).text((0, 1), line, fill=color, font=typefaces.get(line))
                sheet.paste(strip, (corner[0], corner[1] + _TILE + i * _LINE))
    return sheet


def plot_distribution(data: FaceData, path: Path) -> None:
    """Draws a bar chart of the number of images per class and split."""
    from ferjax.data.prepare import figures  # preparing data does not require matplotlib

    figure = figures.figure(max(6, 1.1 * len(data.class_names)), 4)
    axes = figure.subplots()
    width = 0.8 / len(data.splits)
    for i, split in enumerate(data.splits):
        counts = data.class_counts(split)
        places = np.arange(len(counts)) + (i - (len(data.splits) - 1) / 2) * width
        bars = axes.bar(places, counts, width, label=f"{split} ({counts.sum():,})", color=COLORS[split])
        axes.bar_label(bars, fontsize=7, rotation=90 if counts.max() > 999 and len(data.splits) > 2 else 0, padding=2)
    axes.set_xticks(np.arange(len(data.class_names)), data.class_names)
    axes.set_ylabel("images")
    axes.set_title(f"{data.name}: images per class")
    axes.margins(y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figures.save(figure, path)


def file_names(class_names: Sequence[str], *, taken: Sequence[str] = ()) -> list[str]:
    """Returns a file name for each class; characters other than letters, digits, -, _ and space become _.

    If two names, or a name and one of `taken`, are equal ignoring case, every name gets its class index as prefix.
    """
    plain = ["".join(c if c.isalnum() or c in "-_ " else "_" for c in name) for name in class_names]
    known = {name.casefold() for name in (*plain, *taken)}
    return plain if len(known) == len(plain) + len(taken) else [f"{i}_{name}" for i, name in enumerate(plain)]

"""Writes a page of headings, text, tables and figures as Markdown and as one HTML file with embedded figures."""

import base64
import html
import pathlib
import urllib.parse
from collections.abc import Sequence
from typing import NamedTuple

from ferjax import folders

NOTICE = (
    "The labels are annotators' judgments of expressions, not of what a person feels. Inferring emotions of people in "
    "workplaces and schools is prohibited in the European Union (Regulation 2024/1689, Article 5)."
)
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
h1, h2, h3 { line-height: 1.2; margin-top: 2rem } img { max-width: 100%; height: auto }
figure { margin: 1rem 0 } figcaption { color: #555; font-size: 0.9rem }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.92rem; display: block; overflow-x: auto }
th, td { border: 1px solid #ccc; padding: 0.25rem 0.6rem; text-align: left } td.number { text-align: right }
figure.preview { display: inline-block; width: 20rem; max-width: 100%; margin: 0 1rem 1rem 0; vertical-align: top }
pre { background: #f4f4f4; padding: 0.8rem; overflow-x: auto } code { overflow-wrap: anywhere }
"""


class Heading(NamedTuple):
    """A heading; level 1 is the title of the page."""

    level: int
    text: str


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Code(NamedTuple):
    """A code block."""

    text: str


class Table(NamedTuple):
    """A table of text cells; all rows have the length of the header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


class Figure(NamedTuple):
    """A PNG file in the folder of the page."""

    path: pathlib.Path
    caption: str


class Preview(NamedTuple):
    """A small picture that links to a file beside the page.

    Attributes:
      jpeg: the content of a JPEG file.
      caption: text below it.
      link: path of the file relative to the page, with forward slashes.
    """

    jpeg: bytes
    caption: str
    link: str


class Link(NamedTuple):
    """A paragraph that links to a file beside the page; `link` as in `Preview`."""

    text: str
    link: str


Block = Heading | Text | Code | Table | Figure | Preview | Link


def markdown(blocks: Sequence[Block], folder: pathlib.Path) -> str:
    """Returns a page as Markdown; figures are linked relative to its folder."""
    return "\n\n".join(_markdown(block, folder) for block in blocks) + "\n"


def page_html(blocks: Sequence[Block]) -> str:
    """Renders a page as one HTML file: the figures are inside, nothing is loaded from elsewhere."""
    title = next((b.text for b in blocks if isinstance(b, Heading)), "ferjax")
    body = "\n".join(_html(block) for block in blocks)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def write(blocks: Sequence[Block], folder: pathlib.Path, name: str = "report") -> None:
    """Writes NAME.md and NAME.html into a folder, atomically."""
    for suffix, text in ((".md", markdown(blocks, folder)), (".html", page_html(blocks))):
        with folders.atomic_file(folder / f"{name}{suffix}") as part:
            part.write_text(text, encoding="utf-8", errors="replace")


def _markdown(block: Block, folder: pathlib.Path) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {text}"
        case Text(text):
            return text
        case Code(text):
            return f"```\n{text}\n```"
        case Table(header, rows):
            lines = [header, ["---"] * len(header), *rows]
            return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines)
        case Figure(path, caption):
            return f"![{caption}]({urllib.parse.quote(path.relative_to(folder).as_posix())})\n\n*{caption}*"
        case Preview(_, caption, link) | Link(caption, link):
            return f"[{caption}]({urllib.parse.quote(link)})"


def _html(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Text(text):
            return f"<p>{html.escape(text)}</p>"
        case Code(text):
            return f"<pre><code>{html.escape(text)}</code></pre>"
        case Table(header, rows):
            head = "".join(f"<th>{html.escape(c)}</th>" for c in header)
            lines = "\n".join("<tr>" + "".join(_cell(c) for c in row) + "</tr>" for row in rows)
            return f"<table><thead><tr>{head}</tr></thead><tbody>\n{lines}\n</tbody></table>"
        case Figure(path, caption):
            picture, text = _embedded(path.read_bytes(), "png"), html.escape(caption)
            return f'<figure><img src="{picture}" alt="{text}"><figcaption>{text}</figcaption></figure>'
        case Preview(jpeg, caption, link):
            text = html.escape(caption)
            image = _anchor(f'<img src="{_embedded(jpeg, "jpeg")}" alt="{text}">', link)
            return f'<figure class="preview">{image}<figcaption>{text}</figcaption></figure>'
        case Link(text, link):
            return f"<p>{_anchor(html.escape(text), link)}</p>"


def _embedded(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _anchor(content: str, link: str) -> str:
    return f'<a href="{urllib.parse.quote(link, errors="surrogateescape")}">{content}</a>'


def _cell(text: str) -> str:
    number = text[:1].isdigit() or (text[:1] in "+-–" and len(text) > 1)
    return f'<td class="number">{html.escape(text)}</td>' if number else f"<td>{html.escape(text)}</td>"

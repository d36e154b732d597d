import warnings

import pytest
from PIL import Image

from ferjax.data.prepare import figures
from tests.support.small_fonts import write_font

LETTER = "\U0010ab01"


def ink(path, text, **style):
    """Draws a text alone and returns the size of its box in pixels and its share of dark pixels."""
    figure = figures.figure(4, 3)
    figure.text(0.5, 0.5, text, fontsize=40, ha="center", va="center", **style)
    figures.save(figure, path)
    with Image.open(path) as image:
        dark = image.convert("L").point(lambda value: 255 if value < 128 else 0)
    left, top, right, bottom = dark.getbbox()
    return (right - left, bottom - top), dark.crop(dark.getbbox()).histogram()[255] / ((right - left) * (bottom - top))


@pytest.mark.parametrize("text", ["$x$", "$\\frac$", "a $ b $ c_d"])
def test_a_dollar_is_no_mathematics(tmp_path, text):
    (width, _), _ = ink(tmp_path / "a.png", text)
    (wider, _), _ = ink(tmp_path / "b.png", text.replace("$", "$$"))
    assert wider > 1.2 * width


def test_a_font_with_the_letters_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_font(tmp_path / ".local" / "share" / "fonts" / "Square letters.ttf", LETTER)
    (width, height), filled = ink(tmp_path / "a.png", LETTER)
    assert filled > 0.95 and 1 < width / height < 1.3
    assert capsys.readouterr().err == ""


def test_words_of_several_scripts_may_share_a_text(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    letters = ("\U0010ab03", "\U0010ab04")
    for letter in letters:
        write_font(tmp_path / ".local" / "share" / "fonts" / f"{ord(letter)}.ttf", letter)
    ink(tmp_path / "a.png", " ".join(letters))
    assert capsys.readouterr().err == ""


def test_letters_that_no_font_has_are_one_line_and_no_warning(tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ink(tmp_path / "a.png", "\U0010ab02")
        ink(tmp_path / "b.png", "\U0010ab02")
    assert len(capsys.readouterr().err.splitlines()) == 1

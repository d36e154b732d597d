import pytest

from ferjax.runtime.show.fonts import fonts
from tests.support.small_fonts import write_font

FIRST, SECOND = "\U0010aa01", "\U0010aa02"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's folder of fonts on Linux."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".local" / "share" / "fonts"


def test_each_text_gets_a_font_with_all_its_letters(folder, capsys):
    write_font(folder / "LettersBold.ttf", FIRST + SECOND)
    write_font(folder / "deep" / "Letters.otf", FIRST + SECOND)
    write_font(folder / "A.ttf", FIRST)
    (folder / "0.ttf").write_bytes(b"not a font")
    found = fonts(["plain", f"a {FIRST}{SECOND}", f"{SECOND}{SECOND}"])
    assert found == dict.fromkeys((f"a {FIRST}{SECOND}", SECOND * 2), str(folder / "deep" / "Letters.otf"))
    assert capsys.readouterr().err == ""


def test_letters_without_a_font_are_reported_once(folder, capsys):
    missing, other = "\U0010aa03", "\U0010aa04"
    write_font(folder / "Letters.ttf", other)
    for _ in range(2):
        assert list(fonts([f"{missing}!", missing, other, other + missing])) == [other]
    (line,) = capsys.readouterr().err.splitlines()
    assert missing in line and "font" in line

import numpy as np
import pytest
from PIL import Image

from ferjax.data import EXPRESSIONS
from ferjax.data.prepare import contact_sheets

SMALL = {"train": 14, "validation": 7, "test": 7, "size": 24}


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    from ferjax.data import loading

    monkeypatch.setattr(loading, "SYNTHETIC", loading.SYNTHETIC | SMALL)


def test_sheets_plot_and_counts_are_written(tmp_path):
    text = contact_sheets.write_sheets("synthetic_faces", tmp_path / "out", tmp_path)
    assert sorted(p.stem for p in (tmp_path / "out").iterdir()) == sorted([*EXPRESSIONS, "distribution"])
    for path in (tmp_path / "out").iterdir():
        with Image.open(path) as picture:
            assert picture.convert("L").getextrema()[0] < 60
    assert "angry" in text and text.splitlines()[8].split() == ["all", "14", "7", "7"]


def test_file_names_are_unique():
    for names in (("a/b", "a,b", "0_a_b"), ("Angry", "angry"), ("distribution", "0_distribution")):
        files = contact_sheets.file_names(names, taken=("distribution",))
        assert len({"distribution", *(file.casefold() for file in files)}) == len(names) + 1
        assert files[0] == f"0_{names[0].replace('/', '_')}"
    assert contact_sheets.file_names(EXPRESSIONS, taken=("distribution",)) == list(EXPRESSIONS)


def test_images_are_in_their_cells():
    tiles = [contact_sheets.Tile(np.full((24, 24, 1), v, np.uint8)) for v in (0, 90)]
    sheet = np.asarray(contact_sheets.contact_sheet("title", [("", tiles)]))
    assert (sheet[24 + 36, 6 + 36] == 0).all() and (sheet[24 + 36, 6 + 76 + 36] == 90).all()


def test_a_caption_is_cut_at_the_next_image():
    tiles = [contact_sheets.Tile(np.zeros((24, 24, 1), np.uint8), caption) for caption in ("x\n" + "W" * 60, "", "")]
    sheet = np.asarray(contact_sheets.contact_sheet("title", [("", tiles)]))
    below = sheet[24 + 72 :]
    assert below[:14, 6:78].min() < 200 and below[14:, 6:78].min() < 200 and (below[:, 78:] == 255).all()


def test_captions_add_space_and_color_is_kept():
    tile = contact_sheets.Tile(np.full((24, 24, 3), (10, 200, 30), np.uint8), "happy", "#D55E00")
    plain = contact_sheets.contact_sheet("title", [("", [tile._replace(caption="")])])
    captioned = contact_sheets.contact_sheet("title", [("row", [tile])])
    assert captioned.height > plain.height
    assert (10, 200, 30) in {c for _, c in captioned.getcolors(1 << 20)}

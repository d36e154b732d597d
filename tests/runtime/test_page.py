"""Pages of HTML and Markdown."""

from ferjax.runtime.show import page
from tests.support.html_reader import Reader


def test_a_page_is_escaped_and_well_formed(tmp_path):
    blocks = [
        page.Heading(1, "a < b"),
        page.Text("x & y"),
        page.Table(["h|1", "n"], [["<b>", "-1.5"]]),
        page.Code("c<d"),
        page.Figure(tmp_path / "my run (1).png", "seen"),
    ]
    (tmp_path / "my run (1).png").write_bytes(b"x")
    page.write(blocks, tmp_path)
    reader = Reader((tmp_path / "report.html").read_text())
    assert "a < b" in reader.words and "<b>" in reader.words and "c<d" in reader.words
    text = (tmp_path / "report.md").read_text()
    assert "# a < b" in text and "| h\\|1 | n |\n| --- | --- |\n| <b> | -1.5 |" in text and "```\nc<d\n```" in text
    assert "![seen](my%20run%20%281%29.png)" in text


def test_links_lead_beside_the_page_and_previews_are_inside(tmp_path):
    blocks = [
        page.Heading(1, "t"),
        page.Preview(b"jpeg", "a & b", "copies/ä #1?.png"),
        page.Link("the <film>", "c.mp4"),
    ]
    page.write(blocks, tmp_path)
    reader = Reader((tmp_path / "report.html").read_text())
    assert reader.links == ["copies/%C3%A4%20%231%3F.png", "c.mp4"] and "a & b" in reader.words
    assert reader.sources == ["data:image/jpeg;base64,anBlZw=="] and "the <film>" in reader.words
    assert "[a & b](copies/%C3%A4%20%231%3F.png)" in (tmp_path / "report.md").read_text()

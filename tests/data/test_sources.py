import os

import pytest

from ferjax.data.datasets.sources import BadExample, Tree, bad_example
from ferjax.errors import InputError
from tests.support.data_layouts import write, write_zip

FILES = {
    "top/a/1.jpg": b"one",
    "top/b/2.jpg": b"two",
    "__MACOSX/top/a/1.jpg": b"x",
    "top/.DS_Store": b"x",
    "top/a/._1.jpg": b"x",
}


@pytest.fixture(params=["folder", "zip"])
def tree(request, tmp_path):
    if request.param == "zip":
        return Tree(write_zip(tmp_path / "files.zip", FILES))
    return Tree(write(tmp_path / "files", FILES))


def test_a_folder_and_its_zip_read_alike_without_hidden_files(tree):
    assert tree.files == ["top/a/1.jpg", "top/b/2.jpg"]
    assert tree.folders == ["top", "top/a", "top/b"]
    assert tree.read("top/b/2.jpg") == b"two" and tree.reader("top/a/1.jpg")() == b"one"
    assert tree.find("nothing", "2.JPG") == "top/b/2.jpg" and tree.find("nothing") is None


def test_linked_folders_are_read_and_a_circle_ends(tmp_path):
    write(tmp_path / "elsewhere", {"a.jpg": b"x"})
    (tmp_path / "source" / "deep").mkdir(parents=True)
    os.symlink(tmp_path / "elsewhere", tmp_path / "source" / "linked")
    os.symlink(tmp_path / "source", tmp_path / "source" / "deep" / "up")
    assert Tree(tmp_path / "source").files == ["linked/a.jpg"]


@pytest.mark.parametrize("content", [b"", b"no zip at all", None], ids=["empty", "text", "cut"])
def test_what_is_no_complete_zip_is_one_line(tmp_path, content):
    path = write_zip(tmp_path / "files.zip", FILES)
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.raises(InputError, match=r"files\.zip is no complete zip archive"):
        Tree(path)


def test_a_missing_source_is_one_line(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        Tree(tmp_path / "nowhere")


def rows(tmp_path, text, needed=("a", "b")):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode("utf-8-sig"))
    return list(Tree(path).rows("table.csv", needed))


def test_rows_forgive_spaces_case_and_a_byte_order_mark(tmp_path):
    (row,) = rows(tmp_path, " A , b\n 1 ,2\n")
    assert row.values == {"a": "1", "b": "2"} and row.where == "table.csv row 1 (line 2)"


def test_rows_know_their_line_where_a_value_has_line_breaks(tmp_path):
    _, second = rows(tmp_path, 'a,b\n"x\ny",2\n3,4\n')
    assert second.where == "table.csv row 2 (line 4)"


def test_a_short_row_has_empty_values(tmp_path):
    assert rows(tmp_path, "a,b\n1\n")[0].values == {"a": "1", "b": ""}


def test_a_missing_column_is_named_with_those_there_are(tmp_path):
    with pytest.raises(InputError, match="lacks the column b; it has a, c"):
        rows(tmp_path, "a,c\n1,2\n")
    with pytest.raises(InputError, match="lacks the column a, b; it has none"):
        rows(tmp_path, "")


def test_what_is_no_utf8_is_one_line(tmp_path):
    (tmp_path / "t.csv").write_bytes("path,label\na.png,überrascht\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"t\.csv is no UTF-8 text .*save it as UTF-8"):
        list(Tree(tmp_path).rows("t.csv", ("path", "label")))


def test_what_is_no_csv_is_one_line_with_its_place(tmp_path):
    with pytest.raises(InputError, match=r"table\.csv is damaged at line 2"):
        rows(tmp_path, "a,b\n1," + "9" * 200_000)


def test_a_table_that_is_damaged_in_its_archive_is_one_line(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"table.csv": "a,b\n" + "".join(f"{i * i},{i**3}\n" for i in range(9000))})
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"table\.csv is damaged at line \d+"):
        list(Tree(path).rows("table.csv", ("a", "b")))


def test_a_bad_example_fails_when_it_is_read():
    with pytest.raises(BadExample, match="because"):
        bad_example("name", "because").read()

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


def test_folder_and_zip_are_equal_without_hidden_files(tree):
    assert tree.files == ["top/a/1.jpg", "top/b/2.jpg"]
    assert tree.folders == ["top", "top/a", "top/b"]
    assert tree.read("top/b/2.jpg") == b"two" and tree.reader("top/a/1.jpg")() == b"one"
    assert tree.find("nothing", "2.JPG") == "top/b/2.jpg" and tree.find("nothing") is None


def test_linked_folders_are_read_once(tmp_path):
    write(tmp_path / "elsewhere", {"a.jpg": b"x"})
    (tmp_path / "source" / "deep").mkdir(parents=True)
    os.symlink(tmp_path / "elsewhere", tmp_path / "source" / "linked")
    os.symlink(tmp_path / "source", tmp_path / "source" / "deep" / "up")
    assert Tree(tmp_path / "source").files == ["linked/a.jpg"]


@pytest.mark.parametrize("content", [b"", b"no zip at all", None], ids=["empty", "text", "cut"])
def test_an_incomplete_zip_is_refused(tmp_path, content):
    path = write_zip(tmp_path / "files.zip", FILES)
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.raises(InputError, match=r"files\.zip is not a complete zip archive"):
        Tree(path)


def test_a_missing_source_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        Tree(tmp_path / "nowhere")


def rows(tmp_path, text, needed=("a", "b")):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode("utf-8-sig"))
    return list(Tree(path).rows("table.csv", needed))


def test_rows_ignore_spaces_case_and_byte_order_mark(tmp_path):
    (row,) = rows(tmp_path, " A , b\n 1 ,2\n")
    assert row.values == {"a": "1", "b": "2"} and row.where == "table.csv row 1 (line 2)"


def test_row_locations_account_for_line_breaks_in_values(tmp_path):
    _, second = rows(tmp_path, 'a,b\n"x\ny",2\n3,4\n')
    assert second.where == "table.csv row 2 (line 4)"


def test_a_short_row_has_empty_values(tmp_path):
    assert rows(tmp_path, "a,b\n1\n")[0].values == {"a": "1", "b": ""}


def test_a_missing_column_is_named_with_the_existing_columns(tmp_path):
    with pytest.raises(InputError, match="no column b; found a, c"):
        rows(tmp_path, "a,c\n1,2\n")
    with pytest.raises(InputError, match="no column a, b; found none"):
        rows(tmp_path, "")


def test_a_table_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes("path,label\na.png,überrascht\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"t\.csv is not UTF-8"):
        list(Tree(tmp_path).rows("t.csv", ("path", "label")))


def test_an_invalid_csv_is_refused_with_the_line(tmp_path):
    with pytest.raises(InputError, match=r"table\.csv is damaged at line 2"):
        rows(tmp_path, "a,b\n1," + "9" * 200_000)


def test_a_damaged_table_in_an_archive_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"table.csv": "a,b\n" + "".join(f"{i * i},{i**3}\n" for i in range(9000))})
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"table\.csv is damaged at line \d+"):
        list(Tree(path).rows("table.csv", ("a", "b")))


def test_a_bad_example_raises_when_read():
    with pytest.raises(BadExample, match="because"):
        bad_example("name", "because").read()

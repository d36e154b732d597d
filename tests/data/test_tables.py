import pytest

from ferjax.data.datasets import tables
from ferjax.data.datasets.tree import Tree
from ferjax.errors import InputError
from tests.support.data_layouts import write, write_zip


def rows(tmp_path, text, needed=("a", "b")):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode("utf-8-sig"))
    return list(tables.rows(Tree(path), "table.csv", needed))


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
        list(tables.rows(Tree(tmp_path), "t.csv", ("path", "label")))


def test_an_invalid_csv_is_refused_with_the_line(tmp_path):
    with pytest.raises(InputError, match=r"table\.csv is damaged at line 2"):
        rows(tmp_path, "a,b\n1," + "9" * 200_000)


def test_a_damaged_table_in_an_archive_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"table.csv": "a,b\n" + "".join(f"{i * i},{i**3}\n" for i in range(9000))})
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"table\.csv is damaged at line \d+"):
        list(tables.rows(Tree(path), "table.csv", ("a", "b")))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_of_spreadsheets_are_read(tmp_path, encoding, delimiter):
    text = f"A{delimiter}b\r\n1, 2;3{delimiter}é\r\n" if delimiter == "\t" else f"A{delimiter}b\r\n1{delimiter}é\r\n"
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    path = tmp_path / "table.csv"
    path.write_bytes(mark + text.encode(encoding))
    (row,) = tables.rows(Tree(path), "table.csv", ("a", "b"))
    assert row.values == {"a": "1, 2;3" if delimiter == "\t" else "1", "b": "é"}


def test_a_table_without_header_is_read_only_if_its_form_is_known(tmp_path):
    write(tmp_path, {"t.csv": "x.jpg,3\ny.jpg,4\n", "wide.csv": "x.jpg,3,4\n", "other.csv": "a,c\n1,2\n"})
    forms = (("a", "b"),)
    found = list(tables.rows(Tree(tmp_path), "t.csv", ("a", "b"), without_header=forms))
    assert [row.values for row in found] == [{"a": "x.jpg", "b": "3"}, {"a": "y.jpg", "b": "4"}]
    assert found[0].where == "t.csv row 1 (line 1)"
    for name in ("wide.csv", "other.csv"):  # another number of columns; a header with another column
        with pytest.raises(InputError, match="no column"):
            list(tables.rows(Tree(tmp_path), name, ("a", "b"), without_header=forms))


@pytest.fixture(params=["folder", "zip"])
def pictures(request, tmp_path):
    files = {"set/labels.csv": "x", "set/img/Cat/a.JPG": "1", "set/img/dog/b.jpg": "2", "set/img/dog/B.jpg": "3"}
    if request.param == "zip":
        return Tree(write_zip(tmp_path / "a.zip", files))
    return Tree(write(tmp_path / "a", files))


@pytest.mark.parametrize(
    "listed, found, lead",
    [
        (["img/Cat/a.JPG", "img/dog/c.jpg"], ["set/img/Cat/a.JPG", None], ""),
        (["img\\cat\\A.jpg", "img\\dog\\b.jpg"], ["set/img/Cat/a.JPG", "set/img/dog/b.jpg"], ""),
        (["img\\dog\\B.JPG"], [None], ""),  # two files fit
        (["img/cat/a.jpg"], [None], ""),  # not written on Windows
        (["C:\\my data\\img\\Cat\\a.JPG", "C:\\my data\\img\\dog\\x.jpg"], ["set/img/Cat/a.JPG", None], "C:/my data"),
        (["/home/me/img/Cat/a.JPG", "/home/me/img/dog/b.jpg"], ["set/img/Cat/a.JPG", "set/img/dog/b.jpg"], "/home/me"),
        (["/x/img/Cat/a.JPG", "/y/img/dog/b.jpg"], [None, None], ""),  # no folder that both share
        (["./img/Cat/../dog/b.jpg"], ["set/img/dog/b.jpg"], ""),
        ([], [], ""),
    ],
)
def test_listed_files_are_found_wherever_the_table_was_written(pictures, listed, found, lead):
    assert tables.locate(pictures, "set/labels.csv", listed) == (found, lead)

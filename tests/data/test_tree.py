import os

import pytest

from ferjax.data.datasets.tree import Tree, holding
from ferjax.errors import InputError
from tests.support.data_layouts import write, write_tar, write_zip

FILES = {
    "top/a/1.jpg": b"one",
    "top/b/2.jpg": b"two",
    "__MACOSX/top/a/1.jpg": b"x",
    "top/.DS_Store": b"x",
    "top/a/._1.jpg": b"x",
}


@pytest.fixture(params=["folder", "zip", "tar"])
def tree(request, tmp_path):
    if request.param == "folder":
        return Tree(write(tmp_path / "files", FILES))
    return Tree((write_zip if request.param == "zip" else write_tar)(tmp_path / "files", FILES))


def test_folder_and_archives_are_equal_without_hidden_files(tree):
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


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "is empty"),
        (bytes(range(256)), "is neither a zip or tar archive nor a table"),
        (b"\n<!DOCTYPE html><html>", "is a web page, not an archive: log in"),
    ],
    ids=["empty", "bytes", "page"],
)
def test_a_file_that_is_no_archive_is_named_as_what_it_is(tmp_path, content, said):
    (tmp_path / "files.zip").write_bytes(content)
    with pytest.raises(InputError, match=rf"files\.zip {said}"):
        Tree(tmp_path / "files.zip")


def test_a_missing_source_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        Tree(tmp_path / "nowhere")


def has_a(tree):
    return tree.find("a.csv") is not None


@pytest.mark.parametrize("form", ["zip in zip", "tar in zip", "zip in tar", "zip in folder"])
def test_an_archive_inside_is_opened_if_it_has_what_is_missing_outside(tmp_path, form):
    inner = write_tar if form.startswith("tar") else write_zip
    inner(tmp_path / "inner.ZIP", {"deep/a.csv": "x"})
    files = {"sample.csv": "y", "more/inner.ZIP": (tmp_path / "inner.ZIP").read_bytes()}
    outer = {"zip": write_zip, "tar": write_tar, "folder": write}[form.split(" ")[2]]
    source = outer(tmp_path / "outer", files)
    tree = holding(source, has_a)
    assert tree.files == ["deep/a.csv"] and tree.read("deep/a.csv") == b"x"
    assert str(tree.source).endswith("outer/more/inner.ZIP")
    assert holding(source, lambda tree: tree.find("sample.csv")).files == ["more/inner.ZIP", "sample.csv"]
    assert holding(source, lambda tree: tree.find("nothing")).source == source


def test_several_archives_inside_are_refused_and_damaged_ones_matter_only_without_another(tmp_path):
    data = write_zip(tmp_path / "inner.zip", {"a.csv": "x" * 100}).read_bytes()
    with pytest.raises(InputError, match="several archives"):
        holding(write(tmp_path / "two", {"1.zip": data, "2.zip": data}), has_a)
    cut = {"0.zip": data[:-30]}
    assert has_a(holding(write(tmp_path / "one", cut | {"2.zip": data}), has_a))
    with pytest.raises(InputError, match=r"0\.zip is cut off"):
        holding(write(tmp_path / "none", cut), has_a)

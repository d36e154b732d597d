import io
import struct
import tarfile
import zipfile
import zlib

import pytest

from ferjax.data.datasets import archives
from ferjax.data.datasets.archives import open_archive
from ferjax.errors import InputError
from tests.support.data_layouts import write_foreign_zip, write_tar, write_zip

FILES = {"one/a.jpg": b"first" * 1000, "two/b.jpg": bytes(range(256)) * 40}
FORMS = {
    "zip": write_zip,
    "tar": lambda path, files: write_tar(path, files, "w:"),
    "gz": lambda path, files: write_tar(path, files, "w:gz"),
    "bz2": lambda path, files: write_tar(path, files, "w:bz2"),
    "xz": lambda path, files: write_tar(path, files, "w:xz"),
}


@pytest.fixture(params=FORMS)
def data(request, tmp_path):
    """The bytes of an archive of FILES in each form."""
    return FORMS[request.param](tmp_path / "made", FILES).read_bytes()


def opened(data, **options):
    return open_archive(io.BytesIO(data), "set.zip", **options)


@pytest.mark.parametrize("in_memory", [0, 2**20])
def test_every_form_is_read_whatever_its_name(data, in_memory, monkeypatch):
    monkeypatch.setattr(archives, "_IN_MEMORY", in_memory)  # 0: a temporary file
    archive = opened(data)
    assert sorted(archive.paths) == sorted(FILES)
    for path, content in FILES.items():
        assert archive.read(path) == content
        with archive.open(path) as file:
            assert file.read(3) == content[:3]


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_an_archive_that_is_cut_off_is_to_be_downloaded_again(data, share):
    with pytest.raises(InputError, match=r"set\.zip is cut off: download it again"):
        opened(data[: int(len(data) * share)])


def test_a_damaged_archive_is_not_said_to_be_cut_off(tmp_path):
    data = bytearray(write_tar(tmp_path / "a", FILES).read_bytes())
    data[200:220] = bytes(20)
    with pytest.raises(InputError, match=r"set\.zip is damaged .*use another copy"):
        opened(bytes(data))
    data = bytearray(write_tar(tmp_path / "b", FILES, "w:").read_bytes())
    data[data.rfind(b"two/b.jpg")] = 0  # the checksum of the second header is wrong: tarfile stops there silently
    with pytest.raises(InputError, match=r"set\.zip is damaged"):
        opened(bytes(data))


@pytest.mark.parametrize(
    "start, kind", [(b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!\x1a\x07\x01", "rar"), (b"\x28\xb5\x2f\xfd", "zstd")]
)
def test_other_archives_are_named(start, kind):
    with pytest.raises(InputError, match=f"is a {kind} archive, which cannot be read: unpack it"):
        opened(start + bytes(600))


def test_other_files_are_no_archives():
    assert opened(b"path,label\n") is None and opened(b"") is None
    with pytest.raises(InputError, match="contains no tar archive: unpack it"):
        opened(b"\x1f\x8b" + __import__("gzip").compress(b"a,b\n")[2:])


def test_backslashes_separate_folders(tmp_path):
    assert opened(write_zip(tmp_path / "a", {"faces\\cat\\1.jpg": b"x"}).read_bytes()).paths == ["faces/cat/1.jpg"]


def test_links_devices_and_paths_outside_are_left_out(tmp_path, capsys):
    outside = {"../x.jpg": b"x", "/abs/x.jpg": b"x", "..\\y.jpg": b"x", "a/../../z.jpg": b"x"}
    write_zip(tmp_path / "a.zip", FILES | outside)
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        link = zipfile.ZipInfo("one/link.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "a.jpg")
    write_tar(tmp_path / "a.tar", FILES | outside, "w:")
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
            entry = tarfile.TarInfo(f"one/{kind!r}.jpg")
            entry.type, entry.linkname = kind, "one/a.jpg"
            archive.addfile(entry)
    for name, left in (("a.zip", 5), ("a.tar", 7)):
        assert sorted(opened((tmp_path / name).read_bytes()).paths) == sorted(FILES)
        assert f"entries left out: {left} (links, devices or paths outside" in capsys.readouterr().err


def test_names_in_a_code_page_are_decoded_in_zip_and_tar(tmp_path, capsys):
    files = {"喜び/表.jpg": b"x", "悲しみ/1.jpg": b"y"}  # the second byte of 表 is a backslash
    made = {
        "zip": write_foreign_zip(tmp_path / "a", files, "cp932"),
        "tar": write_tar(tmp_path / "b", files, "w:", "cp932"),
    }
    for path in made.values():
        archive = opened(path.read_bytes())
        assert archive.paths == list(files) and archive.read("喜び/表.jpg") == b"x"
        assert "set.zip: names decoded as cp932 (喜び, 悲しみ" in capsys.readouterr().err
        assert opened(path.read_bytes(), name_encoding="cp932").paths == list(files)
        assert capsys.readouterr().err == ""


def test_names_that_are_wrongly_marked_as_utf8_are_said(tmp_path):
    data = write_zip(tmp_path / "a", {"jo\u00e9/1.jpg": b"x"}).read_bytes()
    with pytest.raises(InputError, match=r"set\.zip has names that are marked as UTF-8, but are not: unpack it"):
        opened(data.replace("jo\u00e9".encode(), b"jo\xe9e"))


def test_a_full_disk_names_the_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives.shutil, "copyfileobj", full)
    with pytest.raises(InputError, match=r"no space left in .*TMPDIR"):
        opened(write_tar(tmp_path / "a", FILES).read_bytes())


def test_an_impossible_offset_is_a_damage(tmp_path):
    data = bytearray(write_zip(tmp_path / "a", FILES).read_bytes())
    place = data.rfind(b"PK\x01\x02") + 42  # the offset of the last file
    data[place : place + 4] = b"\xff\xff\xff\xff"
    with pytest.raises((InputError, *archives.DAMAGE)):
        opened(bytes(data)).read("two/b.jpg")


@pytest.mark.parametrize("checksum", [0, 1])
def test_the_unicode_name_beside_a_name_in_question_marks_counts(tmp_path, checksum):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for stored, name in (("??/a.jpg", "\u5feb\u4e50"), ("?/a.jpg", "\u60b2\u4f24")):
            entry = zipfile.ZipInfo(stored)
            field = struct.pack("<BL", 1, zlib.crc32(stored.encode()) ^ checksum) + f"{name}/a.jpg".encode()
            entry.extra = struct.pack("<HH", 0x7075, len(field)) + field
            archive.writestr(entry, name.encode())
    archive = opened(path.read_bytes())
    if checksum:  # the field belongs to another name
        assert archive.paths == ["??/a.jpg", "?/a.jpg"]
    else:
        found = {path: archive.read(path).decode() for path in archive.paths}
        assert found == {"\u5feb\u4e50/a.jpg": "\u5feb\u4e50", "\u60b2\u4f24/a.jpg": "\u60b2\u4f24"}


@pytest.mark.parametrize("name", ["set.zip.001", "set.z01", "set.zip", "set.tar.gz.001"])
def test_a_part_of_a_split_archive_is_named(tmp_path, name):
    made = write_tar if "tar" in name else write_zip
    data = bytearray(made(tmp_path / "made", FILES).read_bytes())
    if name == "set.zip":  # the last part: it counts the parts before it
        data[data.rindex(b"PK\5\6") + 4] = 2
    else:
        data = data[: len(data) // 2]
    with pytest.raises(InputError, match="part of a split archive: unpack all parts"):
        open_archive(io.BytesIO(bytes(data)), name)

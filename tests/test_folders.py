import ast
import errno
import os
import pathlib
import time

import pytest

from ferjax import errors, folders
from tests.support import ROOT


def test_a_replaced_file_keeps_its_mode_and_link(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "real.txt").chmod(0o640)
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    with folders.atomic_file(tmp_path / "link.txt") as part:
        part.write_text("new")
        assert (tmp_path / "real.txt").read_text() == "old"
    assert (tmp_path / "real.txt").read_text() == "new" and (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.txt", "real.txt"]


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "{}: No space left on device"),
        (OSError(errno.EACCES, "Permission denied", "elsewhere"), "elsewhere: Permission denied"),
        (OSError("cannot write mode F as PNG"), "cannot write mode F as PNG"),
    ],
)
def test_a_failed_write_names_the_file_and_keeps_the_old_one(tmp_path, raised, said):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError) as caught, folders.atomic_file(path) as part:
        part.write_text("ne")
        raise raised
    assert errors.explain(caught.value) == said.format(path) and path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    with pytest.raises(OSError) as caught, folders.atomic_file(tmp_path / "no" / "a.txt") as part:
        part.write_text("new")
    assert errors.explain(caught.value) == f"{tmp_path / 'no' / 'a.txt'}: No such file or directory"


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9.mp4"), "\udcc3\udca9.mp4"])
def test_a_path_for_native_code_is_utf8(name):
    assert folders.native(pathlib.Path("é → b.mp4")) == "é → b.mp4"
    with pytest.raises(errors.InputError, match=r"\.mp4 is not UTF-8: rename it, or set LC_ALL=C\.UTF-8"):
        folders.native(pathlib.Path(name))


def test_the_cache_is_in_the_home_folder_or_where_a_variable_says(monkeypatch):
    for name in ("OURS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert folders.cache("OURS", "models") == pathlib.Path("/home/someone/.cache/ferjax/models")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert folders.cache("OURS") == pathlib.Path("/cache/ferjax")
    monkeypatch.setenv("OURS", "~/ours")
    assert folders.cache("OURS", "models") == pathlib.Path("/home/someone/ours")


@pytest.mark.parametrize("given", ["", "~/ours"])
def test_without_a_home_folder_the_variable_of_the_cache_is_named(given, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)  # a user without an entry in the passwd file
    monkeypatch.setenv("OURS", given)
    with pytest.raises(errors.InputError, match=r"home folder .* set OURS to an absolute path"):
        folders.cache("OURS")


def test_a_folder_for_results_is_checked_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    folders.check_out(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(errors.InputError, match=r"must be a folder, but .*file is a file"):
            folders.check_out(out)
    if os.getuid():  # root may write anywhere
        tmp_path.chmod(0o500)
        with pytest.raises(errors.InputError, match="is not writable"):
            folders.check_out(tmp_path / "new")
        tmp_path.chmod(0o700)


def test_a_mount_point_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: pathlib.Path(path) == tmp_path / "volume")
    with pytest.raises(errors.InputError, match=r"mount point.*volume/out"):
        folders.atomic_folder(tmp_path / "volume").__enter__()
    with folders.atomic_folder(tmp_path / "volume" / "out"):
        pass
    assert os.listdir(tmp_path / "volume") == ["out"]


def test_an_error_in_a_folder_names_its_final_path(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, folders.atomic_folder(tmp_path / "out") as part:
        (part / "none" / "a.txt").write_text("a")
    assert errors.explain(caught.value) == f"{tmp_path / 'out' / 'none' / 'a.txt'}: No such file or directory"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", [None, "/elsewhere/a.npy"])
def test_a_full_disk_names_the_final_folder(tmp_path, path):
    with pytest.raises(OSError) as caught, folders.temporary_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device", path)
    assert errors.explain(caught.value) == f"{path or tmp_path / 'out'}: No space left on device"


def test_a_temporary_folder_that_cannot_be_made_names_the_final_one(tmp_path):
    with pytest.raises(OSError) as caught, folders.temporary_folder(tmp_path / "none" / "out"):
        pass
    assert errors.explain(caught.value) == f"{tmp_path / 'none' / 'out'}: No such file or directory"


def test_abandoned_folders_are_removed_after_a_day(tmp_path):
    days = {".out.new-abcdefgh": 2, ".out.new-ijklmnop": 0, ".out.new-abcdefgh.old": 2, ".out.settings": 2}
    for name, age in days.items():
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - 86400 * age,) * 2)
    with folders.atomic_folder(tmp_path / "out"):
        pass
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted({*days, "out"} - {".out.new-abcdefgh"})


@pytest.mark.parametrize("replace", [False, True])
def test_concurrent_writers_of_one_folder_leave_one_complete_folder(tmp_path, replace):
    out = tmp_path / "out"
    if replace:
        out.mkdir()
        (out / "old").touch()
    rename = pathlib.Path.rename

    def other(path, target):  # between the removal of the old folder and the rename of the new one
        rename(path, target)
        out.mkdir()
        (out / "theirs").touch()

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(errors.InputError, match=r"another process wrote .* in the meantime"),
    ):
        patch.setattr(pathlib.Path, "rename", other)
        with folders.atomic_folder(out, replace=replace) as part:
            (part / "ours").touch()
            if not replace:
                out.mkdir()
                (out / "theirs").touch()
    assert [path.name for path in out.iterdir()] == ["theirs"] and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_replacement_keeps_the_old_folder(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()

    def denied(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError), folders.atomic_folder(out) as part:
        (part / "new").touch()
        monkeypatch.setattr(os, "replace", denied)
    assert [p.name for p in out.iterdir()] == ["old"] and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_every_text_file_has_an_encoding():
    """The default encoding depends on the machine: in ASCII, `±` cannot be written."""
    without = []
    for path in sorted((ROOT / "ferjax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
                continue
            method, function = getattr(node.func, "attr", ""), getattr(node.func, "id", "")
            mode = next((a.value for a in node.args[1:] if isinstance(a, ast.Constant)), "r")
            if method in ("read_text", "write_text") or (function == "open" and "b" not in mode):
                without.append(f"{path.name}:{node.lineno}")
    assert not without

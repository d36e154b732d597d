import json
import subprocess
import sys

import pytest

from ferjax.data import commands, load
from ferjax.errors import InputError
from tests.support.data_layouts import affectnet_files, album, fer2013_files, write, write_zip


def test_prepare_prints_the_counts(tmp_path, capsys):
    archive = write_zip(tmp_path / "a.zip", fer2013_files())
    commands.prepare(["fer2013", "--source", str(archive), "--data-dir", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["class", "train", "validation", "test", "weight"]
    assert lines[1].split() == ["angry", "1", "1", "1", "1.000"] and lines[8].split() == ["all", "7", "7", "7"]
    assert lines[9] == "exact duplicates: 0 groups, 0 across splits, 0 with conflicting labels"
    assert lines[10] == f"prepared fer2013 in {tmp_path}"


def test_prepare_folder(tmp_path):
    source = str(write(tmp_path / "album", album(10)))
    options = ["--name", "pets", "--size", "40", "--channels", "3", "--fractions", "0.5,0.3,0.2"]
    commands.prepare(["folder", "--source", source, *options, "--data-dir", str(tmp_path)])
    data = load("pets", tmp_path, ("train", "validation", "test"))
    assert data.image_shape == (40, 40, 3)
    assert {s: len(d.labels) for s, d in data.splits.items()} == {"train": 10, "validation": 6, "test": 4}


def test_prepare_csv(tmp_path):
    write(tmp_path / "album", album(10))
    rows = "".join(f"{p},{p.split('/')[0]}\n" for p in album(10))
    (tmp_path / "album" / "labels.csv").write_text(f"path,label\n{rows}")
    source = str(tmp_path / "album" / "labels.csv")
    commands.prepare(["csv", "--source", source, "--name", "pets", "--data-dir", str(tmp_path)])
    assert load("pets", tmp_path).class_names == ("cat", "dog")


def test_affectnet_with_seven_classes(tmp_path):
    source = str(write(tmp_path / "a", affectnet_files()[0]))
    commands.prepare(["affectnet", "--source", source, "--classes", "7", "--size", "24", "--data-dir", str(tmp_path)])
    assert len(load("affectnet", tmp_path).class_names) == 7


def test_synthetic_faces_and_the_reports_on_them(tmp_path, capsys, monkeypatch):
    from ferjax.data import loading

    small = ["--train", "14", "--validation", "7", "--test", "7", "--size", "24"]
    commands.prepare(["synthetic_faces", *small, "--data-dir", str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[8].split() == ["all", "14", "7", "7"]
    monkeypatch.setattr(loading, "SYNTHETIC", loading.SYNTHETIC | {"train": 14, "validation": 7, "test": 7, "size": 24})
    commands.leaks(["synthetic_faces", "--out", str(tmp_path / "leaks"), "--data-dir", str(tmp_path)])
    commands.show(["synthetic_faces", "--out", str(tmp_path / "show"), "--data-dir", str(tmp_path)])
    assert json.loads((tmp_path / "leaks" / "leaks.json").read_text())["exact"]["groups"] == 0
    assert (tmp_path / "show" / "distribution.png").exists()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["prepare", "fer2031", "--source", "x"], "invalid choice"),
        (["prepare", "fer2013"], "--source"),
        (["prepare", "folder", "--source", "x"], "--name"),
        (["prepare", "folder", "--source", "x", "--name", "a", "--fractions", "1,2"], "must sum to 1"),
        (["prepare", "folder", "--source", "x", "--name", "a", "--fractions", "a,b,c"], "could not convert"),
        (["show", "fer2013"], "--out"),
    ],
)
def test_invalid_arguments_exit_with_2(arguments, said, capsys):
    with pytest.raises(SystemExit) as caught:
        getattr(commands, arguments[0])(arguments[1:])
    assert caught.value.code == 2 and said in capsys.readouterr().err


def test_missing_data_are_an_input_error(tmp_path):
    for command in (commands.show, commands.leaks):
        with pytest.raises(InputError, match="not prepared"):
            command(["rafdb", "--out", str(tmp_path / "out"), "--data-dir", str(tmp_path)])
    assert not (tmp_path / "out").exists()


def test_an_error_is_one_line_and_exit_code_2(tmp_path):
    command = [sys.executable, "-m", "ferjax", "prepare", "fer2013", "--source", str(tmp_path / "nowhere.zip")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"ferjax: error: {tmp_path}/nowhere.zip: no such file or folder\n"

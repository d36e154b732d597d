import csv
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from ferjax.errors import InputError
from ferjax.runtime import UNCERTAIN, load, predict
from tests.support import small_files
from tests.support.small_files import GRAY


@pytest.fixture
def model(tmp_path):
    return small_files.onnx_file(tmp_path / "m.onnx", GRAY.replace(abstention_threshold=0.9))


@pytest.fixture
def folder(tmp_path):
    """Three readable faces, a truncated one, an empty one, a hidden one, and a text file."""
    root = tmp_path / "faces"
    (root / "ä b").mkdir(parents=True)
    for name, pixels in zip(("b.png", "ä b/a.PNG", "c.pgm"), small_files.images(GRAY, 3), strict=True):
        done, data = cv2.imencode(os.path.splitext(name)[1].lower(), pixels)
        assert done
        data.tofile(root / name)
    (root / "d.png").write_bytes((root / "b.png").read_bytes()[:20])
    (root / "e.jpg").write_bytes(b"")
    (root / ".f.png").write_bytes(b"x")
    (root / "notes.txt").write_text("no picture")
    return root


def test_a_row_for_each_readable_image(model, folder, tmp_path, capfd):
    out = tmp_path / "results.csv"
    predict.main([str(model), str(folder), "--out", str(out)])
    with open(out, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "label", "confidence", "angry", "happy", "sad"]
    assert [row[0] for row in rows] == ["b.png", "c.pgm", "ä b/a.PNG"]
    b, a, c = small_files.images(GRAY, 3)
    wanted = load(model).probabilities(np.stack([b, c, a]))
    np.testing.assert_allclose(np.array([row[3:] for row in rows], float), wanted, atol=1e-6)
    for row, p in zip(rows, wanted, strict=True):
        assert float(row[2]) == pytest.approx(p.max(), abs=1e-6)
        assert row[1] == (GRAY.class_names[p.argmax()] if p.max() >= 0.9 else UNCERTAIN)
    told = capfd.readouterr()
    assert "3 images, 2 unreadable" in told.out
    assert "d.png cannot be read" in told.err and "e.jpg cannot be read" in told.err and "notes.txt" not in told.err
    assert sorted(os.listdir(tmp_path)) == ["faces", "m.onnx", "results.csv"]


def test_hidden_folders_and_folders_named_like_images_are_skipped(model, folder):
    (folder / "folder.jpg").mkdir()
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "b.png").write_bytes((folder / "b.png").read_bytes())
    names = [name for name, _ in predict.predict_folder(load(model), folder)]
    assert names and "folder.jpg" not in names and not any("thumbnails" in name for name in names)


def test_an_unreadable_file_is_skipped_with_one_line(model, folder, tmp_path, capfd, monkeypatch):
    read = pathlib.Path.read_bytes

    def guarded(path):
        if path.name == "c.pgm":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(pathlib.Path, "read_bytes", guarded)
    predict.main([str(model), str(folder), "--out", str(tmp_path / "results.csv")])
    told = capfd.readouterr()
    assert "2 images, 3 unreadable" in told.out and "c.pgm cannot be read as an image (Permission denied)" in told.err
    assert all(line.startswith("ferjax: ") for line in told.err.splitlines())  # none of OpenCV's own


def test_wrong_input_is_one_line_and_writes_nothing(model, folder, tmp_path):
    out = tmp_path / "results.csv"
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, message in (
        ([str(model), str(tmp_path / "none"), "--out", str(out)], "none' is not a folder"),
        ([str(model), str(empty), "--out", str(out)], "empty has no image; accepted: .jpg"),
        ([str(model), str(folder), "--out", str(tmp_path / "x" / "y.csv")], "a .csv file in an existing folder"),
        ([str(model), str(folder), "--out", str(model)], "a .csv file in an existing folder"),
        ([str(tmp_path / "m.tflite"), str(folder), "--out", str(out)], "m.tflite' does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            predict.main(arguments)
    for path in folder.rglob("*.[pP]*"):
        path.write_bytes(b"x")
    with pytest.raises(InputError, match=r"no image in .* can be read: 5 skipped"):
        predict.main([str(model), str(folder), "--out", str(out)])
    assert not out.exists()


def test_the_command_loads_no_jax_and_fails_with_one_line(model, folder, tmp_path):
    plain = small_files.onnx_file(tmp_path / "plain.onnx", embed=False)
    script = (
        "import sys; sys.modules['jax'] = sys.modules['tensorflow'] = None\n"
        "from ferjax import cli\nfrom ferjax.runtime import predict\ncli.run(lambda: predict.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run([*command, model, folder, "--out", tmp_path / "r.csv"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([*command, plain, folder, "--out", tmp_path / "s.csv"], capture_output=True, text=True)
    assert done.returncode == 2 and "has no ferjax spec" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "s.csv").exists()
    lite = small_files.tflite_file(tmp_path / "m.tflite")  # LiteRT prints a message about its delegate
    nowhere = [lite, tmp_path / "no", "--out", tmp_path / "s.csv"]
    done = subprocess.run([*command, *nowhere], capture_output=True, text=True)
    assert done.returncode == 2 and "is not a folder" in done.stderr and done.stderr.count("\n") == 1

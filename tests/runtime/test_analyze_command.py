"""The command `ferjax analyze`."""

import csv
import json
import os
import pathlib
import signal
import urllib.parse

import cv2
import numpy as np
import pytest

from ferjax.errors import InputError
from ferjax.runtime.analysis import command, output
from tests.support.html_reader import Reader
from tests.support.live_parts import brightness_model, patch_detector, patches
from tests.support.videos import write_film

LABELS = [("happy", "sad" if i < 20 else "angry") for i in range(40)]


@pytest.fixture(autouse=True)
def parts(monkeypatch):
    """A model and a detector that never err."""
    monkeypatch.setattr(command, "load", lambda path, **options: brightness_model())
    monkeypatch.setattr(command, "create_detector", lambda *arguments, **options: patch_detector())


@pytest.fixture
def inputs(tmp_path):
    """A folder of photos in `photos`, one of them unreadable, and two films."""
    photos = tmp_path / "photos"
    (photos / "ä b").mkdir(parents=True)
    cv2.imwrite(str(photos / "one.png"), patches(0, {90: (20, 20)}).image)
    cv2.imwrite(str(photos / "ä b" / "two.tif"), patches(0, {0: (20, 20), 210: (100, 20)}).image)
    (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff no more")
    write_film(tmp_path / "film.avi", LABELS)
    write_film(tmp_path / "empty.avi", [()] * 5)
    return tmp_path


def analyze(inputs, *names, out="out", more=()):
    command.main([*(str(inputs / name) for name in names), "--out", str(inputs / out), *more])
    return inputs / out


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_photos_and_films_become_copies_tables_timelines_and_a_page(inputs, capfd):
    out = analyze(inputs, "photos", "film.avi", "empty.avi")
    tables = ["faces.csv", "faces.jsonl", "index.html", "people.csv"]
    copies = ["empty.avi.mp4", "film.avi.mp4", "one.png.png", "ä b/two.tif.png"]
    assert files(out) == sorted([*(f"annotated/{name}" for name in copies), *tables, "timelines/film.avi.png"])
    faces = rows(out / "faces.csv")
    photos = [(row["file"], row["track"], row["label"]) for row in faces[:3]]
    assert photos == [("one.png", "1", "happy"), ("ä b/two.tif", "1", "angry"), ("ä b/two.tif", "2", "sad")]
    film = [row for row in faces if row["file"] == "film.avi"]
    assert [(row["frame"], row["track"]) for row in film] == [(str(i), t) for i in range(40) for t in "12"]
    lines = [json.loads(line) for line in (out / "faces.jsonl").read_text().splitlines()]
    assert [(line["file"], line["label"], str(line["box"][0])) for line in lines] == [
        (row["file"], row["label"], row["x"]) for row in faces
    ]
    first, second = rows(out / "people.csv")
    assert float(first["seconds_happy"]) == pytest.approx(4) == float(first["visible"])
    assert [float(second[f"seconds_{name}"]) for name in ("sad", "angry")] == pytest.approx([2, 2], abs=0.21)
    told = capfd.readouterr()
    assert "bad.jpg cannot be read" in told.err and "2 photos with 3 faces and 2 films" in told.out


def test_the_shares_of_a_film_are_those_of_its_faces(inputs):
    labels = [("happy", "sad", "angry")[i // 20 % 3] for i in range(120)]  # a new expression every two seconds
    write_film(inputs / "changing.avi", [(label,) for label in labels])
    (person,) = rows(analyze(inputs, "changing.avi") / "people.csv")
    for label in ("happy", "sad", "angry"):
        share = float(person[f"seconds_{label}"]) / float(person["visible"])
        assert share == pytest.approx(labels.count(label) / 120, abs=0.05)


def test_the_page_is_whole_and_asks_for_nothing(inputs):
    out = analyze(inputs, "photos", "film.avi", "empty.avi")
    reader = Reader((out / "index.html").read_text())
    assert len(reader.sources) == 3 and all(source.startswith("data:image/") for source in reader.sources)
    assert len(reader.links) == 4 and all(
        (out / pathlib.PurePosixPath(urllib.parse.unquote(link))).is_file() for link in reader.links
    )
    words = " ".join(reader.words)
    for needed in ("Person 2", "4.0 (100%)", "No face was found", "one.png: happy 100%", "not of what a person feels"):
        assert needed in words


def test_copies_are_drawn_on(inputs):
    out = analyze(inputs, "photos", "film.avi")
    before, after = cv2.imread(str(inputs / "photos" / "one.png")), cv2.imread(str(out / "annotated" / "one.png.png"))
    assert before.shape == after.shape and (before != after).any()
    film = cv2.VideoCapture(str(out / "annotated" / "film.avi.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 40 and film.read()[1].shape == (240, 320, 3)
    film.release()


def test_equal_names_are_kept_apart(inputs):
    (inputs / "more").mkdir()
    for name in ("one.png", "three.png"):
        cv2.imwrite(str(inputs / "more" / name), patches(0, {210: (20, 20)}).image)
    out = analyze(inputs, "photos", "more", "more/three.png", "photos/one.png")
    assert {row["file"]: row["label"] for row in rows(out / "faces.csv")} == {
        "one.png": "happy",
        "ä b/two.tif": "sad",
        "more/one.png": "sad",
        "three.png": "sad",
    }


def test_no_two_files_have_the_same_name_or_copy(inputs):
    photos = ("a/p.png", "b/p.png", "b/b/p.png", "b/me.jpg", "b/me.jpg.png")
    for name in photos:
        (inputs / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(inputs / name), patches(0, {90: (20, 20)}).image)
    for name in ("a.avi", "a.avi.mp4", "c/a.avi"):
        (inputs / name).parent.mkdir(exist_ok=True)
        write_film(inputs / "new.avi", [("happy",)] * 3).rename(inputs / name)
    out = analyze(inputs, "a", "b", "a.avi", "a.avi.mp4", "c/../c/a.avi")
    assert len({row["file"] for row in rows(out / "faces.csv")}) == 8
    assert len({row["file"] for row in rows(out / "people.csv")}) == 3
    assert len(files(out / "annotated")) == 8


def test_an_analysis_is_replaced_with_overwrite_only(inputs):
    out = analyze(inputs, "photos")
    with pytest.raises(InputError, match=r"contains an analysis: .* --overwrite"):
        analyze(inputs, "film.avi")
    assert "one.png" in (out / "faces.csv").read_text()
    analyze(inputs, "film.avi", more=["--overwrite"])
    assert "one.png" not in (out / "faces.csv").read_text() and not (out / "annotated" / "one.png.png").exists()
    (out / "mine.txt").write_text("notes")
    with pytest.raises(InputError, match=r"also contains mine\.txt"):
        analyze(inputs, "film.avi", more=["--overwrite"])
    with pytest.raises(InputError, match="is not an analysis"):
        analyze(inputs, "film.avi", out="photos", more=["--overwrite"])
    assert len(files(inputs / "photos")) == 3


@pytest.mark.parametrize("names", [["index.html"], ["faces.csv", "annotated/mine.png"], ["faces.jsonl", "people.csv"]])
def test_a_folder_that_is_not_an_analysis_is_kept(inputs, names):
    for name in names:
        (inputs / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (inputs / "site" / name).write_text("mine")
    with pytest.raises(InputError, match="is not an analysis"):
        analyze(inputs, "film.avi", out="site", more=["--overwrite"])
    assert files(inputs / "site") == sorted(names)


def test_an_analysis_inside_its_own_folder_is_not_analyzed(inputs):
    analyze(inputs, "photos", out="photos/result")
    out = analyze(inputs, "photos", out="photos/result", more=["--overwrite"])
    assert {row["file"] for row in rows(out / "faces.csv")} == {"one.png", "ä b/two.tif"}
    for photo in [*(inputs / "photos").glob("*.*"), inputs / "photos" / "ä b" / "two.tif"]:
        photo.unlink()
    with pytest.raises(InputError, match="no image outside --out"):
        analyze(inputs, "photos", out="photos/result", more=["--overwrite"])
    with pytest.raises(InputError, match="lies in --out"):
        analyze(inputs, "photos/result/annotated/one.png.png", out="photos/result", more=["--overwrite"])


@pytest.mark.parametrize(
    "names, more, said",
    [
        (["none.mp4"], [], r"none\.mp4 does not exist"),
        (["nothing"], [], "nothing has no image"),
        (["film.avi"], ["--threshold", "2"], "threshold"),
        (["film.avi"], ["--rate", "0"], "greater than 0"),
        (["unreadable", "notes.txt"], [], "nothing can be analyzed: 2 files skipped"),
        (["hidden"], [], r"hidden has no image; accepted"),
        (["films"], [], r"\.mp4 1; give films by name"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(inputs, names, more, said):
    (inputs / "notes.txt").write_text("no film")
    (inputs / "nothing").mkdir()
    (inputs / "unreadable").mkdir()
    (inputs / "unreadable" / "bad.png").write_bytes(b"no image")
    (inputs / "hidden" / ".cache").mkdir(parents=True)
    (inputs / "hidden" / ".cache" / "one.png").touch()
    (inputs / "films").mkdir()
    (inputs / "films" / "one.mp4").touch()
    before = files(inputs)
    with pytest.raises(InputError, match=said):
        analyze(inputs, *names, more=more)
    assert files(inputs) == before and not (inputs / "out").exists()


@pytest.mark.parametrize("url", ["rtsp://me:secret@camera/1", "HTTPS://me:secret@host/a.mp4", "rtsp:/me:secret@camera"])
def test_a_password_in_a_url_is_not_printed(inputs, url):
    with pytest.raises(InputError, match="URLs are not accepted") as refused:
        command.main([url, "--out", str(inputs / "out")])
    assert "secret" not in str(refused.value)


def test_an_empty_path_is_not_the_working_folder(inputs, monkeypatch):
    monkeypatch.chdir(inputs / "photos")
    with pytest.raises(InputError, match="a path is empty"):
        command.main(["", "--out", str(inputs / "out")])


def test_unreadable_files_given_by_name_are_skipped(inputs, capfd):
    (inputs / "notes.txt").write_text("no film")
    out = analyze(inputs, "notes.txt", "photos/bad.jpg", "photos/one.png", "film.avi")
    assert {row["file"] for row in rows(out / "faces.csv")} == {"one.png", "film.avi"}
    told = capfd.readouterr().err
    assert [name in told for name in ("notes.txt", "bad.jpg", "one.png")] == [True, True, False]


@pytest.mark.parametrize("size, fps", [((9000, 64), 10.0), ((320, 240), 0.004)])
def test_a_film_whose_copy_cannot_be_written_has_tables_and_a_timeline(inputs, size, fps, capfd):
    film = cv2.VideoWriter(str(inputs / "odd.avi"), cv2.VideoWriter.fourcc(*"FFV1"), fps, size)
    for index in range(3):
        film.write(patches(index, {90: (20, 20)}, size=size[::-1]).image)
    film.release()
    out = analyze(inputs, "odd.avi")
    assert len(rows(out / "faces.csv")) == 3 and files(out / "timelines") == ["odd.avi.png"]
    assert Reader((out / "index.html").read_text()).links == [] and not files(out / "annotated")
    told = capfd.readouterr().err
    assert "no annotated copy of odd.avi" in told and ".out" not in told


def interrupt_after(monkeypatch, frames, number=signal.SIGINT):
    """Sends a signal, as Ctrl-C does, before the frame of this number of a film."""
    stream = command.stream

    def interrupted(*arguments, **options):
        for index, result in enumerate(stream(*arguments, **options)):
            yield result
            if index == frames - 1:
                signal.raise_signal(number)

    monkeypatch.setattr(command, "stream", interrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_keeps_what_is_done_and_says_so(inputs, monkeypatch, capfd, number):
    interrupt_after(monkeypatch, 25, number)
    with pytest.raises(SystemExit) as stopped:
        analyze(inputs, "photos", "film.avi", "empty.avi")
    out = inputs / "out"
    assert stopped.value.code == 130
    assert "Interrupted: 2 of 3 photos, 0 of 2 films" in capfd.readouterr().err
    assert len([row for row in rows(out / "faces.csv") if row["file"] == "film.avi"]) == 50
    film = cv2.VideoCapture(str(out / "annotated" / "film.avi.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 25
    film.release()
    words = " ".join(Reader((out / "index.html").read_text()).words)
    assert "Interrupted: 2 of 3 photos, 0 of 2 films" in words
    assert "Interrupted after" in words and "25 frames" in words and "empty.avi" not in words.split("Command")[0]
    assert not [name for name in os.listdir(inputs) if name.startswith(".")]


def test_ctrl_c_before_anything_is_done_leaves_nothing(inputs, monkeypatch):
    load = command.open_film
    monkeypatch.setattr(command, "open_film", lambda path: signal.raise_signal(signal.SIGINT) or load(path))
    with pytest.raises(KeyboardInterrupt):
        analyze(inputs, "film.avi")
    assert sorted(os.listdir(inputs)) == ["empty.avi", "film.avi", "photos"]


def test_ctrl_c_keeps_an_earlier_analysis(inputs, monkeypatch):
    out = analyze(inputs, "empty.avi")
    before = files(out)
    interrupt_after(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        analyze(inputs, "photos", "film.avi", more=["--overwrite"])
    assert files(out) == before and not [name for name in os.listdir(inputs) if name.startswith(".")]


def test_an_error_leaves_nothing(inputs, monkeypatch):
    monkeypatch.setattr(command.Recorder, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        analyze(inputs, "photos", "film.avi")
    assert not (inputs / "out").exists() and not [name for name in os.listdir(inputs) if name.startswith(".")]


def test_many_photos_are_not_all_on_the_page(inputs, monkeypatch):
    monkeypatch.setattr(output, "_MOST_PREVIEWS", 1)
    out = analyze(inputs, "photos")
    reader = Reader((out / "index.html").read_text())
    assert len(reader.sources) == 1 and "1 more photo in annotated" in " ".join(reader.words)
    assert len(files(out / "annotated")) == 2


def test_a_file_name_of_any_encoding_is_kept(inputs):
    name = os.fsdecode(b"caf\xe9.png")
    np.asarray(cv2.imencode(".png", patches(0, {90: (20, 20)}).image)[1]).tofile(inputs / name)
    out = analyze(inputs, name)
    assert [os.fsencode(path.name) for path in (out / "annotated").iterdir()] == [b"caf\xe9.png.png"]
    assert rows(out / "faces.csv")[0]["file"] == r"caf\udce9.png"
    assert json.loads((out / "faces.jsonl").read_text())["file"] == name

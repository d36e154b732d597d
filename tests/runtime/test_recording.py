import csv
import errno
import io
import json
import os
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from ferjax.errors import InputError
from ferjax.runtime.show import recording
from ferjax.runtime.show.recording import Log, Recorder, Snapshots
from ferjax.runtime.sources.opening import open_source
from tests.support.live_parts import NAMES, face, frame, result

P, RAW = (0.7, 0.2, 0.1), (0.123456789, 0.5, 0.376543211)


def written(log, *results):
    for one in results:
        log.write(one)
    log.close()


def test_jsonl_has_one_object_per_face_and_frame(tmp_path):
    path = tmp_path / "out.jsonl"
    both = result(face(1, p=P, raw=RAW), face(2, (5, 6, 7, 8), p=P), of=frame(7))
    written(Log(str(path), NAMES), both, result(of=frame(8)), result(face(1), of=frame(9)))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["frame"], line["track"]) for line in lines] == [(7, 1), (7, 2), (9, 1)]
    assert list(lines[0]) == [
        "time",
        "frame",
        "track",
        "box",
        "label",
        "confidence",
        "probabilities",
        "raw_probabilities",
        "latency_ms",
    ]
    assert lines[0]["time"] == round(7 / 30, 4) and lines[1]["box"] == [5, 6, 7, 8]
    assert lines[0]["probabilities"] == dict(zip(NAMES, P, strict=True)) and lines[0]["label"] == "angry"
    np.testing.assert_allclose(list(lines[0]["raw_probabilities"].values()), RAW, rtol=1e-6)
    assert lines[1]["raw_probabilities"] is None
    assert lines[0]["latency_ms"] == {"capture": 1.0, "detect": 2.0, "classify": 3.0, "draw": 4.0}


def test_csv_has_the_same_in_columns(tmp_path):
    path = tmp_path / "out.csv"
    written(Log(str(path), NAMES), result(face(1, p=P, raw=RAW), face(2, (5, 6, 7, 8), p=P), of=frame(7)))
    first, second = csv.DictReader(path.read_text().splitlines())
    assert (first["frame"], first["track"], second["x"], second["height"]) == ("7", "1", "5", "8")
    assert first["label"] == "angry" and float(first["probability_happy"]) == 0.2
    assert float(first["raw_probability_angry"]) == pytest.approx(RAW[0], rel=1e-6)
    assert second["raw_probability_angry"] == "" and first["latency_ms_classify"] == "3.0"
    assert None not in first and None not in first.values()  # as many cells as columns


def test_a_picture_of_a_folder_is_named(tmp_path):
    written(Log(str(tmp_path / "a.jsonl"), NAMES), result(face(), of=frame()._replace(name="me.png")))
    assert json.loads((tmp_path / "a.jsonl").read_text())["image"] == "me.png"


def test_a_log_may_be_standard_output(capsys):
    written(Log("-", NAMES), result(face()))
    assert json.loads(capsys.readouterr().out)["label"] == "angry"


@pytest.mark.parametrize("name, said", [("out.txt", r"kind of log.*FILE.jsonl, FILE.csv"), ("no/out.csv", "folder")])
def test_a_log_that_cannot_be_is_refused(tmp_path, name, said):
    with pytest.raises(InputError, match=said):
        Log(str(tmp_path / name), NAMES)


def test_a_full_disk_ends_the_log_with_one_message(tmp_path, capfd):
    log = Log(str(tmp_path / "out.jsonl"), NAMES)
    log.write(result(face()))

    class Full(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        close = flush  # a file tries to write the rest

    log._file.close()
    log._file = Full()
    written(log, result(face()), result(face()))
    (line,) = capfd.readouterr().err.splitlines()
    assert "out.jsonl ends here: No space left" in line
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_a_log_that_a_full_disk_ends_has_whole_lines(tmp_path):
    path = tmp_path / "out.jsonl"
    script = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "import sys, live_parts as parts; from ferjax.runtime.show.recording import Log;"
        "log = Log(sys.argv[1], parts.NAMES);"
        "[log.write(parts.result(parts.face())) for _ in range(40)]; log.close()"
    )
    there = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], env=there, capture_output=True, text=True, check=True
    )
    assert done.stderr.count("out.jsonl ends here") == 1
    lines = path.read_text().splitlines()
    assert 1 < len(lines) < 40 and all(json.loads(line)["label"] for line in lines)


def frames_of(path):
    capture, found = cv2.VideoCapture(str(path)), []
    while True:
        ok, image = capture.read()
        if not ok:
            capture.release()
            return found
        found.append(image)


def record(path, fps, *frames):
    recorder = Recorder(str(path), fps)
    for one in frames:
        recorder.write(result(of=one))
    recorder.close()
    return frames_of(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_recording_has_every_frame_of_a_file(tmp_path, suffix):
    images = record(tmp_path / f"out{suffix}", 30.0, *(frame(i, value=10 * i) for i in range(20)))
    assert len(images) == 20 and images[0].shape == (120, 160, 3)
    assert abs(int(images[10].mean()) - 100) < 6
    assert [p.name for p in tmp_path.iterdir()] == [f"out{suffix}"]


def test_a_recording_of_a_slow_loop_lasts_as_long_as_life(tmp_path):
    seconds = (0.0, 0.11, 0.25, 0.26, 1.0)  # a camera of 30 fps of which few frames were taken
    images = record(tmp_path / "out.mp4", 30.0, *(frame(i, time=t + 5) for i, t in enumerate(seconds)))
    assert len(images) == 31


def test_a_frame_of_another_size_is_fitted_in(tmp_path):
    images = record(tmp_path / "out.avi", 10.0, frame(0, time=0.0), frame(1, size=(121, 41), value=200, time=0.1))
    assert [i.shape for i in images] == [(120, 160, 3)] * 2
    assert images[1][60, 80].mean() > 190 and images[1][60, 10].mean() < 20
    odd = record(tmp_path / "odd.mp4", 10.0, frame(0, size=(121, 161)))
    assert record(tmp_path / "dot.avi", 10.0, frame(0, size=(1, 1)))[0].shape == (2, 2, 3)
    assert odd[0].shape == (120, 160, 3) and abs(int(odd[0].mean()) - 90) < 5


def test_a_disk_that_fills_closes_the_video_and_the_loop_goes_on(tmp_path, monkeypatch, capfd):
    free = [10**9] * 8 + [10**6] * 20
    monkeypatch.setattr(recording, "_free", lambda _: free.pop(0))
    images = record(tmp_path / "out.mp4", 30.0, *(frame(i) for i in range(20)))
    assert len(images) == 7  # the first look is before the first frame
    (line,) = capfd.readouterr().err.splitlines()
    assert "disk is nearly full" in line and "out.mp4" in line


@pytest.mark.parametrize("name, said", [("out.gif", r"kind of video.*mp4"), ("no/out.mp4", "folder")])
def test_a_recording_that_cannot_be_is_refused(tmp_path, name, said):
    with pytest.raises(InputError, match=said):
        Recorder(str(tmp_path / name), 30.0)


def test_a_full_disk_is_said_before_recording(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "_free", lambda _: 1000)
    with pytest.raises(InputError, match="too full to record"):
        Recorder(str(tmp_path / "out.mp4"), 30.0)


def test_a_codec_that_is_lacking_is_said_before_anything_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setitem(recording.VIDEOS, ".avi", "none")
    with pytest.raises(InputError, match=r"OpenCV cannot write .*out\.avi of 16x16 pixels: try another of"):
        Recorder(str(tmp_path / "out.avi"), 30.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on files is not known there")
@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_recording_that_was_cut_off_is_told_and_replaces_nothing_if_it_cannot_be_played(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"an older film")
    script = (
        "import resource, signal, sys; import numpy as np\n"
        f"sys.path[:0] = {[p for p in sys.path if p]!r}\n"
        "from live_parts import frame, result; from ferjax.runtime.show.recording import Recorder\n"
        f"recorder = Recorder({str(path)!r}, 30.0)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (200_000,) * 2)\n"
        "noise = np.random.default_rng(0).integers(0, 255, (60, 240, 320, 3)).astype(np.uint8)\n"
        "for i in range(60): recorder.write(result(of=frame(i)._replace(image=noise[i], time=i / 30)))\n"
        "recorder.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if line.startswith("ferjax:")]
    assert len(said) == 1 and "of 60 frames of the recording" in said[0] and not done.returncode
    whole = "nothing is saved" in said[0]
    assert whole == (suffix == ".mp4") == (path.read_bytes() == b"an older film")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_a_log_has_one_writer(tmp_path):
    path = tmp_path / "out.jsonl"
    log = Log(str(path), NAMES)
    log.write(result(face(1), of=frame(1)))
    before = path.read_bytes()
    with pytest.raises(InputError, match="another process writes the log"):
        Log(str(path), NAMES)
    assert path.read_bytes() == before
    log.close()
    Log(str(path), NAMES).close()
    assert path.read_bytes() == b""
    (tmp_path / "link.jsonl").symlink_to(path)
    written(Log(str(tmp_path / "link.jsonl"), NAMES), result(face(1), of=frame(1)))
    assert path.read_bytes() == before and (tmp_path / "link.jsonl").is_symlink()


def test_two_that_record_into_one_file_leave_one_of_the_two_films(tmp_path, monkeypatch):
    recorders = []
    for process in (1, 2):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        recorders.append(Recorder(str(tmp_path / "out.mp4"), 30.0))
        recorders[-1].write(result(of=frame(0)))
    for recorder, count in zip(recorders, (5, 9), strict=True):
        for index in range(1, count):
            recorder.write(result(of=frame(index)))
    for recorder in recorders:
        recorder.close()
    video = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 9 and [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_a_gap_is_no_damage(tmp_path, capsys):
    recorder = Recorder(str(tmp_path / "out.avi"), 5.0)
    for minute in range(4):
        recorder.write(result(of=frame(minute, time=60.0 * minute)))
    recorder.close()
    assert capsys.readouterr().err == ""


def test_a_film_of_one_frame_that_cannot_be_read_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(recording, "_frames_in", lambda *_: 0)
    recorder = Recorder(str(tmp_path / "out.mp4"), 30.0)
    recorder.write(result(of=frame(1)))
    recorder.close()
    assert "of 1 frames of the recording" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_what_a_killed_recording_left_goes_after_a_day(tmp_path):
    for name, age in ((".out.1.part.mp4", 2), (".out.2.part.mp4", 0), (".other.1.part.mp4", 2)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - 86400 * age,) * 2)
    Recorder(str(tmp_path / "out.mp4"), 30.0).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.1.part.mp4", ".out.2.part.mp4"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes in folders there")
def test_a_log_may_be_a_pipe(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.jsonl")
    reader = os.open(tmp_path / "pipe.jsonl", os.O_RDONLY | os.O_NONBLOCK)
    written(Log(str(tmp_path / "pipe.jsonl"), NAMES), *(result(face(1), of=frame(i)) for i in range(3)))
    assert os.read(reader, 1 << 16).count(b"\n") == 3 and capsys.readouterr().err == ""
    os.close(reader)


def test_a_log_on_a_closed_standard_output_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(InputError, match="standard output, which is closed"):
        Log("-", NAMES)


def test_names_with_a_colon_are_no_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recorder = Recorder("at-12:30.mp4", 30.0)
    recorder.write(result(of=frame(1)))
    recorder.close()
    with open_source("at-12:30.mp4") as source:
        assert len(list(source)) == 1


def test_a_recording_follows_a_link(tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a").write_bytes(b"old")  # whose own name has no ending
    (tmp_path / "out.mp4").symlink_to(tmp_path / "films" / "a")
    recorder = Recorder(str(tmp_path / "out.mp4"), 30.0)
    recorder.write(result(of=frame(1)))
    recorder.close()
    assert (tmp_path / "out.mp4").is_symlink() and (tmp_path / "films" / "a").stat().st_size > 100


def test_nothing_is_recorded_before_the_first_frame(tmp_path):
    Recorder(str(tmp_path / "out.mp4"), 30.0).close()
    assert list(tmp_path.iterdir()) == []


def test_snapshots_are_pictures_of_the_frame(tmp_path, capfd):
    pictures = Snapshots(str(tmp_path / "new" / "folder"))
    pictures.write(result(of=frame(12, value=33)))
    pictures.write(result(of=frame(13)._replace(name="me.jpg")))
    pictures.write(result(of=frame(13)._replace(name="me.png")))
    names = sorted(p.name for p in (tmp_path / "new" / "folder").iterdir())
    assert names == ["frame-000012.png", "me.jpg.png", "me.png"]
    assert (cv2.imread(str(tmp_path / "new" / "folder" / names[0])) == 33).all()
    (tmp_path / "new" / "folder" / f".frame-000014.{os.getpid()}.part").mkdir()  # in the way
    pictures.write(result(of=frame(14)))
    assert "frame-000014.png could not be saved" in capfd.readouterr().err


def test_names_that_are_no_utf8_keep_their_bytes(tmp_path):
    of = frame(0)._replace(name=os.fsdecode(b"caf\xe9.png"))
    for kind in ("csv", "jsonl"):
        written(Log(str(tmp_path / f"log.{kind}"), NAMES), result(face(1, p=P, raw=RAW), of=of))
    assert b"caf\xe9.png" in (tmp_path / "log.csv").read_bytes()
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert os.fsencode(line["image"]) == b"caf\xe9.png"


def test_outputs_may_begin_with_a_tilde_and_are_no_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Log("~nobody-of-this-name.jsonl", NAMES).close()
    assert (tmp_path / "~nobody-of-this-name.jsonl").exists()
    (tmp_path / "film.mp4").mkdir()
    with pytest.raises(InputError, match=r"film\.mp4 is a folder: give the name of a file"):
        Recorder("film.mp4", 10)

import os
import subprocess
import sys
import time

import cv2
import pytest

from ferjax.errors import InputError
from ferjax.runtime.show import recorder as recorder_module
from ferjax.runtime.show.recorder import Recorder
from ferjax.runtime.sources.factory import open_source
from tests.support.live_parts import frame, result


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


def test_a_recording_of_a_slow_loop_plays_in_real_time(tmp_path):
    seconds = (0.0, 0.11, 0.25, 0.26, 1.0)  # a camera of 30 fps of which few frames were taken
    images = record(tmp_path / "out.mp4", 30.0, *(frame(i, time=t + 5) for i, t in enumerate(seconds)))
    assert len(images) == 31


def test_a_frame_of_another_size_is_letterboxed(tmp_path):
    images = record(tmp_path / "out.avi", 10.0, frame(0, time=0.0), frame(1, size=(121, 41), value=200, time=0.1))
    assert [i.shape for i in images] == [(120, 160, 3)] * 2
    assert images[1][60, 80].mean() > 190 and images[1][60, 10].mean() < 20
    odd = record(tmp_path / "odd.mp4", 10.0, frame(0, size=(121, 161)))
    assert record(tmp_path / "dot.avi", 10.0, frame(0, size=(1, 1)))[0].shape == (2, 2, 3)
    assert odd[0].shape == (120, 160, 3) and abs(int(odd[0].mean()) - 90) < 5


def test_a_full_disk_closes_the_video_with_one_message(tmp_path, monkeypatch, capfd):
    free = [10**9] * 8 + [10**6] * 20
    monkeypatch.setattr(recorder_module, "_free", lambda _: free.pop(0))
    images = record(tmp_path / "out.mp4", 30.0, *(frame(i) for i in range(20)))
    assert len(images) == 7  # one check of the disk precedes the first frame
    (line,) = capfd.readouterr().err.splitlines()
    assert "nearly full" in line and "out.mp4" in line


@pytest.mark.parametrize("fps", [29.97002997, 120.123456, 239.538])
def test_any_frame_rate_of_a_phone_is_recorded(tmp_path, fps):
    images = record(tmp_path / "out.mp4", fps, *(frame(i, fps=fps) for i in range(10)))
    assert len(images) == 10


@pytest.mark.parametrize(
    "name, said", [("out.gif", r"out.gif.*mp4"), ("no/out.mp4", "folder"), ("caf\udce9.mp4", "not UTF-8")]
)
def test_an_invalid_recording_path_is_an_error(tmp_path, name, said):
    with pytest.raises(InputError, match=said):
        Recorder(str(tmp_path / name), 30.0)


def test_a_full_disk_is_an_error_before_recording(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "_free", lambda _: 1000)
    with pytest.raises(InputError, match="32 MB"):
        Recorder(str(tmp_path / "out.mp4"), 30.0)


def test_a_missing_codec_is_an_error_before_the_start(tmp_path, monkeypatch):
    monkeypatch.setitem(recorder_module.VIDEOS, ".avi", "none")
    with pytest.raises(InputError, match=r"OpenCV cannot write .*out\.avi with 16x16 pixels"):
        Recorder(str(tmp_path / "out.avi"), 30.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on files is not known there")
@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_truncated_recording_is_reported_and_deleted_if_unreadable(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"an older film")
    script = (
        "import resource, signal, sys; import numpy as np\n"
        f"sys.path[:0] = {[p for p in sys.path if p]!r}\n"
        "from tests.support.live_parts import frame, result; from ferjax.runtime.show.recorder import Recorder\n"
        f"recorder = Recorder({str(path)!r}, 30.0)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (200_000,) * 2)\n"
        "noise = np.random.default_rng(0).integers(0, 255, (60, 240, 320, 3)).astype(np.uint8)\n"
        "for i in range(60): recorder.write(result(of=frame(i)._replace(image=noise[i], time=i / 30)))\n"
        "recorder.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if line.startswith("ferjax:")]
    assert len(said) == 1 and " of 60 frames of the recording" in said[0] and not done.returncode
    whole = "it is deleted" in said[0]
    assert whole == (suffix == ".mp4") == (path.read_bytes() == b"an older film")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_concurrent_recordings_of_one_file_leave_one_complete_video(tmp_path, monkeypatch):
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


def test_a_long_gap_is_not_reported_as_damage(tmp_path, capsys):
    recorder = Recorder(str(tmp_path / "out.avi"), 5.0)
    for minute in range(4):
        recorder.write(result(of=frame(minute, time=60.0 * minute)))
    recorder.close()
    assert capsys.readouterr().err == ""


def test_an_unreadable_recording_of_one_frame_is_reported(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(recorder_module, "_frames_in", lambda *_: 0)
    recorder = Recorder(str(tmp_path / "out.mp4"), 30.0)
    recorder.write(result(of=frame(1)))
    recorder.close()
    assert "of 1 frame of the recording" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_abandoned_parts_are_removed_after_a_day(tmp_path):
    for name, age in ((".out.1.part.mp4", 2), (".out.2.part.mp4", 0), (".other.1.part.mp4", 2)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - 86400 * age,) * 2)
    Recorder(str(tmp_path / "out.mp4"), 30.0).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.1.part.mp4", ".out.2.part.mp4"]


def test_file_names_may_contain_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recorder = Recorder("at-12:30.mp4", 30.0)
    recorder.write(result(of=frame(1)))
    recorder.close()
    with open_source("at-12:30.mp4") as source:
        assert len(list(source)) == 1


def test_a_recording_follows_a_link(tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a").write_bytes(b"old")  # without suffix
    (tmp_path / "out.mp4").symlink_to(tmp_path / "films" / "a")
    recorder = Recorder(str(tmp_path / "out.mp4"), 30.0)
    recorder.write(result(of=frame(1)))
    recorder.close()
    assert (tmp_path / "out.mp4").is_symlink() and (tmp_path / "films" / "a").stat().st_size > 100


def test_nothing_is_recorded_before_the_first_frame(tmp_path):
    Recorder(str(tmp_path / "out.mp4"), 30.0).close()
    assert list(tmp_path.iterdir()) == []


def test_a_recording_cannot_replace_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "film.mp4").mkdir()
    with pytest.raises(InputError, match=r"film\.mp4 is a folder"):
        Recorder("film.mp4", 10)

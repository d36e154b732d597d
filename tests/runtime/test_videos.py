"""Video files as sources: damage, time stamps, frame counts, reads that block."""

import os
import struct
import threading
import time

import numpy as np
import pytest

from ferjax.errors import InputError
from ferjax.runtime.sources import files
from ferjax.runtime.sources.factory import open_source
from tests.support.videos import Film, damage, picture, write_video


@pytest.fixture
def films(monkeypatch):
    """Returns a list of fake videos: each opening takes the next one."""
    queue = []
    monkeypatch.setattr(files.cv2, "VideoCapture", lambda *_: queue.pop(0))
    return queue


def test_every_frame_of_a_video_comes_with_its_own_time(tmp_path):
    with open_source(write_video(tmp_path / "v.avi")) as source:
        frames = list(source)
    assert (source.fps, source.live, source.stills) == (10.0, False, False)
    assert [f.index for f in frames] == list(range(30)) and {f.dropped for f in frames} == {0}
    np.testing.assert_allclose([f.time for f in frames], np.arange(30) / 10, atol=1e-3)
    assert frames[3].image.shape == (48, 64, 3) and abs(int(frames[3].image.mean()) - 24) < 4
    assert all(f.capture_ms > 0 for f in frames[1:])


def test_a_truncated_video_is_read_as_far_as_possible(tmp_path, capfd):
    path = write_video(tmp_path / "v.avi")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 1 < len(list(open_source(path))) < 25
    (line,) = capfd.readouterr().err.splitlines()
    assert "ends early" in line and "of 30 frames" in line


KINDS = [("avi", "MJPG"), ("mp4", "mp4v"), ("mkv", "mp4v"), ("webm", "VP80")]


@pytest.mark.parametrize("suffix, fourcc", KINDS)
def test_undecodable_frames_are_skipped_and_counted(tmp_path, capfd, suffix, fourcc):
    path = write_video(tmp_path / f"v.{suffix}", frames=40, fourcc=fourcc)
    damage(path, 7, 8, 30)
    capfd.readouterr()  # the writer's messages
    frames = list(open_source(path))
    assert [f.index for f in frames] == [i for i in range(40) if i not in (7, 8, 30)]
    np.testing.assert_allclose([f.time for f in frames], [f.index / 10 for f in frames], atol=0.002)
    (line,) = capfd.readouterr().err.splitlines()
    assert f"v.{suffix}: 3 frames cannot be decoded" in line


@pytest.mark.parametrize("suffix, fourcc", KINDS)
def test_a_video_may_start_with_an_undecodable_frame(tmp_path, capfd, suffix, fourcc):
    path = write_video(tmp_path / f"v.{suffix}", frames=300, fourcc=fourcc)
    damage(path, 0)
    capfd.readouterr()
    frames = list(open_source(path))
    first = frames[0].index  # VP8 starts again with the next key frame
    assert 1 <= first < 200 and len(frames) == 300 - first and frames[-1].index == 299
    assert frames[0].time == pytest.approx(first / 10, abs=0.002)
    (line,) = capfd.readouterr().err.splitlines()
    assert f"v.{suffix}: {first} frame" in line


def test_a_video_without_a_decodable_frame_is_refused_in_one_line(tmp_path, capfd):
    path = write_video(tmp_path / "v.avi")
    damage(path, *range(30))
    with pytest.raises(InputError, match=r"v\.avi as a video or image: it is damaged"):
        open_source(path)
    assert capfd.readouterr().err == ""


def test_an_estimated_frame_count_is_not_believed(tmp_path, capfd, films):
    # A variable frame rate: 4 seconds at nominally 30 frames a second, with 20 frames.
    films.append(Film([(i * 0.2, picture(1)) for i in range(20)], fps=30.0, count=120))
    (tmp_path / "v.webm").write_bytes(b"\x1a\x45\xdf\xa3")
    frames = list(open_source(tmp_path / "v.webm"))
    assert [f.index for f in frames] == list(range(20)) and frames[-1].time == pytest.approx(3.8)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("start, first, count", [(1000.0, 0.0, 10020.0), (None, 1.4, -6e15)])
def test_a_film_whose_clock_starts_late_lost_nothing(tmp_path, capfd, films, start, first, count):
    films.append(Film([(first + i / 10, picture(1)) for i in range(20)], count=count, start=start))
    (tmp_path / "v.mkv").write_bytes(b"\x1a\x45\xdf\xa3")
    frames = list(open_source(tmp_path / "v.mkv"))
    assert [f.index for f in frames] == list(range(20))
    assert capfd.readouterr().err == ""


def test_the_cover_of_a_song_is_one_frame_and_the_song_not_truncated(tmp_path, capfd, films):
    films.append(Film([(0.0, picture(1))], fps=90000.0, count=270000))
    (tmp_path / "v.mp3").write_bytes(b"ID3")
    with open_source(tmp_path / "v.mp3") as source:
        assert source.count is None and [f.index for f in source] == [0]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("seconds, lines", [(3.1, 0), (60.0, 1)])
def test_a_container_that_is_longer_than_its_frames_is_reported(tmp_path, capfd, seconds, lines):
    path = write_video(tmp_path / "v.webm", fourcc="VP80")
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3  # the element Duration: eight bytes, in milliseconds
    path.write_bytes(data[:at] + struct.pack(">d", 1e3 * seconds) + data[at + 8 :])
    capfd.readouterr()
    assert len(list(open_source(path))) == 30
    errors = capfd.readouterr().err
    assert len(errors.splitlines()) == errors.count("at 2.9 of 60.0 s") == lines


def test_a_read_that_blocks_leaves_keys_and_stop_working(tmp_path, films):
    (tmp_path / "v.mp4").write_bytes(b"")
    waits = []
    films.append(Film([(0, picture(1)), (0.1, lambda: time.sleep(3))]))
    source = open_source(tmp_path / "v.mp4", on_wait=lambda: waits.append(1))
    next(source)
    threading.Timer(0.3, source.stop).start()
    start = time.monotonic()
    assert list(source) == [] and time.monotonic() - start < 1.0 and len(waits) > 2
    source.close()


def test_a_short_read_has_ended_when_the_iteration_stops(tmp_path, films):
    """OpenCV must not return while the interpreter shuts down: the process would abort."""
    (tmp_path / "v.mp4").write_bytes(b"")
    ended = []
    films.append(Film([(0, picture(1)), (0.1, lambda: time.sleep(0.3) or ended.append(1))]))
    source = open_source(tmp_path / "v.mp4")
    next(source)
    threading.Timer(0.1, source.stop).start()
    assert list(source) == [] and ended


def test_closing_ends_the_iteration_of_another_thread(tmp_path, films):
    (tmp_path / "v.mp4").write_bytes(b"")
    blocked = threading.Event()
    films.append(Film([(0, picture(1)), (0.1, lambda: blocked.set() or time.sleep(0.3))]))
    source = open_source(tmp_path / "v.mp4")
    rest = []
    reader = threading.Thread(target=lambda: rest.append(list(source)))
    reader.start()
    assert blocked.wait(5)
    source.close()
    reader.join(5)
    assert not reader.is_alive() and len(rest) == 1


def test_times_never_decrease(tmp_path, films):
    (tmp_path / "v.mkv").write_bytes(b"")
    stamps = [0, 0.1, 7200, 7200.1, 3, 3.1, 7201]
    films.append(Film([(stamp, picture(1)) for stamp in stamps]))
    times = [f.time for f in open_source(tmp_path / "v.mkv")]
    np.testing.assert_allclose(times, [0, 0.1, 7200, 7200.1, 7200.2, 7200.3, 7201])


def test_a_video_whose_name_is_not_utf8_is_an_error(tmp_path):
    path = write_video(tmp_path / "v.avi").rename(tmp_path / os.fsdecode(b"caf\xe9.avi"))
    with pytest.raises(InputError, match="is not UTF-8: rename it"):
        open_source(path)


@pytest.mark.parametrize("content, why", [(b"", "empty"), (b"no video at all", "damaged")])
@pytest.mark.parametrize("name", ["v.mp4", "v.avi"])
def test_a_file_without_a_frame_is_refused_in_one_line(tmp_path, capfd, name, content, why):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"v....* as a video or image: .*{why}"):
        open_source(tmp_path / name)
    assert capfd.readouterr().err == ""


def test_an_mp4_cut_off_is_refused_in_one_line(tmp_path, capfd):
    path = write_video(tmp_path / "v.mp4", fourcc="mp4v")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="truncated"):
        open_source(path)
    assert capfd.readouterr().err == ""

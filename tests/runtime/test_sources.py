import contextlib
import http.server
import itertools
import os
import struct
import threading
import time

import cv2
import numpy as np
import pytest

from ferjax.errors import InputError
from ferjax.runtime.sources import camera, files
from ferjax.runtime.sources.factory import open_source

# FFmpeg asks once, when the process first opens or writes a video: here that is a test's own writer.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def picture(value, size=(48, 64)):
    return np.full((*size, 3), value, np.uint8)


def write_video(path, frames=30, fps=10.0, fourcc="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*fourcc), fps, (64, 48))
    for i in range(frames):
        writer.write(picture(8 * i % 256))
    writer.release()
    return path


def damage(path, *numbers):
    """Overwrites the compressed frames of these numbers in a video, in place."""
    capture = cv2.VideoCapture(str(path))
    capture.set(cv2.CAP_PROP_FORMAT, -1)  # read() then returns compressed frames
    data, end = path.read_bytes(), 0
    for number in range(max(numbers) + 1):
        frame = capture.read()[1].tobytes()
        start = data.index(frame, end)
        end = start + len(frame)
        if number in numbers:
            data = data[:start] + bytes(len(frame)) + data[end:]
    capture.release()
    path.write_bytes(data)


class Camera:
    """Fake cv2.VideoCapture: `script` has one entry per read."""

    def __init__(self, script, fps=0.0, opens=True):
        self.script, self.fps, self.opens, self.released = list(script), fps, opens, False

    def isOpened(self):
        return self.opens

    def get(self, _):
        return self.fps

    def set(self, *_):
        return True

    def read(self):
        time.sleep(0.002)
        entry = self.script.pop(0) if self.script else None
        if callable(entry):
            entry = entry()
        return entry is not None, entry

    def release(self):
        self.released = True


class Film(Camera):
    """Fake cv2.VideoCapture of a file: `script` has a time in seconds and an image for each frame."""

    def __init__(self, script, fps=10.0, count=0.0):
        super().__init__([image for _, image in script], fps)
        self.stamps, self.count, self.stamp = [stamp for stamp, _ in script], count, 0.0

    def get(self, what):
        known = {cv2.CAP_PROP_FPS: self.fps, cv2.CAP_PROP_FRAME_COUNT: self.count, cv2.CAP_PROP_POS_MSEC: self.stamp}
        return known[what]

    def read(self):
        self.stamp = 1e3 * self.stamps.pop(0) if self.stamps else 0.0
        entry = self.script.pop(0) if self.script else None
        image = entry() if callable(entry) else entry
        return image is not None, image


@pytest.fixture
def films(monkeypatch):
    """Returns a list of fake videos: each opening takes the next one."""
    queue = []
    monkeypatch.setattr(files.cv2, "VideoCapture", lambda *_: queue.pop(0))
    return queue


@pytest.fixture
def cameras(monkeypatch):
    """Returns a list of fake cameras: each opening takes the next entry."""
    queue = []
    monkeypatch.setattr(camera.cv2, "VideoCapture", lambda *_: queue.pop(0) if queue else Camera([], opens=False))
    monkeypatch.setattr(camera, "_FIRST_PAUSE", 0.02)
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


def test_a_folder_gives_its_pictures_in_natural_order_and_leaves_out_the_broken(tmp_path, capfd):
    for name, value in (("img10.png", 100), ("img2.png", 20)):
        cv2.imwrite(str(tmp_path / name), picture(value))
    cv2.imwrite(str(tmp_path / "img11.png"), picture(110)[..., 0])  # gray, and of another size
    (tmp_path / "img3.jpg").write_bytes(b"not a picture")
    (tmp_path / "notes.txt").write_text("")
    with open_source(tmp_path) as source:
        frames = list(source)
    assert source.stills
    assert [(f.name, f.image[0, 0, 2], f.index) for f in frames] == [
        ("img2.png", 20, 0),
        ("img10.png", 100, 2),
        ("img11.png", 110, 3),
    ]
    assert frames[2].image.shape == (48, 64, 3)
    counted, skipped = capfd.readouterr().err.splitlines()
    assert ".txt 1" in counted and "img3.jpg" in skipped


def test_one_picture_is_a_source(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), picture(7))
    (frame,) = open_source(tmp_path / "a.png")
    assert frame.image[0, 0, 0] == 7 and frame.name == "a.png"
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"b\.png .*image: it is empty"):
        open_source(tmp_path / "b.png")


def test_a_folder_without_a_readable_picture_is_an_error(tmp_path):
    with pytest.raises(InputError, match="has no image"):
        open_source(tmp_path)
    for name in ("a.jpg", "a.png"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match="none of the 2 images"):
        list(open_source(tmp_path))


def test_an_image_that_is_too_large_is_an_error(tmp_path):
    path = tmp_path / "huge.ppm"
    path.write_bytes(b"P6 60000 60000 255\n" + bytes(64))
    with pytest.raises(InputError, match=r"huge\.ppm cannot be read as an image .*3600000000 pixels"):
        open_source(path)


def test_an_index_beyond_all_cameras_is_refused():
    with pytest.raises(InputError, match="99999999999"):
        open_source("99999999999")


def test_a_missing_source_lists_the_accepted_kinds():
    with pytest.raises(InputError, match=r"'nowhere.mp4' does not exist.*camera.*rtsp"):
        open_source("nowhere.mp4")


def test_a_camera_that_does_not_open_lists_working_cameras(cameras, monkeypatch):
    monkeypatch.setattr(camera.sys, "platform", "darwin")  # tries each index instead of listing /dev
    cameras += [Camera([], opens=False), Camera([picture(1)]), Camera([]), Camera([picture(1)])]
    with pytest.raises(InputError, match=r"camera 7 does not open\. .*: 0, 2"):
        open_source("7")
    with pytest.raises(InputError, match=r"No camera works: .*docs/live.md"):
        open_source("7")


def test_a_camera_without_frames_is_an_error(cameras):
    cameras.append(Camera([]))
    with pytest.raises(InputError, match=r"camera 0 opens but sends no frame.*Raspberry Pi.*docs/live\.md"):
        open_source("0")


def test_a_slow_reader_gets_the_newest_frame_and_the_drops_are_counted(cameras):
    cameras.append(Camera([picture(i) for i in range(200)], fps=25.0))
    with open_source("0") as source:
        frames = []
        for frame in source:
            frames.append(frame)
            time.sleep(0.02)  # the camera gives a frame about every 2 ms
            if len(frames) == 5:
                break
    assert (source.fps, source.live) == (25.0, True)
    assert [f.image[0, 0, 0] for f in frames] == [f.index for f in frames]
    assert frames[-1].index > 12 and frames[-1].dropped == frames[-1].index - 4
    assert all(b.time > a.time for a, b in itertools.pairwise(frames))


def test_a_lost_camera_is_reopened(cameras, capfd):
    first, second = Camera([picture(1), None, picture(2)]), Camera([picture(3)])
    cameras += [first, Camera([], opens=False), Camera([], opens=False), second]
    seen = []
    with open_source("0") as source:
        for frame in source:
            seen.append(int(frame.image[0, 0, 0]))
            if frame.image[0, 0, 0] == 3:
                break
    assert seen[0] == 1 and seen[-1] == 3
    lines = capfd.readouterr().err.splitlines()
    assert first.released and len(lines) == 2
    assert "camera 0 is disconnected" in lines[0] and "camera 0 is connected again after 0." in lines[1]


def test_a_stall_is_reported_once(cameras, capfd, monkeypatch):
    monkeypatch.setattr(camera, "STALL_SECONDS", 0.15)
    waits = []
    cameras.append(Camera([picture(1), lambda: time.sleep(0.5) or picture(2)]))
    with open_source("0", on_wait=lambda: waits.append(1)) as source:
        next(source), next(source)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and "no frame from camera 0" in lines[0] and "again after 0." in lines[1]
    assert len(waits) > 3


def test_empty_frames_are_skipped(cameras):
    cameras.append(Camera([np.empty((0, 0, 3), np.uint8), picture(5)]))
    with open_source("/dev/video3") as source:
        assert next(source).image[0, 0, 0] == 5


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="a device of Unix")
def test_any_character_device_is_a_camera(tmp_path, cameras, monkeypatch):
    asked, take = [], camera.cv2.VideoCapture
    monkeypatch.setattr(camera.cv2, "VideoCapture", lambda name, *_: asked.append(name) or take())
    (tmp_path / "by-id").mkdir()
    link = tmp_path / "by-id" / "usb-camera-index0"
    link.symlink_to("/dev/null")
    (tmp_path / "webcam").symlink_to(link)
    for name in (link, tmp_path / "webcam"):
        cameras.append(Camera([picture(5)]))
        with open_source(name) as source:
            assert source.live and next(source).image[0, 0, 0] == 5
    assert asked == [str(link), str(tmp_path / "webcam")]


@pytest.mark.parametrize("name", ["/dev/video97", "/dev/v4l/by-id/usb-unplugged-index0"])
def test_a_camera_that_is_unplugged_is_refused_as_a_camera(cameras, name):
    with pytest.raises(InputError, match=f"camera {name} does not open"):
        open_source(name)


def test_stop_ends_the_iteration_even_while_no_frame_comes(cameras):
    cameras.append(Camera([picture(1), lambda: time.sleep(0.6) or picture(2)]))
    source = open_source("0")
    threading.Timer(0.1, source.stop).start()
    start = time.monotonic()
    assert len(list(source)) == 1
    assert time.monotonic() - start < 1.0


class MotionJpeg(http.server.BaseHTTPRequestHandler):
    """Sends twenty frames as an IP camera does, then closes the connection."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        self.server.served += 1
        for _ in range(20):
            data = cv2.imencode(".jpg", picture(50 * self.server.served))[1].tobytes()
            part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
            self.wfile.write(part + data + b"\r\n")
            time.sleep(0.005)

    def log_message(self, *_):
        pass


class Download(http.server.BaseHTTPRequestHandler):
    """Sends one file."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(handler):
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_video_at_a_url_is_read_past_undecodable_frames(tmp_path, capfd):
    path = write_video(tmp_path / "v.mkv", frames=40, fourcc="mp4v")
    damage(path, 0, 20)
    with serving(Download) as server:
        server.content = path.read_bytes()
        with open_source(f"http://127.0.0.1:{server.server_port}/v.mkv") as source:
            assert not source.live and [f.index for f in source] == [i for i in range(40) if i not in (0, 20)]
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith(": 2 frames cannot be decoded: skipped")


def test_a_network_stream_is_read_and_reopened_when_the_sender_hangs_up(capfd):
    with serving(MotionJpeg) as server:
        server.served = 0
        with open_source(f"http://user:secret@127.0.0.1:{server.server_port}/video.mjpg") as source:
            for frame in source:
                if frame.image[0, 0, 0] > 80:  # the second connection's frames
                    break
    errors = capfd.readouterr().err
    assert source.live and "is disconnected" in errors and "is connected again" in errors and "secret" not in errors


@pytest.mark.parametrize(
    "address",
    [
        "me:secret@{}",
        "me:p@secret@{}",
        "me:p/secret@{}",
        "{}?user=me&pwd=secret",
        "{}#secret",
        "{};pwd=secret",
        "{}/user=me&password=secret&stream=0.sdp?",
    ],
)
def test_a_stream_that_does_not_open_is_one_line_without_its_password(capfd, address):
    with pytest.raises(InputError, match=r"rtsp://127.0.0.1:9/… does not open") as caught:
        open_source("rtsp://" + address.format("127.0.0.1:9/x"))
    assert "secret" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("start", ["rtsp:/", "RTSP:/", "srt:/", "https//", "rtsp;//"])
def test_an_address_that_is_mistyped_is_said_without_its_password(start):
    with pytest.raises(InputError, match="rtsp://camera/stream") as caught:
        open_source(f"{start}me:secret@camera/x")
    assert "secret" not in str(caught.value)

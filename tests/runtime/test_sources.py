"""Folders of images, cameras and streams as sources."""

import contextlib
import http.server
import itertools
import os
import threading
import time

import cv2
import numpy as np
import pytest

from ferjax.errors import InputError
from ferjax.runtime.sources import camera
from ferjax.runtime.sources.factory import open_source
from tests.support.videos import Camera, damage, picture, write_video


@pytest.fixture
def cameras(monkeypatch):
    """Returns a list of fake cameras: each opening takes the next entry."""
    queue = []
    monkeypatch.setattr(camera.cv2, "VideoCapture", lambda *_: queue.pop(0) if queue else Camera([], opens=False))
    monkeypatch.setattr(camera, "_FIRST_PAUSE", 0.02)
    return queue


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

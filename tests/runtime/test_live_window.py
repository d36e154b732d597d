"""The window of the live loop: keys, waits, signals."""

import os
import signal
import socket
import threading
import time

import cv2
import numpy as np
import pytest

from ferjax.data.synthetic.rendering import render_scene
from ferjax.runtime import live
from ferjax.runtime.show import snapshots, window
from ferjax.runtime.sources.frame import Frame, Source
from tests.support import processes
from tests.support.live_command import command


class Screen:
    """Fake OpenCV window functions; `keys` maps the number of shown frames to a key."""

    def __init__(self, keys):
        self.keys, self.shown, self.closed = dict(keys), [], False

    def install(self, monkeypatch):
        monkeypatch.setattr(window, "check_display", lambda: None)
        monkeypatch.setattr(window.cv2, "namedWindow", lambda *_: None)
        monkeypatch.setattr(window.cv2, "resizeWindow", lambda *_: None)
        monkeypatch.setattr(window.cv2, "imshow", lambda _, image: self.shown.append(image.copy()))
        monkeypatch.setattr(window.cv2, "waitKey", lambda _: self.keys.get(len(self.shown), -1))
        monkeypatch.setattr(window.cv2, "getWindowProperty", lambda *_: 0.0 if self.closed else 1.0)
        monkeypatch.setattr(window.cv2, "destroyAllWindows", lambda: None)


def test_keys_quit_and_save_a_picture(tmp_path, monkeypatch, model, clip, capfd):
    screen = Screen({3: ord("s"), 6: ord("q")})
    screen.install(monkeypatch)
    live.main(["--model", str(model), "--source", str(clip), "--snapshot", str(tmp_path)])
    assert len(screen.shown) == 6 and "6 frames" in capfd.readouterr().err
    first, last = sorted(tmp_path.iterdir())
    assert (first.name, last.name) == ("frame-000002.png", "frame-000005.png")
    np.testing.assert_array_equal(cv2.imread(str(first)), screen.shown[2])  # as drawn


def test_a_snapshot_requested_during_a_save_is_saved(tmp_path, monkeypatch, model, clip):
    keys = {3: ord("s"), 8: ord("q")}
    Screen(keys).install(monkeypatch)
    asked, write = [], snapshots.Snapshots.write

    def slow(saver, result):
        if not asked:
            asked.append(result.frame.index)
            os.kill(os.getpid(), signal.SIGUSR1)  # during the save
        write(saver, result)

    monkeypatch.setattr(snapshots.Snapshots, "write", slow)
    live.main(["--model", str(model), "--source", str(clip), "--snapshot", str(tmp_path)])
    assert [p.name for p in sorted(tmp_path.iterdir())] == [f"frame-00000{i}.png" for i in (2, 3, 7)]


def test_a_signal_ends_the_wait_for_a_key(tmp_path, monkeypatch, model, capfd):
    cv2.imwrite(str(tmp_path / "scene.png"), render_scene(seed=3, faces=1, size=(240, 320))[0][..., ::-1])
    screen = Screen({})
    screen.install(monkeypatch)
    monkeypatch.setattr(window.cv2, "waitKey", lambda _: (signal.raise_signal(signal.SIGTERM), -1)[1])
    live.main(["--model", str(model), "--source", str(tmp_path)])
    assert "1 frame," in capfd.readouterr().err


class SlowScreen(Screen):
    """A window whose waits take their time; `keys` is called for a key after each."""

    def install(self, monkeypatch):
        super().install(monkeypatch)
        self.waits = []

        def wait(milliseconds):
            self.waits.append(milliseconds)
            time.sleep(milliseconds / 1e3)
            return self.keys()

        monkeypatch.setattr(window.cv2, "waitKey", wait)

    def __init__(self, keys=lambda: -1):
        super().__init__({})
        self.keys = keys


def play(monkeypatch, times, fps):
    """Replaces the source by a film of frames at these times."""
    made = [Frame(np.zeros((48, 64, 3), np.uint8), at, i, 0) for i, at in enumerate(times)]
    monkeypatch.setattr(live, "open_source", lambda *_, **__: Source("film", iter(made), threading.Event(), fps=fps))


def test_a_jump_of_the_time_stamps_is_a_cut_and_not_a_wait(monkeypatch, model, capfd):
    SlowScreen().install(monkeypatch)
    play(monkeypatch, [0, 0.1, 0.2, 7200, 7200.1, 7200.2, 9000], fps=10.0)
    start = time.monotonic()
    live.main(["--model", str(model), "--source", "film"])
    assert "7 frames" in capfd.readouterr().err and 0.4 < time.monotonic() - start < 3


@pytest.mark.parametrize("way", ["q", signal.SIGINT, signal.SIGTERM])
def test_a_long_wait_listens_to_keys_and_signals(monkeypatch, model, capfd, way):
    began = []

    def pressed():
        began.append(time.monotonic())
        if began[-1] - began[0] < 0.2:
            return -1
        if way != "q":
            signal.raise_signal(way)
        return ord("q") if way == "q" else -1

    screen = SlowScreen(pressed)
    screen.install(monkeypatch)
    play(monkeypatch, [0, 10, 20], fps=0.1)
    live.main(["--model", str(model), "--source", "film"])
    assert "2 frames" in capfd.readouterr().err and max(screen.waits) <= 500
    assert time.monotonic() - began[0] < 1.2


def stalling_server(content):
    """Returns the port of a server that sends some bytes and then nothing, and the event of its first request."""
    server, asked = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def serve():
        with server, server.accept()[0] as client:
            client.recv(4096)
            client.sendall(content)
            asked.set()
            client.recv(4096)  # until the client hangs up

    threading.Thread(target=serve, daemon=True).start()
    return server.getsockname()[1], asked


@pytest.mark.parametrize("frames, number", [(0, signal.SIGINT), (30, signal.SIGINT), (30, signal.SIGTERM)])
def test_a_signal_ends_the_wait_for_a_sender(tmp_path, model, frames, number):
    log, film = tmp_path / "log.jsonl", tmp_path / "film.mkv"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 30.0, (320, 240))
    for _ in range(60):
        writer.write(np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8))
    writer.release()
    content, head = film.read_bytes(), b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % film.stat().st_size
    port, asked = stalling_server(head + content[: len(content) * 2 // 3] if frames else b"")
    source = ["--source", f"http://127.0.0.1:{port}/film.mkv", "--detector", "none"]
    process = processes.start(dict(os.environ), *command("--model", model, *source, "--log", log)[1:])
    assert asked.wait(60)
    while process.poll() is None and frames and (not log.exists() or log.read_text().count("\n") < frames):
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(number)
    start = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - start < 3.5 and "Traceback" not in errors  # on a busy computer; OpenCV waits 5 s
    assert process.returncode == (0 if frames else 130)


def test_closing_the_window_ends_the_loop(monkeypatch, model, clip, capfd):
    screen = Screen({})
    screen.install(monkeypatch)
    screen.closed = True
    live.main(["--model", str(model), "--source", str(clip)])
    assert "1 frame," in capfd.readouterr().err

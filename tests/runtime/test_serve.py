"""The page of the live loop: what is sent, when it starts and how it ends."""

import contextlib
import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.parse

import cv2
import numpy as np
import pytest

from ferjax.errors import InputError
from ferjax.runtime import live
from ferjax.runtime.serve import address, hub, server
from ferjax.runtime.serve.server import View
from ferjax.runtime.show.log import Log
from ferjax.runtime.sources.frame import Frame, Source
from tests.support.live_parts import NAMES, face, frame, result
from tests.support.processes import free_port
from tests.support.watching import NOISE, ask, connect, next_event, next_jpeg, picture, streaming


@pytest.mark.parametrize(
    "text, host, port",
    [
        ("8000", "localhost", 8000),
        ("0", "localhost", 0),
        ("0.0.0.0:80", "0.0.0.0", 80),
        ("pi.local:65535", "pi.local", 65535),
        ("[::1]:8000", "::1", 8000),
    ],
)
def test_addresses(text, host, port):
    assert address.parse(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    ["", "localhost", ":8000", "::1:8000", "[::1]", "65536", "-1", "8000.", "a b:1", "http://pi:8000", "８０００"],
)
def test_other_forms_of_an_address_are_refused(text):
    with pytest.raises(InputError, match=r"\[HOST:\]PORT"):
        address.parse(text)


LEFT_OPEN = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # by tornado, until it is collected


@LEFT_OPEN
@pytest.mark.parametrize("text", ["no.such.host.invalid:8000", "192.0.2.1:8000", "a" * 80 + ".x:8000"])
def test_an_address_of_another_machine_is_refused(text):
    with pytest.raises(InputError, match="--serve cannot listen at"):
        View(text, NAMES, stills=False)


@LEFT_OPEN
def test_a_taken_port_is_refused(view):
    with pytest.raises(InputError, match="Address already in use"):
        View(urllib.parse.urlsplit(view.url).netloc, NAMES, stills=False)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tornado", None)
    with pytest.raises(InputError, match=r"pip install 'ferjax\[serve\]'"):
        View("0", NAMES, stills=False)


@pytest.mark.parametrize("path", ["/", "/page.js", "/health", "/snapshot.png", "/events", "/picture.mjpeg", "/nowhere"])
def test_a_head_request_gets_the_headers_only(busy, path):
    with contextlib.closing(connect(busy)) as connection:
        connection.request("HEAD", path)
        answer = connection.getresponse()
        assert answer.status == (404 if path == "/nowhere" else 200) and answer.read() == b""
        connection.request("GET", "/health")  # on the same connection
        assert json.loads(connection.getresponse().read())["viewers"] == 0


def test_events_are_the_lines_of_the_log(tmp_path, view):
    with streaming(view, "/events") as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        name, model = next_event(stream)
        assert name == "model" and [each["name"] for each in model["classes"]] == list(NAMES)
        log = Log(str(tmp_path / "log.jsonl"), NAMES)
        for index in range(3):
            faces = [face(track, raw=(0.5, 0.25, 0.25)) for track in range(1, 1 + index)]
            shown = result(*faces, of=frame(index)._replace(name="\udcff<b>.png"))
            view.publish(shown)
            log.write(shown)
            while (event := next_event(stream))[0] == "status":
                pass
            entries = []
            while event[0] != "frame":
                entries.append(event[1])
                event = next_event(stream)
            assert event[1]["frame"] == index and event[1]["tracks"] == list(range(1, 1 + index))
            lines = (tmp_path / "log.jsonl").read_text().splitlines()
            assert entries == [json.loads(line) for line in lines[len(lines) - index :]]
        log.close()
        while (event := next_event(stream))[0] != "status":
            pass
        assert event[1]["frames"] == 3
        view.close()
        while (event := next_event(stream))[0] == "status":
            pass
        assert event == ("end", {}) and stream.read() == b""


def test_the_picture_is_the_drawn_frame(view):
    smooth = cv2.GaussianBlur(NOISE, (0, 0), 9)
    view.publish(result(of=picture(image=smooth)))
    with streaming(view, "/picture.mjpeg") as stream:
        shown = cv2.imdecode(np.frombuffer(next_jpeg(stream), np.uint8), cv2.IMREAD_COLOR)
        assert np.abs(shown.astype(int) - smooth).mean() < 3
        assert (
            stream.readline() == b"\r\n" and stream.readline() == b"--frame\r\n"
        )  # or browsers show it one frame late
        view.publish(result(of=picture(1, image=255 - smooth)))
        shown = cv2.imdecode(np.frombuffer(next_jpeg(stream), np.uint8), cv2.IMREAD_COLOR)
        assert np.abs(shown.astype(int) - (255 - smooth)).mean() < 3
        view.close()
        stream.read()  # the stream ends


@pytest.mark.parametrize(
    "name, file", [("", "frame-000007.png"), ("a ü.jpg", "a ü.jpg.png"), ("\udcff.png", "%FF.png")]
)
def test_a_snapshot_is_the_newest_frame(view, name, file):
    assert ask(view, "/snapshot.png")[0] == 503
    for index in (6, 7):
        view.publish(result(of=picture(index, image=NOISE + np.uint8(index))._replace(name=name)))
    status, headers, content = ask(view, "/snapshot.png")
    assert status == 200 and headers["Content-Type"] == "image/png"
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), NOISE + np.uint8(7))
    given = headers["Content-Disposition"].partition("''")[2]
    assert file in (urllib.parse.unquote(given), given)


def test_health_reports_missing_frames(monkeypatch, view):
    monkeypatch.setattr(hub, "STALL_SECONDS", 0.3)
    with View("0", NAMES, stills=False) as view, View("0", NAMES, stills=True) as stills:
        for each in (view, stills):
            each.start()
            status, _, content = ask(each, "/health")
            assert status == 503 and json.loads(content)["frames"] == 0
            each.publish(result(face(), face(2)))
            status, _, content = ask(each, "/health")
            assert status == 200 and json.loads(content)["status"] == "ok" and json.loads(content)["faces"] == 2
        time.sleep(0.4)
        assert ask(view, "/health")[0] == 503
        assert ask(stills, "/health")[0] == 200  # the last image stays


def test_a_picture_is_encoded_once_and_only_for_those_who_watch(monkeypatch, view):
    calls, encode = [], cv2.imencode

    def counted(*arguments):
        calls.append(threading.current_thread())
        return encode(*arguments)

    monkeypatch.setattr(cv2, "imencode", counted)
    for index in range(20):
        view.publish(result(of=picture(index)))
    with streaming(view, "/events") as events:
        next_event(events)
        view.publish(result(of=picture(20)))
        while next_event(events)[0] != "frame":
            pass
    assert calls == []
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(streaming(view, "/picture.mjpeg")) for _ in range(3)]
        for index in range(10):
            view.publish(result(of=picture(21 + index)))
            for stream in streams:
                next_jpeg(stream)
    assert 10 <= len(calls) <= 13 and threading.main_thread() not in calls


def test_a_slow_viewer_gets_fewer_frames_and_then_the_newest(view):
    with streaming(view, "/picture.mjpeg") as slow, streaming(view, "/events") as fast:
        for index in range(100):
            view.publish(result(of=picture(index)))
            while (event := next_event(fast))[0] != "frame":
                pass
            assert event[1]["frame"] == index  # a viewer that keeps up misses nothing
        view.publish(result(of=picture(100, np.zeros_like(NOISE))))
        received = 1
        while len(next_jpeg(slow)) > 20_000:  # noise
            received += 1
        assert received < 12


def test_viewers_do_not_delay_the_end(busy, capfd):
    with streaming(busy, "/picture.mjpeg"), streaming(busy, "/events") as events, streaming(busy, "/events"):
        for _ in range(30):
            next_event(events)
        start = time.monotonic()
        busy.close()
        assert time.monotonic() - start < 1
        while next_event(events)[0] != "end":
            pass
    assert capfd.readouterr().err == ""


def test_viewers_that_wait_for_a_picture_cause_no_message_at_the_end(view, monkeypatch, caplog):
    encode, until = cv2.imencode, threading.Event()
    monkeypatch.setattr(cv2, "imencode", lambda *arguments: until.wait(10) and encode(*arguments))
    (server_thread,) = (thread for thread in threading.enumerate() if thread.name == "ferjax server")
    with streaming(view, "/picture.mjpeg"), streaming(view, "/picture.mjpeg"):
        view.publish(result(of=picture()))
        view.close()
        until.set()
        server_thread.join(10)
    assert caplog.records == []


def play(monkeypatch, times, fps=10.0, *, stills=False):
    """Replaces the source by frames at these times."""
    made = [Frame(np.zeros((48, 64, 3), np.uint8), at, i, 0) for i, at in enumerate(times)]
    source = Source("film", iter(made), threading.Event(), fps=fps, stills=stills)
    monkeypatch.setattr(live, "open_source", lambda *_, **__: source)


def test_a_film_plays_in_real_time(monkeypatch, model, capfd):
    play(monkeypatch, [0, 0.2, 0.4, 0.6])
    times = []
    monkeypatch.setattr(server.View, "publish", lambda *_: times.append(time.monotonic()))
    live.main(["--model", str(model), "--serve", "0"])  # without a window
    assert 0.3 < times[-1] - times[0] < 5
    address, summary = capfd.readouterr().err.splitlines()
    assert address.startswith("ferjax: showing at http://localhost:") and "4 frames" in summary


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_last_image_stays_until_a_signal(monkeypatch, model, capfd, number):
    play(monkeypatch, [0, 1], stills=True)
    monkeypatch.setattr(live, "_SERVED_SECONDS", 0.2)
    port, seen = free_port(), []

    def watch():
        end = time.monotonic() + 20
        while len(seen) < 3 and time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/health")
                if json.loads(connection.getresponse().read())["frames"] == 2:
                    seen.append(time.monotonic())
                connection.close()
            time.sleep(0.3)
        os.kill(os.getpid(), number)
        seen.append(time.monotonic())

    watcher = threading.Thread(target=watch)
    watcher.start()
    live.main(["--model", str(model), "--serve", str(port), "--no-display"])
    assert time.monotonic() - seen[-1] < 1 and len(seen) == 4
    watcher.join()
    assert "2 frames" in capfd.readouterr().err


def test_a_log_that_cannot_be_opened_starts_no_server(monkeypatch, tmp_path, model, capfd):
    play(monkeypatch, [0])
    with pytest.raises(InputError, match=r"out\.txt"):
        live.main(["--model", str(model), "--serve", "0", "--log", str(tmp_path / "out.txt")])
    assert capfd.readouterr().err == ""

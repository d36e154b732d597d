"""The page of the live loop: who is answered, what is sent, and that no client holds up the loop."""

import contextlib
import http.client
import json
import os
import re
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
from ferjax.runtime.serve import address, answers, hub, server
from ferjax.runtime.serve.server import View
from ferjax.runtime.show.log import Log
from ferjax.runtime.sources.frame import Frame, Source
from tests.support import processes
from tests.support.live_command import command
from tests.support.live_parts import NAMES, face, frame, result
from tests.support.processes import free_port

NOISE = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)  # does not compress


@pytest.fixture
def view():
    with View("0", NAMES, stills=False) as view:
        view.start()
        yield view


def connect(view):
    return http.client.HTTPConnection("127.0.0.1", urllib.parse.urlsplit(view.url).port, timeout=20)


def ask(view, path, **headers):
    """Returns status, headers and content of a response."""
    with contextlib.closing(connect(view)) as connection:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


@contextlib.contextmanager
def streaming(view, path):
    """Yields the response of a stream."""
    with contextlib.closing(connect(view)) as connection:
        connection.request("GET", path)
        with connection.getresponse() as answer:
            yield answer


def picture(index=0, image=NOISE):
    return Frame(image, index / 30, index, 0)


def next_jpeg(stream):
    while not (line := stream.readline()).startswith(b"Content-Length"):
        assert line
    stream.readline()
    return stream.read(int(line.split()[1]))


def next_event(stream):
    """Returns the name and the data of the next event; the name of a log entry is empty."""
    name, line = "", stream.readline().decode()
    if line.startswith("event: "):
        name, line = line[7:-1], stream.readline().decode()
    assert line.startswith("data: ") and stream.readline() == b"\n"
    return name, json.loads(line[6:])


def keep_publishing(view, until):
    """Publishes noise at 100 frames a second in a thread until the event."""

    def run():
        index = 0
        while not until.wait(0.01):
            view.publish(result(face(), of=picture(index)))
            index += 1

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.fixture
def busy(view):
    """A view that gets frames all the time."""
    until = threading.Event()
    view.publish(result(of=picture()))
    thread = keep_publishing(view, until)
    yield view
    until.set()
    thread.join()


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


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_this_machine_needs_no_token(host):
    with View(f"{host}:0", NAMES, stills=False) as view:
        assert urllib.parse.urlsplit(view.url).path == "/"
        assert urllib.parse.urlsplit(view.url).netloc.startswith(f"{host}:")


def test_other_machines_need_the_printed_token(capfd):
    with View("0.0.0.0:0", NAMES, stills=False) as view:
        view.start()
        path = urllib.parse.urlsplit(view.url).path
        assert capfd.readouterr().err == f"ferjax: showing at {view.url}\n"
        assert len(path) > 20 and path[0] == path[-1] == "/"
        assert ask(view, path)[0] == ask(view, f"{path}page.js")[0] == 200
        assert ask(view, path[:-1])[1]["Location"] == path
        for wrong in ("/", "/events", "/x/events", f"{path[:-2]}/", f"/{path}", path.swapcase(), "/%C3%A9/"):
            status, _, content = ask(view, wrong)
            assert status == 403 and path[1:-1].encode() not in content
        with View("0.0.0.0:0", NAMES, stills=False) as other:
            assert urllib.parse.urlsplit(other.url).path != path


@pytest.mark.parametrize(
    "host, status",
    [
        ("localhost", 200),
        ("LOCALHOST:9999", 200),  # the port of a tunnel
        ("localhost.", 200),
        ("evil.example.", 403),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("192.168.1.5", 403),
        ("", 403),
        ("localhost, evil.example", 400),
        ("evil.example@localhost", 400),
    ],
)
def test_only_names_of_this_machine_are_answered(view, host, status):
    assert ask(view, "/", Host=host)[0] == status


def test_beyond_this_machine_addresses_and_its_names_are_answered():
    with View("0.0.0.0:0", NAMES, stills=False) as view:
        view.start()
        path = urllib.parse.urlsplit(view.url).path
        mine = socket.gethostname()
        for host in ("192.168.1.5", "[2001:db8::1]", mine, f"{mine}.local", "evil.example"):
            status = 403 if host == "evil.example" else 200
            assert ask(view, path, Host=host)[0] == status


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Origin": "http://localhost:1", "Host": "localhost:1"}, 200),
        ({"Origin": "http://localhost:2", "Host": "localhost:1"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Sec_Fetch_Site": "none"}, 200),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"}, 403),
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}, 403),
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}, 200),  # a link
    ],
)
def test_other_sites_may_link_but_not_read(view, headers, status):
    for path in ("/", "/snapshot.png", "/events", "/picture.mjpeg", "/health"):
        if status == 403 or path == "/":
            assert ask(view, path, **headers)[0] == status


def test_answers_forbid_other_sites_and_caches(view):
    for path in ("/", "/page.js", "/health", "/nowhere", "*", "nowhere", "http://localhost/nowhere"):
        headers = ask(view, path)[1]
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"
        assert not headers.get("Access-Control-Allow-Origin")


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/../../../../../../etc/passwd",
        "/..%2f..%2f..%2fetc/passwd",
        "/%2e%2e/hub.py",
        "/page/index.html",
        "//etc/passwd",
        "/..\\hub.py",
        "/page.js/../hub.py",
        "/page.js%00.png",
        "/hub.py",
        "http://localhost/etc/passwd",
        "*",
    ],
)
def test_no_file_of_the_device_is_reachable(view, path):
    assert ask(view, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "X"])
def test_requests_change_nothing(view, method):
    with contextlib.closing(connect(view)) as connection:
        connection.request(method, "/health")
        assert connection.getresponse().status in (400, 405)


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


def test_too_many_viewers_are_refused(view):
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(streaming(view, "/picture.mjpeg" if i % 2 else "/events"))
            for i in range(answers.MAX_VIEWERS)
        ]
        assert {stream.status for stream in streams} == {200}
        for path in ("/events", "/picture.mjpeg"):
            status, _, content = ask(view, path)
            assert status == 503 and b"viewers" in content
        assert ask(view, "/")[0] == 200
    end = time.monotonic() + 10
    while json.loads(ask(view, "/health")[2])["viewers"]:  # those who left are noticed, also without a frame
        assert time.monotonic() < end


def test_two_hundred_connections_are_limited_and_the_loop_is_unharmed(busy):
    with contextlib.ExitStack() as stack:
        port = urllib.parse.urlsplit(busy.url).port
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(200)]
        time.sleep(0.3)
        refused = 0
        for client in clients:
            client.settimeout(0.001)
            with contextlib.suppress(TimeoutError):
                refused += client.recv(1) == b""
        assert refused == 200 - server.MAX_CONNECTIONS
        before = time.perf_counter()
        busy.publish(result(of=picture()))
        assert time.perf_counter() - before < 0.1
    status, end = 0, time.monotonic() + 10
    while not status and time.monotonic() < end:  # refused until it has noticed that a client left
        with contextlib.suppress(ConnectionError):
            status = ask(busy, "/health")[0]
    assert status == 200


def send(view, data):
    """Sends bytes and returns what comes back until the server hangs up."""
    with socket.create_connection(("127.0.0.1", urllib.parse.urlsplit(view.url).port), timeout=20) as client:
        answer = b""
        with contextlib.suppress(ConnectionError):  # it hangs up before it has read everything
            client.sendall(data)
            while part := client.recv(65536):
                answer += part
        return answer


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"a" * (10 << 20) + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * (10 << 18) + b"\r\n",
        b"GET /" + b"a" * (10 << 20) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n" + b"a" * 99999,
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",  # TLS
    ],
    ids=["header", "headers", "line", "length", "chunks", "no host", "TLS"],
)
def test_malformed_and_oversized_requests_are_refused(busy, data, caplog):
    answer = send(busy, data)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(ask(busy, "/health")[2])["status"] == "ok"
    assert caplog.records == []  # a message for each would fill the log of the device


@pytest.mark.slow
def test_a_client_that_sends_nothing_is_dropped(view):
    start = time.monotonic()
    assert send(view, b"GET / HTTP/1.1\r\n") == b""
    assert time.monotonic() - start < 15


def test_a_client_that_reads_nothing_is_dropped(monkeypatch, busy):
    monkeypatch.setattr(answers, "SEND_SECONDS", 0.3)
    with streaming(busy, "/picture.mjpeg") as stream:
        assert json.loads(ask(busy, "/health")[2])["viewers"] == 1
        end = time.monotonic() + 10
        while json.loads(ask(busy, "/health")[2])["viewers"]:
            assert time.monotonic() < end
            time.sleep(0.05)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            stream.read()


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


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_goes_on_under_attack_and_ends_at_once(tmp_path, model, number):
    film, port = tmp_path / "film.avi", free_port()
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 30.0, (320, 240))
    for _ in range(1800):
        writer.write(NOISE[:240, :320])
    writer.release()
    options = ["--model", model, "--source", film, "--serve", port, "--detector", "none"]
    process = processes.start(dict(os.environ), *command(*options, no_display=False)[1:])
    assert process.stderr.readline() == f"ferjax: showing at http://localhost:{port}/\n"

    def attack():
        requests = (b"GET /picture.mjpeg", b"GET /events", b"GET /snapshot.png", b"")
        for i in range(150):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            with contextlib.suppress(OSError):  # refused, or not read
                client.settimeout(0.1)
                client.sendall(requests[i % 4] + b" HTTP/1.1\r\nHost: localhost\r\n\r\n" * bool(requests[i % 4]))
                if i % 10 == 0:
                    client.sendall(b"a" * (10 << 20))

    with contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        attack()
        time.sleep(3)
        process.send_signal(number)
        start = time.monotonic()
        code, _, errors = processes.end(process)
        assert code == 0 and time.monotonic() - start < 3  # on a busy computer
        (summary,) = errors.splitlines()
        assert int(re.search(r"(\d+) frames", summary)[1]) > 45

"""The page of the live loop: who is answered, and that no client harms the loop."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import time
import urllib.parse

import cv2
import pytest

from ferjax.runtime.serve import answers, server
from ferjax.runtime.serve.server import View
from tests.support import processes
from tests.support.live_command import command
from tests.support.live_parts import NAMES, result
from tests.support.processes import free_port
from tests.support.watching import NOISE, ask, connect, picture, streaming


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

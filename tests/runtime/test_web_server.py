"""The server of the page."""

import http.client
import threading

import pytest

from ferjax.errors import InputError
from ferjax.runtime.web import server


@pytest.fixture
def running(tmp_path):
    folder = tmp_path / "page"
    (folder / "litert").mkdir(parents=True)
    for name in ("index.html", "app.js", "litert/runtime.wasm", "model.tflite"):
        (folder / name).write_text(name)
    (tmp_path / "secret.txt").write_text("secret")
    with server.create(folder, 0) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(running, path="/", *, host=None, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", running.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    if host != "":
        connection.putheader("Host", host or f"localhost:{running.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


@pytest.mark.parametrize(
    "path, kind",
    [
        ("/", "text/html"),
        ("/app.js", "text/javascript"),
        ("/litert/runtime.wasm", "application/wasm"),
        ("/model.tflite", "application/octet-stream"),
    ],
)
def test_a_file_has_its_type_and_the_headers_of_isolation(running, path, kind):
    answer, body = ask(running, path)
    assert answer.status == 200 and body and answer.getheader("Content-Type") == kind
    assert answer.getheader("Cross-Origin-Opener-Policy") == "same-origin"
    assert answer.getheader("Cross-Origin-Embedder-Policy") == "require-corp"
    assert "connect-src 'self'" in answer.getheader("Content-Security-Policy")
    assert answer.getheader("X-Content-Type-Options") == "nosniff"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "[::1]"])
def test_another_host_name_is_refused(running, host):
    answer, body = ask(running, host=host)
    assert answer.status == 421 and b"index.html" not in body


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "localhost:9000"])
def test_this_computer_is_accepted_at_any_port(running, host):
    assert ask(running, host=host)[0].status == 200


@pytest.mark.parametrize("path", ["/../secret.txt", "/%2e%2e/secret.txt", "//../secret.txt", "/litert/", "/missing"])
def test_nothing_outside_of_the_page_and_no_list_is_served(running, path):
    answer, body = ask(running, path)
    assert answer.status in (301, 404) and b"secret" not in body and b"runtime" not in body


def test_other_methods_are_refused(running):
    assert ask(running, method="POST")[0].status == 501


def test_it_listens_on_this_computer_only(running):
    assert running.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("port", ["used", -1, 70000])
def test_a_port_that_cannot_be_had_is_one_line(running, tmp_path, port):
    with pytest.raises(InputError, match="--port"):
        server.create(tmp_path, running.server_port if port == "used" else port)

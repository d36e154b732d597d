import hashlib
import http.server
import threading

import pytest

from ferjax.errors import InputError
from ferjax.runtime import fetch
from ferjax.runtime.faces import detector

MODEL = b"a detector's weights" * 100


class Handler(http.server.BaseHTTPRequestHandler):
    asked: list

    def do_GET(self):
        self.asked.append(self.path)
        if self.path == "/missing":
            self.send_error(404)
            return
        body = {"/wrong": MODEL[::-1], "/broken": MODEL[:500]}.get(self.path, MODEL)
        self.send_response(200)
        self.send_header("Content-Length", str(len(MODEL)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    Handler.asked = []
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{running.server_port}"
    model = fetch.Download(f"{address}/yunet", "yunet.onnx", hashlib.sha256(MODEL).hexdigest())
    monkeypatch.setattr(fetch, "MODELS", {"yunet": model})
    monkeypatch.setenv("FERJAX_MODELS", str(tmp_path / "models"))
    yield address
    running.shutdown()
    thread.join()
    running.server_close()


def fetched(tmp_path):
    return sorted(path.name for path in (tmp_path / "models").glob("*")) if (tmp_path / "models").exists() else []


def test_a_model_is_downloaded_once(server, tmp_path, capsys):
    path = fetch.fetch("yunet")
    assert path.read_bytes() == MODEL and path == fetch.cached("yunet")
    assert fetched(tmp_path) == ["yunet.onnx"]
    assert fetch.fetch("yunet") == path
    assert Handler.asked == ["/yunet"]
    assert "exists already" in capsys.readouterr().err


def test_a_damaged_cached_model_is_downloaded_again(server, tmp_path):
    path = fetch.fetch("yunet")
    path.write_bytes(MODEL[:100])
    assert fetch.fetch("yunet").read_bytes() == MODEL


@pytest.mark.parametrize(
    "path, message",
    [
        ("/wrong", "SHA-256"),
        ("/broken", "after 500 bytes"),
        ("/missing", "404|Not Found"),
    ],
)
def test_an_invalid_download_is_discarded(server, tmp_path, path, message):
    with pytest.raises(InputError, match=message):
        fetch.fetch("yunet", url=server + path)
    assert fetched(tmp_path) == []
    with pytest.raises(InputError, match="fetch yunet"):
        fetch.cached("yunet")


def test_a_failed_download_keeps_the_cached_file(server, tmp_path, monkeypatch):
    kept = fetch.fetch("yunet")
    newer = fetch.MODELS["yunet"]._replace(digest="0" * 64)
    monkeypatch.setattr(fetch, "MODELS", {"yunet": newer})
    with pytest.raises(InputError, match="000000"):
        fetch.fetch("yunet")
    assert kept.read_bytes() == MODEL and fetched(tmp_path) == ["yunet.onnx"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/yunet", "nonsense", "file:///no/such/file"])
def test_a_failed_download_names_detector_model(server, url):
    with pytest.raises(InputError, match="--detector-model"):
        fetch.fetch("yunet", url=url)


def test_an_unknown_model_is_an_error():
    for call in (fetch.fetch, fetch.cached):
        with pytest.raises(InputError, match="Did you mean 'yunet'"):
            call("yunett")


def test_the_command_prints_the_path(server, capsys):
    fetch.main(["yunet", "--url", f"{server}/mirror"])
    assert capsys.readouterr().out.strip() == str(fetch.cached("yunet"))
    assert Handler.asked == ["/mirror"]


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("FERJAX_MODELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch.cache_dir() == tmp_path / "ferjax" / "models"


def test_the_real_model_is_pinned():
    model = fetch.MODELS["yunet"]
    assert model.url.startswith("https://github.com/opencv/opencv_zoo/") and model.url.endswith(model.file)
    assert len(bytes.fromhex(model.digest)) == 32
    assert detector.DETECTORS[1] == "yunet"

"""The folder of the page, and the commands that write and serve it."""

import base64
import hashlib
import http.client
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading

import pytest

from ferjax import spec
from ferjax.errors import InputError
from ferjax.export import commands as export_commands
from ferjax.runtime import shipped
from ferjax.runtime.web import commands, litert, page
from tests.support import ROOT, processes, small_files


@pytest.fixture
def source(tmp_path, monkeypatch):
    """The page's source with a runtime of a few bytes, which is in the cache."""
    folder, cache = tmp_path / "source", tmp_path / "cache"
    shutil.copytree(ROOT / "web", folder)
    cache.mkdir()
    packages = {}
    for name, files in litert.FILES.items():
        blob = io.BytesIO()
        with tarfile.open(fileobj=blob, mode="w:gz") as archive:
            for member in files:
                archive.addfile(tarfile.TarInfo(member), io.BytesIO())
        file = f"{name.rpartition('/')[2]}-1.0.0.tgz"
        (cache / f"litertjs-{file}").write_bytes(blob.getvalue())
        digest = base64.b64encode(hashlib.sha512(blob.getvalue()).digest()).decode()
        packages[f"node_modules/{name}"] = {
            "version": "1.0.0",
            "resolved": f"http://127.0.0.1:9/{file}",
            "integrity": f"sha512-{digest}",
            "license": "Apache-2.0",
        }
    (folder / "package-lock.json").write_text(json.dumps({"packages": packages}))
    monkeypatch.setenv("FERJAX_MODELS", str(cache))
    monkeypatch.setattr(page, "source_folder", lambda: folder)
    return cache


def test_a_page_has_the_model_its_spec_and_all_that_it_loads(source, tmp_path):
    out = tmp_path / "page"
    page.write(out, "mini_xception", detector="none")
    file = shipped.find("mini_xception")
    assert (out / "model.tflite").read_bytes() == file.read_bytes()
    assert spec.ModelSpec.from_json((out / "spec.json").read_text()) == spec.read(file)
    named = re.findall(r'(?:src|href)="([^"]+)"', (out / "index.html").read_text())
    for script in out.glob("*.js"):
        named += re.findall(r'(?:from |fetch\(|openEngine\(|register\()"([^"]+)"', script.read_text())
    named = {name for name in named if not name.startswith("@")} - {"yunet.tflite"}
    assert len(named) > 15 and [name for name in named if not (out / name).is_file()] == []
    assert "Apache-2.0" in (out / "licenses.txt").read_text()


def test_the_page_has_the_constants_of_the_loop(source, tmp_path):
    page.write(tmp_path / "page", "mini_xception", detector="none")
    found = json.loads((tmp_path / "page" / page.MARK).read_text())
    assert found["smoother"]["window"] == 10 and found["labeler"]["hysteresis"] == 0.15 and found["loop"]["rate"] == 10
    assert found["limits"]["confidence"] == 0.4 and found["tracker"]["time_to_live"] == 1.5
    assert found["colors"]["happy"] == "#f0e442" and set(found["colors"]) == {
        *spec.read(shipped.find("mini_xception")).class_names,
        "uncertain",
    }


def test_the_threshold_of_a_calibrated_model_is_used(source, tmp_path):
    file = shutil.copyfile(shipped.find("mini_xception"), tmp_path / "calibrated.tflite")
    spec.embed(file, spec.read(file).replace(abstention_threshold=0.55))
    page.write(tmp_path / "page", file, detector="none")
    assert json.loads((tmp_path / "page" / page.MARK).read_text())["limits"]["confidence"] == 0.55


def test_the_policy_allows_the_import_map(tmp_path):
    text = (ROOT / "web" / "index.html").read_text()
    written = re.search(r'<script type="importmap">(.*?)</script>', text, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(written.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in text and "default-src 'none'" in text and "unsafe-inline" not in text


@pytest.mark.parametrize(
    "options, message",
    [
        ({"model": "nonsense"}, "resnet20"),
        ({"detector": "haar"}, "yunet, none"),
        ({"detector": "yunet"}, "fetch yunet"),
        ({"detector": "yunet", "detector_model": "no/such/file"}, "not a file"),
        ({"detector": "none", "detector_model": __file__}, "no model"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_leaves_nothing(source, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        page.write(tmp_path / "page", **{"model": "mini_xception", "detector": "none", **options})
    assert not (tmp_path / "page").exists()


def test_an_onnx_file_is_refused(source, tmp_path):
    file = small_files.onnx_file(tmp_path / "linear.onnx")
    with pytest.raises(InputError, match=r"give the \.tflite"):
        page.write(tmp_path / "page", file, detector="none")


def test_a_folder_is_replaced_only_if_it_is_a_page_and_asked_for(source, tmp_path):
    out = tmp_path / "page"
    page.write(out, "mini_xception", detector="none")
    with pytest.raises(InputError, match="--overwrite"):
        page.write(out, "resnet20", detector="none")
    page.write(out, "resnet20", detector="none", overwrite=True)
    assert (out / "model.tflite").read_bytes() == shipped.find("resnet20").read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("text")
    with pytest.raises(InputError, match="not a page"):
        page.write(other, "mini_xception", detector="none", overwrite=True)
    assert (other / "thesis.txt").exists()
    (out / "thesis.txt").write_text("text")
    with pytest.raises(InputError, match="also contains thesis"):
        page.write(out, "mini_xception", detector="none", overwrite=True)


def test_a_runtime_that_cannot_be_downloaded_names_its_place(source, tmp_path):
    for path in source.iterdir():
        path.unlink()
    with pytest.raises(InputError, match=re.escape(f"copy it to {source}")):
        page.write(tmp_path / "page", "mini_xception", detector="none")
    assert not (tmp_path / "page").exists()


def test_export_writes_the_page_of_a_file(source, tmp_path, capsys):
    out = tmp_path / "page"
    export_commands.main(["--model", "mini_xception", "--format", "web", "--detector", "none", "--out", str(out)])
    assert (out / "index.html").is_file() and f"ferjax web {out}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--format", "web", "onnx"], "another --out"),
        (["--format", "web", "--detector", "none", "--quantization", "int8"], "trained network"),
        (["--format", "web", "--detector", "none", "--batch", "4"], "trained network"),
    ],
)
def test_export_refuses_what_a_page_does_not_take(source, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        export_commands.main(["--model", "mini_xception", "--out", str(tmp_path / "page"), *arguments])


def test_the_command_serves_a_page_until_it_is_interrupted(source, tmp_path):
    page.write(tmp_path / "page", "mini_xception", detector="none")
    process = processes.start(processes.environment(tmp_path), "-m", "ferjax", "web", tmp_path / "page", "--port", "0")
    guard = threading.Timer(60, process.kill)
    guard.start()
    try:
        port = int(re.search(r"localhost:(\d+)", process.stdout.readline())[1])
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/spec.json")
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGINT)
        assert processes.end(process)[0] == 0
    finally:
        guard.cancel()
        process.kill()


@pytest.mark.parametrize("arguments, message", [(["."], "not a page"), ([".", "--model", "resnet20"], "finished page")])
def test_the_command_refuses_another_folder(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        commands.main(arguments)


def test_a_page_without_opencv_names_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['cv2'] = None; from ferjax.__main__ import main; "
        f"main(['export', '--model', 'resnet20', '--format', 'web', '--out', {str(tmp_path / 'page')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "pip install 'ferjax[export,live]'" in done.stderr

import csv
import errno
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ferjax.errors import InputError
from ferjax.runtime.show.log import Log
from tests.support.live_parts import NAMES, face, frame, result

P, RAW = (0.7, 0.2, 0.1), (0.123456789, 0.5, 0.376543211)


def written(log, *results):
    for one in results:
        log.write(one)
    log.close()


def test_jsonl_has_one_object_per_face_and_frame(tmp_path):
    path = tmp_path / "out.jsonl"
    both = result(face(1, p=P, raw=RAW), face(2, (5, 6, 7, 8), p=P), of=frame(7))
    written(Log(str(path), NAMES), both, result(of=frame(8)), result(face(1), of=frame(9)))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["frame"], line["track"]) for line in lines] == [(7, 1), (7, 2), (9, 1)]
    assert list(lines[0]) == [
        "time",
        "frame",
        "track",
        "box",
        "label",
        "confidence",
        "probabilities",
        "raw_probabilities",
        "latency_ms",
    ]
    assert lines[0]["time"] == round(7 / 30, 4) and lines[1]["box"] == [5, 6, 7, 8]
    assert lines[0]["probabilities"] == dict(zip(NAMES, P, strict=True)) and lines[0]["label"] == "angry"
    np.testing.assert_allclose(list(lines[0]["raw_probabilities"].values()), RAW, rtol=1e-6)
    assert lines[1]["raw_probabilities"] is None
    assert lines[0]["latency_ms"] == {"capture": 1.0, "detect": 2.0, "classify": 3.0, "draw": 4.0}


def test_csv_has_the_fields_as_columns(tmp_path):
    path = tmp_path / "out.csv"
    written(Log(str(path), NAMES), result(face(1, p=P, raw=RAW), face(2, (5, 6, 7, 8), p=P), of=frame(7)))
    first, second = csv.DictReader(path.read_text().splitlines())
    assert (first["frame"], first["track"], second["x"], second["height"]) == ("7", "1", "5", "8")
    assert first["label"] == "angry" and float(first["probability_happy"]) == 0.2
    assert float(first["raw_probability_angry"]) == pytest.approx(RAW[0], rel=1e-6)
    assert second["raw_probability_angry"] == "" and first["latency_ms_classify"] == "3.0"
    assert None not in first and None not in first.values()  # as many cells as columns


def test_the_log_names_images(tmp_path):
    written(Log(str(tmp_path / "a.jsonl"), NAMES), result(face(), of=frame()._replace(name="me.png")))
    assert json.loads((tmp_path / "a.jsonl").read_text())["image"] == "me.png"


def test_a_log_may_be_standard_output(capsys):
    written(Log("-", NAMES), result(face()))
    assert json.loads(capsys.readouterr().out)["label"] == "angry"


@pytest.mark.parametrize("name, said", [("out.txt", r"out.txt.*FILE.jsonl, FILE.csv"), ("no/out.csv", "folder")])
def test_an_invalid_log_path_is_an_error(tmp_path, name, said):
    with pytest.raises(InputError, match=said):
        Log(str(tmp_path / name), NAMES)


def test_a_full_disk_ends_the_log_with_one_message(tmp_path, capfd):
    log = Log(str(tmp_path / "out.jsonl"), NAMES)
    log.write(result(face()))

    class Full(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        close = flush  # closing a file flushes its buffer

    log._file.close()
    log._file = Full()
    written(log, result(face()), result(face()))
    (line,) = capfd.readouterr().err.splitlines()
    assert "out.jsonl ends here: No space left" in line
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_a_full_disk_leaves_complete_log_lines(tmp_path):
    path = tmp_path / "out.jsonl"
    script = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "import sys; from tests.support import live_parts as parts; from ferjax.runtime.show.log import Log;"
        "log = Log(sys.argv[1], parts.NAMES);"
        "[log.write(parts.result(parts.face())) for _ in range(40)]; log.close()"
    )
    there = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], env=there, capture_output=True, text=True, check=True
    )
    assert done.stderr.count("out.jsonl ends here") == 1
    lines = path.read_text().splitlines()
    assert 1 < len(lines) < 40 and all(json.loads(line)["label"] for line in lines)


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_a_log_has_one_writer(tmp_path):
    path = tmp_path / "out.jsonl"
    log = Log(str(path), NAMES)
    log.write(result(face(1), of=frame(1)))
    before = path.read_bytes()
    with pytest.raises(InputError, match="another process writes the log"):
        Log(str(path), NAMES)
    assert path.read_bytes() == before
    log.close()
    Log(str(path), NAMES).close()
    assert path.read_bytes() == b""
    (tmp_path / "link.jsonl").symlink_to(path)
    written(Log(str(tmp_path / "link.jsonl"), NAMES), result(face(1), of=frame(1)))
    assert path.read_bytes() == before and (tmp_path / "link.jsonl").is_symlink()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes in folders there")
def test_a_log_may_be_a_pipe(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.jsonl")
    reader = os.open(tmp_path / "pipe.jsonl", os.O_RDONLY | os.O_NONBLOCK)
    written(Log(str(tmp_path / "pipe.jsonl"), NAMES), *(result(face(1), of=frame(i)) for i in range(3)))
    assert os.read(reader, 1 << 16).count(b"\n") == 3 and capsys.readouterr().err == ""
    os.close(reader)


def test_a_log_on_a_closed_standard_output_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(InputError, match="standard output"):
        Log("-", NAMES)


def test_file_names_that_are_not_utf8_are_escaped(tmp_path):
    of = frame(0)._replace(name=os.fsdecode(b"caf\xe9.png"))
    for kind in ("csv", "jsonl"):
        written(Log(str(tmp_path / f"log.{kind}"), NAMES), result(face(1, p=P, raw=RAW), of=of))
    assert r",caf\udce9.png," in (tmp_path / "log.csv").read_text()
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert os.fsencode(line["image"]) == b"caf\xe9.png"


def test_a_log_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Log("~nobody-of-this-name.jsonl", NAMES).close()
    assert (tmp_path / "~nobody-of-this-name.jsonl").exists()

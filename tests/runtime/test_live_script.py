"""The command `live.py`: outputs, signals, wrong input."""

import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from benchmarks.speed import live_process
from ferjax.__main__ import run
from ferjax.data.synthetic.rendering import render_scene
from ferjax.errors import InputError
from ferjax.runtime import live
from ferjax.runtime.result import FaceResult, Latency, Result
from ferjax.runtime.show import window
from ferjax.runtime.sources.frame import Frame
from tests.support import small_files
from tests.support.live_command import command


def run_live(*arguments, no_display=True, **environment):
    done = subprocess.run(
        command(*arguments, no_display=no_display),
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )
    return done


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder_of_images_is_logged(tmp_path, model):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in (3, 4):
        image, _, _ = render_scene(seed=seed, faces=1, size=(240, 320))
        cv2.imwrite(str(folder / f"scene{seed}.png"), image[..., ::-1])
    out, shots = tmp_path / "out.jsonl", tmp_path / "shots"
    done = run_live("--model", model, "--source", folder, "--log", out, "--snapshot", shots, "--detect-scale", 1)
    assert done.returncode == 0 and done.stdout == ""
    lines = lines_of(out)
    assert {line["image"] for line in lines} == {"scene3.png", "scene4.png"}
    assert len({line["track"] for line in lines}) == len(lines)
    assert sorted(p.name for p in shots.iterdir()) == ["scene3.png", "scene4.png"]
    assert (
        "ferjax: 2 frames, " in done.stderr
        and " fps, " in done.stderr
        and " CPU " in done.stderr
        and " MB" in done.stderr
    )


def test_a_video_is_recorded_and_logged(tmp_path, model, clip):
    record, log = tmp_path / "out.mp4", tmp_path / "out.csv"
    done = run_live("--model", model, "--source", clip, "--record", record, "--log", log)
    assert done.returncode == 0, done.stderr
    video = cv2.VideoCapture(str(record))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 30 and video.get(cv2.CAP_PROP_FPS) == 30
    assert video.read()[1][-6:, :60].mean() < 60  # the status line
    video.release()
    assert 25 <= len(log.read_text().splitlines()) <= 31
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "out.mp4"]


def test_smoothing_options_are_applied(tmp_path, model, clip):
    logs = {}
    asked = ["--model", str(model), "--source", str(clip), "--no-display", "--smooth", "300"]
    for kind in ("mean", "exponential"):
        logs[kind] = tmp_path / f"{kind}.jsonl"
        live.main([*asked, "--smoothing", kind, "--log", str(logs[kind])])
    lines = [line for line in lines_of(logs["mean"]) if line["track"] == 1]
    answers = [line["raw_probabilities"] for line in lines if line["raw_probabilities"]]
    assert len(answers) > 5
    for label, average in lines[-1]["probabilities"].items():
        assert average == pytest.approx(np.mean([answer[label] for answer in answers]), abs=2e-6)
    assert lines_of(logs["exponential"])[-1]["probabilities"] != lines[-1]["probabilities"]


def test_nothing_is_stored_unless_asked(tmp_path, model, clip):
    done = subprocess.run(command("--model", model, "--source", clip), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and list(tmp_path.iterdir()) == []


def test_snapshots_do_not_replace_the_source_images(tmp_path, model, capfd):
    picture = tmp_path / "scene.png"
    cv2.imwrite(str(picture), render_scene(seed=3, faces=1, size=(240, 320))[0][..., ::-1])
    before = picture.read_bytes()
    for source in (tmp_path, picture):
        with pytest.raises(InputError, match=r"--snapshot .* would replace the source"):
            live.main(["--model", str(model), "--source", str(source), "--snapshot", str(tmp_path), "--no-display"])
    assert picture.read_bytes() == before


@pytest.mark.parametrize("output", ["--record", "--log"])
def test_outputs_do_not_replace_the_source_video(tmp_path, model, clip, output):
    film = tmp_path / ("film.avi" if output == "--record" else "film.csv")
    film.write_bytes(clip.read_bytes())
    with pytest.raises(InputError, match=f"{output} .* would replace the source"):
        live.main(["--model", str(model), "--source", str(film), output, str(film), "--no-display"])
    assert film.read_bytes() == clip.read_bytes()


def test_a_log_is_kept_if_the_command_fails(tmp_path, model, clip):
    log = tmp_path / "out.jsonl"
    log.write_text("of yesterday\n")
    with pytest.raises(InputError, match=r"x\.foo"):
        live.main(
            ["--model", str(model), "--source", str(clip), "--log", str(log), "--record", "x.foo", "--no-display"]
        )
    assert log.read_text() == "of yesterday\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_standard_output_ends_the_log_and_not_the_loop(model, clip):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("--model", model, "--source", clip, "--log", "-"), stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 0 and "the log - ends here: No space left" in done.stderr and "30 frames" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)])
def test_a_signal_ends_the_loop_and_closes_the_files(tmp_path, model, number):
    long, record = tmp_path / "long.avi", tmp_path / "out.mp4"
    writer = cv2.VideoWriter(str(long), cv2.VideoWriter.fourcc(*"MJPG"), 30.0, (64, 48))
    for _ in range(20000):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    process = subprocess.Popen(
        command("--model", model, "--source", long, "--record", record), stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list(tmp_path.glob(".out.*.part.mp4")):
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and len(errors.splitlines()) == 1 and " fps, " in errors
    video = cv2.VideoCapture(str(record))
    assert 1 <= video.get(cv2.CAP_PROP_FRAME_COUNT) < 20000
    video.release()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["long.avi", "out.mp4"]


def test_the_summary_counts_shown_tracks(model):
    shown = [FaceResult(track, (0, 0, 9, 9), "happy", 1.0, {"happy": 1.0}, None) for track in (6, 6, 9)]
    summary = live._Summary()
    for face in shown:  # track ids have gaps, as unconfirmed tracks use ids too
        summary.add(Result(Frame(np.zeros((9, 9, 3), np.uint8), 0.0, 0, 0), 0.0, [face], Latency(0.0, 0.0, 0.0)))
    assert "3 frames, " in summary.line() and " 2 faces, " in summary.line()


def test_a_closed_log_pipe_is_no_traceback(model, clip):
    process = subprocess.Popen(
        command("--model", model, "--source", clip, "--log", "-"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert json.loads(process.stdout.readline())["label"]
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) in (0, 1)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--source", "nowhere.mp4"), "'nowhere.mp4' does not exist"),
        (("--source", "97"), "camera 97 does not open"),
        (("--model", "nowhere.tflite"), "nowhere.tflite"),
        (("--frames", "0"), "--frames must be at least 1"),
        (("--camera-size", "big"), "--camera-size must be WIDTHxHEIGHT"),
        (("--log", "out.txt"), "out.txt"),
        (("--record", "out.gif"), "out.gif"),
        (("--log", ""), "--log is empty"),
        (("--snapshot", ""), "--snapshot is empty"),
        (("--threshold", "2"), "threshold"),
        (("--serve", "pi.local"), "[HOST:]PORT"),
        (("--serve", ""), "[HOST:]PORT"),
        (("--detector", "yunet", "--detector-model", "nowhere.onnx"), "nowhere.onnx"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, monkeypatch, model, clip, arguments, said, capfd):
    monkeypatch.chdir(tmp_path)
    given = {"--model": str(model), "--source": str(clip)} | dict(zip(arguments[::2], arguments[1::2], strict=True))
    with pytest.raises(SystemExit) as stopped:
        run("live", [*(part for pair in given.items() for part in pair), "--no-display"])
    (line,) = capfd.readouterr().err.splitlines()
    assert stopped.value.code == 2 and said in line and list(tmp_path.iterdir()) == []


def test_a_model_without_spec_is_refused(tmp_path, clip):
    path = small_files.onnx_file(tmp_path / "plain.onnx", small_files.GRAY, embed=False)
    done = run_live("--model", path, "--source", clip)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "plain.onnx" in done.stderr


def test_a_missing_display_is_a_one_line_error(model, clip):
    done = run_live("--model", model, "--source", clip, no_display=False, DISPLAY="")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "--no-display" in done.stderr


@pytest.mark.parametrize("display", ["", ":7765", "nonsense", "127.0.0.1:2999"])
def test_an_unreachable_display_is_an_error(monkeypatch, display):
    monkeypatch.setattr(window.sys, "platform", "linux")
    monkeypatch.setattr(window.cv2, "getBuildInformation", lambda: "  GUI:           QT5\n")
    monkeypatch.setenv("DISPLAY", display)
    with pytest.raises(InputError, match="--no-display"):
        window.check_display()


def test_the_headless_opencv_is_named(monkeypatch):
    monkeypatch.setattr(window.cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    with pytest.raises(InputError, match=r"headless build.*--no-display.*ferjax\[live\]"):
        window.Window()


def test_the_first_result_comes_without_heavy_imports(model, clip):
    script = (
        "import sys; from ferjax.runtime import live; "
        f"live.main(['--model', {str(model)!r}, '--source', {str(clip)!r}, '--no-display', '--frames', '1']); "
        "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"cv2", "numpy"} <= loaded
    assert not loaded & {"jax", "jaxlib", "flax", "tensorflow", "torch", "matplotlib", "scipy"}


@pytest.mark.slow
def test_memory_stays_flat(model):
    seen = live_process.soak(500, model=str(model), warmup=150)
    assert seen["frames"] == 500 and 0 < seen["own_mb"] < 100 and abs(seen["growth_mb"]) < 3

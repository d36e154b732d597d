"""One, two and eight simulated devices, and two processes, train alike, end together, and go on."""

import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.support import ROOT, scale

pytestmark = pytest.mark.timeout(1200)
LIMIT = 1000  # seconds, for a process that hangs; none is meant to need it


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment without the accelerators, clusters and settings of whoever runs the tests."""
    folder = tmp_path_factory.mktemp("scale")
    known = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    return known | {
        "FERJAX_DATA": str(folder / "data"),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def simulated(environment, devices):
    flags = f"{environment['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return environment | {"XLA_FLAGS": flags}


def start(environment, *arguments):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    """Returns exit code, standard output and error of a process; kills one that hangs."""
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    return process.returncode, out, err


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def assert_same(history, expected, *, relative):
    assert [row["epoch"] for row in history] == [row["epoch"] for row in expected]
    for row, other in zip(history, expected, strict=True):
        assert row == pytest.approx(other, rel=relative, abs=relative)


@pytest.fixture(scope="module")
def found(environment, tmp_path_factory):
    """What `scale.py devices` wrote: histories and arrays by name."""
    folder = tmp_path_factory.mktemp("devices")
    code, _, err = end(start(simulated(environment, 8), "tests/support/scale.py", "devices", folder))
    assert code == 0, err
    with np.load(folder / "results.npz") as arrays:
        return json.loads((folder / "results.json").read_text()), dict(arrays)


@pytest.mark.parametrize("count", [2, 8])
def test_float64_losses_of_twenty_steps_are_those_of_one_device(found, count):
    rows, _ = found
    one = rows["devices1"]
    assert len(one) == scale.STEPS and len({row["train_loss"] for row in one}) == scale.STEPS
    assert_same(rows[f"devices{count}"], one, relative=1e-9)


@pytest.mark.parametrize("count", [2, 8])
def test_float32_gradients_of_a_step_are_those_of_one_device(found, count):
    _, arrays = found
    one, many = arrays["gradient1"], arrays[f"gradient{count}"]
    assert one.dtype == np.float32 and np.abs(one).max() > 1e-2
    assert np.linalg.norm(many - one) < 1e-5 * np.linalg.norm(one)
    assert np.abs(many - one).max() < 1e-5 * np.abs(one).max()


@pytest.mark.parametrize("count", [2, 8])
def test_normalisation_takes_its_statistics_over_the_batch_of_all_devices(found, count):
    _, arrays = found
    names = [name for name in arrays if name.startswith("statistics") and name.endswith("_1")]
    assert len(names) == 2  # mean and variance
    for name in names:
        np.testing.assert_allclose(arrays[name.replace("_1", f"_{count}")], arrays[name], rtol=1e-9)


def test_each_image_is_scored_once_by_eight_devices(found):
    _, arrays = found
    assert arrays["logits1"].shape == (len(scale.VALIDATION["labels"]), len(scale.CLASSES))
    assert len(scale.VALIDATION["labels"]) % 8 and len(np.unique(arrays["logits1"], axis=0)) > 1
    np.testing.assert_allclose(arrays["logits8"], arrays["logits1"], rtol=1e-6)


def test_a_run_saved_on_eight_devices_goes_on_on_two(found):
    rows, _ = found
    assert_same(rows["moved"], rows["devices1"][:6], relative=1e-9)


def test_micro_batches_are_the_same_on_eight_devices(found):
    rows, _ = found
    assert_same(rows["accumulated8"], rows["accumulated1"], relative=1e-9)
    assert rows["accumulated1"][0]["train_loss"] != rows["devices1"][0]["train_loss"]  # statistics of a micro-batch


@pytest.fixture(scope="module")
def pair(environment):
    """Starts two processes that train together, with folders of their own, the first's to be shared by all starts."""
    started = []

    def pair(workdir, *pause):
        port = free_port()
        both = [
            start(environment, "tests/support/scale.py", "process", number, port, workdir / str(number), *pause)
            for number in (0, 1)
        ]
        started.extend(both)
        return both

    yield pair
    for process in started:
        process.kill()
        process.wait()


def wait_for(process, line):
    for said in process.stdout:
        if said.strip() == line:
            return
    pytest.fail(f"the process ended before it said {line!r}: {process.stderr.read()}")


@pytest.fixture(scope="module")
def two(pair, found, tmp_path_factory):
    """A run of two processes that was killed twice: what every start of it ended with."""
    workdir, ends = tmp_path_factory.mktemp("two"), []
    for pause, killed in ((3, 1), (6, 0)):
        both = pair(workdir, pause)
        wait_for(both[0], f"epoch {pause}")
        both[killed].send_signal(signal.SIGKILL)
        ends.append(end(both[1 - killed]))
        both[killed].communicate()
    ends.append([end(process) for process in pair(workdir)])
    return workdir, ends


@pytest.mark.parametrize("killed", [1, 0])
def test_a_process_that_is_killed_ends_the_other_with_a_clear_message(two, killed):
    _, ends = two
    code, _, err = ends[0 if killed == 1 else 1]
    assert code == 2, err
    last = err.strip().splitlines()[-1]
    assert last == (
        f"ferjax: error: process {killed} of 2 was killed or cannot be reached any more; all processes end. "
        "The same command, in all of them, continues the run"
    )
    assert "Traceback" not in err and "Check failure" not in err


def test_the_pair_goes_on_and_has_the_losses_of_one_device(two, found):
    workdir, ends = two
    for code, _, err in ends[2]:
        assert code == 0, err
    rows = [json.loads(line) for line in (workdir / "0" / "metrics.jsonl").read_text().splitlines()]
    assert_same(rows, found[0]["devices1"], relative=1e-9)
    noted = [json.loads(line)["epoch"] for line in (workdir / "0" / "timing.jsonl").read_text().splitlines()]
    assert noted == list(range(1, scale.STEPS + 1))  # nothing was lost and nothing done twice


def test_the_first_process_alone_speaks_and_writes(two):
    workdir, ends = two
    (_, first, _), (_, second, _) = ends[2]
    assert first.count("epoch") > 10 and "epoch" not in second
    assert sorted(p.name for p in workdir.iterdir()) == ["0"]
    assert list((workdir / "0" / "profile").rglob("*.xplane.pb"))


SMALL = [
    *("--config", "configs/baseline_cnn3.py:demo"),
    *("--config.data.size=24", "--config.data.train=64", "--config.data.validation=21", "--config.data.test=7"),
    *("--config.augment.rotate=0", "--config.augment.translate=0", "--config.augment.erase=0"),
    *("--config.fit.batch_size=16", "--config.fit.epochs=1"),
]


def train(environment, *arguments):
    return start(environment, "train.py", *SMALL, *arguments)


def test_train_py_takes_all_devices_micro_batches_bfloat16_and_a_trace(environment, tmp_path):
    more = ["--config.fit.accumulate=2", "--config.model.dtype=bfloat16", "--profile"]
    code, out, err = end(train(simulated(environment, 4), "--workdir", tmp_path / "run", *more))
    assert code == 0, err
    assert "devices: 4 devices (cpu)" in out and "peak memory of this process: " in out
    (timing,) = [json.loads(line) for line in (tmp_path / "run" / "timing.jsonl").read_text().splitlines()]
    assert timing["peak_device_bytes"] > 1e8
    assert "the trace of 1 dispatch is in" in err
    assert list((tmp_path / "run" / "profile").rglob("*.trace.json.gz"))


def test_a_batch_that_the_devices_cannot_share_is_one_line(environment, tmp_path):
    code, _, err = end(train(simulated(environment, 3), "--workdir", tmp_path / "run"))
    last = err.strip().splitlines()[-1]
    assert code == 2 and last == (
        "ferjax: error: fit.batch_size=16 cannot be split evenly over 3 devices: set fit.batch_size to 15 or 18, "
        "or use --devices 2"
    )


def test_processes_with_different_configurations_both_say_so(environment, tmp_path):
    flags = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes=2"]
    both = [
        train(environment, *flags, f"--process-id={i}", f"--workdir={tmp_path / str(i)}", f"--config.fit.seed={i}")
        for i in (0, 1)
    ]
    ends = [end(process) for process in both]
    for code, _, err in ends:
        last = err.strip().splitlines()[-1]
        assert code == 2 and "process 1 has another configuration than process 0 (hashes " in last, err
        assert "fit.seed is 1 there and 0 here" in last and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_coordinator_that_is_not_there_is_one_line(environment, tmp_path):
    flags = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes=2", "--process-id=1", "--join-seconds=0.5"]
    code, _, err = end(train(environment, *flags, "--workdir", tmp_path / "run"))
    last = err.strip().splitlines()[-1]
    assert code == 2 and "cannot be reached" in last and "for 0.5 s. Is process 0 running there" in last
    assert "Check failure" not in err

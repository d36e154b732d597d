"""One, two and eight simulated devices, and two processes, train alike, end together, and go on."""

import json
import signal
import time

import jax
import numpy as np
import pytest

from ferjax.train import distributed, run_folder
from tests.support import processes, scale
from tests.support.processes import end, free_port, last_line, start

pytestmark = [pytest.mark.timeout(1200), pytest.mark.slow]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return processes.environment(tmp_path_factory.mktemp("scale"))


def simulated(environment, devices):
    flags = f"{environment['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return environment | {"XLA_FLAGS": flags}


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

    def pair(workdir, epochs, *pause):
        port = free_port()
        both = [
            start(environment, "tests/support/scale.py", "process", number, port, workdir / str(number), epochs, *pause)
            for number in (0, 1)
        ]
        started.extend(both)
        return both

    yield pair
    for process in started:
        process.kill()
        process.communicate()


def wait_for(process, line):
    for said in process.stdout:
        if said.strip() == line:
            return
    pytest.fail(f"the process ended before it said {line!r}: {process.stderr.read()}")


def rows_of(folder, name="metrics.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_two_processes_train_as_one_device_and_one_goes_on(pair, tmp_path):
    ends = [end(process) for process in pair(tmp_path, 5)]
    for code, _, err in ends:
        assert code == 0, err
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    assert list((tmp_path / "0" / "profile").rglob("*.xplane.pb"))
    with jax.enable_x64(True):
        expected, _ = scale.unsaved(tmp_path / "one", epochs=7)
        rows = rows_of(tmp_path / "0")
        assert_same(rows, expected[:5], relative=1e-9)
        assert_same(scale.fit(tmp_path / "0", epochs=7).history, expected, relative=1e-9)
    (_, first, _), (_, second, _) = ends
    assert "epoch 5\n" in first and "epoch" not in second


@pytest.fixture(scope="module")
def two(pair, tmp_path_factory):
    """A run of two processes that was killed twice: its folder, and what every start of it ended with."""
    workdir, ends = tmp_path_factory.mktemp("two"), []
    for pause, killed in ((3, 1), (6, 0)):
        both = pair(workdir, scale.STEPS, pause)
        wait_for(both[0], f"epoch {pause}")
        both[killed].send_signal(signal.SIGKILL)
        ends.append(end(both[1 - killed]))
        both[killed].communicate()
    ends.append([end(process) for process in pair(workdir, scale.STEPS)])
    return workdir, ends


@pytest.mark.slow
def test_a_process_that_is_killed_ends_process_0_with_one_line(two):
    _, ((code, _, err), *_) = two
    assert code == 2 and last_line(err).startswith("ferjax: error: another process has ended"), err
    assert "Traceback" not in err and "Check failure" not in err


@pytest.mark.slow
def test_process_0_that_is_killed_ends_the_other(two):
    _, (_, (code, _, err), _) = two
    ours, jax_own = "another process has ended", "Terminating process because the JAX distributed service"
    assert (code == 2 and ours in err) or (code == -signal.SIGABRT and jax_own in err), err


@pytest.mark.slow
def test_the_pair_goes_on_and_has_the_losses_of_one_device(two, found):
    workdir, ends = two
    for code, _, err in ends[2]:
        assert code == 0, err
    assert_same(rows_of(workdir / "0"), found[0]["devices1"], relative=1e-9)
    epochs = [row["epoch"] for row in rows_of(workdir / "0", "timing.jsonl")]
    assert epochs == list(range(1, scale.STEPS + 1))  # nothing was lost and nothing done twice


@pytest.mark.slow
def test_a_silent_process_ends_the_others_after_the_heartbeat(pair, tmp_path):
    both = pair(tmp_path, scale.STEPS, 3)
    wait_for(both[0], "epoch 3")
    both[1].send_signal(signal.SIGSTOP)  # as a machine that lost its power: its connections stay open
    before = time.monotonic()
    code, _, err = end(both[0])
    assert code == -signal.SIGABRT and "stopped sending heartbeats" in err, err
    assert time.monotonic() - before < 3 * distributed.HEARTBEAT


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
    assert "trace of 1 dispatch:" in err
    assert list((tmp_path / "run" / "profile").rglob("*.trace.json.gz"))


def test_a_batch_that_the_devices_cannot_share_is_one_line(environment, tmp_path):
    code, _, err = end(train(simulated(environment, 3), "--workdir", tmp_path / "run"))
    assert code == 2 and last_line(err) == (
        "ferjax: error: fit.batch_size=16 cannot be split evenly over 3 devices: set fit.batch_size to 15 or 18, "
        "or use --devices 2"
    )


def test_processes_with_different_configurations_both_say_so(environment, tmp_path):
    flags = ["--coordinator", f"localhost:{free_port()}", "--num_processes=2"]
    both = [
        train(environment, *flags, f"--process_id={i}", f"--workdir={tmp_path / str(i)}", f"--config.fit.seed={i}")
        for i in (0, 1)
    ]
    for code, _, err in map(end, both):
        assert code == 2 and "process 1 has another configuration than process 0" in last_line(err), err
        assert "fit.seed is 1 in process 1 and 0 in process 0" in last_line(err) and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_workdir_that_process_0_cannot_take_is_one_line_in_all(environment, tmp_path):
    flags = ["--coordinator", f"localhost:{free_port()}", "--num_processes=2", f"--workdir={tmp_path}"]
    with run_folder.locked(tmp_path):
        both = [train(environment, *flags, f"--process_id={i}") for i in (0, 1)]
        for code, _, err in map(end, both):
            assert code == 2 and f"process 0: another process is training in {tmp_path}" in last_line(err), err


def test_a_coordinator_that_is_not_there_is_one_line(environment, tmp_path):
    flags = ["--coordinator", f"localhost:{free_port()}", "--num_processes=2", "--process_id=1", "--join_seconds=0.5"]
    code, _, err = end(train(environment, *flags, "--workdir", tmp_path / "run"))
    assert code == 2 and "cannot be reached" in last_line(err) and "within 0.5 s" in last_line(err), err
    assert "Check failure" not in err

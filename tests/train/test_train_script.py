"""The front door as a user meets it: one clear line and exit 2 on every mistake, and a run that survives kill -9."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from ferjax.__main__ import main
from tests.support import ROOT
from tests.support.resuming import files

DEMO = ["--config", "configs/resnet20.py:demo"]
QUICK = ["--config", "configs/baseline_cnn3.py:demo"]  # its step is traced and compiled in seconds
FEW = [
    *("--config.data.size=24", "--config.data.train=320"),
    *("--config.data.validation=70", "--config.data.test=7"),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment with its own data.

    It has settings of JAX that a user may have for code of their own; they must not reach the command.
    """
    folder = tmp_path_factory.mktemp("home")
    return {
        **os.environ,
        "FERJAX_DATA": str(folder / "data"),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_TRANSFER_GUARD": "disallow",
    }


def command(*arguments):
    return [sys.executable, "train.py", *map(str, arguments)]


def run(environment, *arguments, **more):
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment, capture_output=True, text=True, check=False, **more
    )


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--config"),
        (["--config", "configs/resnet21.py"], "unknown configuration 'configs/resnet21.py'"),
        (["--config", "configs/resnet20.py:dmo"], "Did you mean 'demo'"),
        ([*DEMO, "--config.fit.epoch=3"], "Did you mean 'epochs'"),
        ([*QUICK, *FEW, "--config.model.act=relu6"], "unknown argument of baseline_cnn3 'act'"),
        ([*DEMO, "--config.data.siez=64"], "unknown option of synthetic_faces 'siez'. Did you mean 'size'"),
        ([*DEMO, "--config.fti.epochs=3"], "Did you mean 'fit'"),
        ([*DEMO, "--config.fit.epochs=many"], "many"),
        ([*DEMO, "--wrokdir=x"], "workdir"),
        ([*DEMO, "extra"], "unexpected argument 'extra'"),
        (["--config", "configs/resnet20.py"], "configs/resnet20.py:demo"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(arguments, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", *arguments, "--workdir", str(tmp_path / "run")] if arguments else ["train"])
    said_all = capsys.readouterr().err
    last = said_all.splitlines()[-1]
    assert stopped.value.code == 2 and last.startswith("ferjax: error: ") and said in last
    assert "Traceback" not in said_all
    assert not (tmp_path / "run").exists()


def test_help_says_how_to_use_it(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--help"])
    said = capsys.readouterr().out
    assert stopped.value.code == 0 and "--config resnet18" in said and "--workdir" in said


SMALL = [
    *QUICK,
    *FEW,
    *("--config.fit.epochs=24", "--config.fit.checkpoint_minutes=0.01"),
]


def wait_for_a_save(workdir, process):
    """Waits until the newest state on disk is another one than at the call, or the process has ended."""
    newest = lambda: max((p.name for p in (workdir / "last").glob("*") if p.name.isdigit()), default="")  # noqa: E731
    before = newest()
    while newest() == before and process.poll() is None:
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_demo_run_killed_at_ten_random_moments_resumes_to_the_bit(environment, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(environment, *SMALL, "--workdir", whole).returncode == 0
    moments, kills = random.Random(0), 0
    while kills < 10:
        process = subprocess.Popen(
            command(*SMALL, "--workdir", cut),
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if kills % 5 == 4:  # twice before it has done anything new, while it imports, restores or compiles
            time.sleep(moments.uniform(0.0, 3.0))
        else:
            wait_for_a_save(cut, process)
            time.sleep(moments.uniform(0.0, 0.4))
        assert process.poll() is None, "the run ended before it could be killed ten times: make it longer"
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    done = run(environment, *SMALL, "--workdir", cut)
    assert done.returncode == 0 and "resuming" in done.stderr, done.stderr
    assert files(cut) == files(whole)
    assert not list(cut.rglob("*tmp*"))


@pytest.mark.slow
def test_a_full_disk_stops_with_one_line_and_keeps_what_was_saved(environment, tmp_path):
    # No file may grow over 200 kB: the arrays of the state do not fit, the metrics do.
    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); "
    program = f"{limit}sys.argv = ['train.py', *sys.argv[1:]]; runpy.run_path('train.py', run_name='__main__')"
    small = [*SMALL, "--workdir", str(tmp_path / "run")]
    first = [a if "epochs" not in a else "--config.fit.epochs=2" for a in small]
    environment = {k: v for k, v in environment.items() if not k.startswith("JAX_COMP")}  # its files are large too
    done = subprocess.run(
        [sys.executable, "-c", program, *first], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert last.startswith("ferjax: error: cannot save the checkpoint") and "repeat the command" in last
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run").rglob("*tmp*"))
    again = run(environment, *first)
    assert again.returncode == 0, again.stderr
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_truncated_newest_checkpoint_is_said_and_stepped_over(environment, tmp_path):
    two = [a if "epochs" not in a else "--config.fit.epochs=2" for a in SMALL]
    assert run(environment, *two, "--workdir", tmp_path / "whole").returncode == 0
    cut = shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    newest = max((cut / "last").iterdir())
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])
    done = run(environment, *two, "--workdir", cut)
    assert done.returncode == 0, done.stderr
    assert f"{newest} is damaged" in done.stderr
    assert files(cut) == files(tmp_path / "whole")
    rows = [json.loads(line) for line in (cut / "metrics.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in rows] == [1, 2]

"""Processes that tests start: how they are started and how they end."""

import os
import signal
import socket
import subprocess
import sys

from tests.support import ROOT

LIMIT = 1000  # seconds for a process that hangs


def environment(folder):
    """Returns an environment without the accelerators, clusters and settings of whoever runs the tests."""
    known = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "JAX_COORDINATOR_"))}
    return known | {
        "FERJAX_DATA": str(folder / "data"),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def start(environment, *arguments):
    """Starts Python with arguments, in the repository's root, where Ctrl-C is not ignored as below a shell's `&`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def end(process):
    """Returns exit code, standard output and error of a process; kills one that hangs."""
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    return process.returncode, out, err


def last_line(text):
    """Returns the last line of an output."""
    return text.strip().splitlines()[-1]


def free_port():
    """Returns a port of this machine at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]

"""Connects the processes of a run, compares their configurations, and broadcasts values of process 0.

A thin layer over `jax.distributed` and `jax.experimental.multihost_utils`. Every process runs the same command on its
own devices. Only process 0 writes files and prints.
"""

import concurrent.futures
import contextlib
import errno
import ipaddress
import json
import math
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from flax import traverse_util
from jax.experimental import multihost_utils

from ferjax import cli, errors

HEARTBEAT = 30  # seconds without a heartbeat until JAX treats a process as dead; JAX's default is 100
_GRACE = 1.0  # seconds: process 0 runs JAX's service and exits last, so that the others can print their own error
_COUNTS = {"SLURM_STEP_NODELIST": "SLURM_NTASKS", "OMPI_MCA_orte_hnp_uri": "OMPI_COMM_WORLD_SIZE"}

T = TypeVar("T")


@contextlib.contextmanager
def joined(
    coordinator: str | None = None, count: int | None = None, number: int | None = None, *, seconds: float = 300.0
) -> Iterator[None]:
    """Connects this process with the others of its run; does nothing for a single process.

    Enter it once, before JAX initializes its devices. An error inside the context ends the program with one line and
    exit code 2 (Ctrl-C: 130), because JAX's regular exit waits for processes that have ended, and aborts.

    Args:
      coordinator: --coordinator, HOST:PORT of process 0. Without the first three arguments JAX detects the cluster.
      count: --num_processes; a value of 1 disables the detection.
      number: --process_id, from 0.
      seconds: --join_seconds, how long to wait for the other processes.

    Raises:
      InputError: if the arguments are incomplete or out of range, or process 0 cannot listen at its port.
    """
    detected = coordinator is None and count is None and number is None
    if (detected and not _in_cluster()) or (count == 1 and not number):
        yield
        return
    options = {} if detected else _options(coordinator, count, number)
    last = False
    try:
        _join(options, seconds)
        agree("command", {"num_processes": count})  # also connects the devices, which detects dead processes early
        last = is_first()
        yield
        sys.stdout.flush()
        jax.distributed.shutdown()  # waits for the others
    except BaseException as error:
        _exit(error, last=last)


def is_first() -> bool:
    """Returns whether this is process 0, or the only process."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line in process 0."""
    if is_first():
        print(text, flush=True)


def value_of_first(value: Any) -> Any:
    """Returns process 0's value, a JSON value, in every process."""
    return value if jax.process_count() == 1 else json.loads(_gather(json.dumps(value))[0])


def arrays_of_first(tree: Any) -> Any:
    """Returns process 0's arrays bit for bit in every process; the trees have equal structure, shapes and dtypes."""
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    # As bytes: the broadcast is a sum, which turns -0.0 into 0.0 and has no float64 unless JAX computes in it.
    whole = multihost_utils.broadcast_one_to_all(np.frombuffer(b"".join(leaf.tobytes() for leaf in leaves), np.uint8))
    parts = np.split(whole, np.cumsum([leaf.nbytes for leaf in leaves])[:-1])
    arrays = [part.copy().view(leaf.dtype).reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, arrays)


def all_or_none(function: Callable[[], T]) -> T:
    """Calls a function in every process; if it raises InputError or OSError in one, raises InputError in all."""
    if jax.process_count() == 1:
        return function()
    problem = ""
    try:
        result = function()
    except (errors.InputError, OSError) as error:
        problem = errors.explain(error)
    for number, found in enumerate(_gather(problem)):
        if found:
            _raise_everywhere(f"process {number}: {found}")
    return result


def agree(what: str, values: Mapping[str, Any]) -> None:
    """Compares values, such as a resolved configuration, with those of the other processes.

    Raises InputError in every process if one differs from process 0; names it and the first difference.
    """
    texts = _gather(json.dumps(values, sort_keys=True, default=str))
    odd = next((number for number, text in enumerate(texts) if text != texts[0]), None)
    if odd is None:
        return
    here, there = (traverse_util.flatten_dict(json.loads(texts[number]), sep=".") for number in (0, odd))
    key = next(k for k in sorted(here.keys() | there.keys()) if here.get(k, ()) != there.get(k, ()))
    _raise_everywhere(
        f"process {odd} has another {what} than process 0: {key} is {there.get(key, 'not set')} in process {odd} and "
        f"{here.get(key, 'not set')} in process 0; start all processes with the same command and the same data"
    )


def _in_cluster() -> bool:
    """Returns whether the environment variables describe several processes, for JAX's cluster detection."""
    several = any(name in os.environ and os.environ.get(count, "1") != "1" for name, count in _COUNTS.items())
    # `import jax` sets this on a TPU VM; TensorFlow sets another value on every machine.
    return several or os.environ.get("TPU_ML_PLATFORM") == "JAX"


def _options(coordinator: str | None, count: int | None, number: int | None) -> dict[str, Any]:
    """Returns the arguments of `jax.distributed.initialize` for the three flags."""
    if coordinator is None or count is None or number is None:
        given = {"--coordinator": coordinator, "--num_processes": count, "--process_id": number}
        missing = " and ".join(name for name, value in given.items() if value is None)
        raise errors.InputError(
            f"{missing} is missing: several processes need --coordinator HOST:PORT, --num_processes and --process_id; "
            "under Slurm and on TPU pods, omit all three"
        )
    if not 0 <= number < count:
        raise errors.InputError(f"--process_id must be in 0..{count - 1} for --num_processes {count}, got {number}")
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdigit() and 0 < int(port) < 1 << 16):
        raise errors.InputError(f"--coordinator must be HOST:PORT, such as 10.0.0.1:12345, got {coordinator!r}")
    bind = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS") or (coordinator if _is_address(host) else f"[::]:{port}")
    if number == 0:
        _check_free(bind)
    return {
        "coordinator_address": coordinator,
        "num_processes": count,
        "process_id": number,
        "coordinator_bind_address": bind,
        "cluster_detection_method": "deactivate",
    }


def _is_address(host: str) -> bool:
    """Returns whether to listen at this host only; a host name may resolve to another address on its own machine."""
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host.strip("[]")))
    return host == "localhost"


def _check_free(bind: str) -> None:
    """Checks that process 0 can listen at its port; otherwise JAX ends with a segmentation fault (jax 0.10)."""
    host, _, port = bind.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
            raise errors.InputError(
                f"process 0 cannot listen at {bind} ({os.strerror(error.errno)}): set --coordinator in all processes "
                "to an address of this machine and a free port"
            ) from error


def _join(options: Mapping[str, Any], seconds: float) -> None:
    """Connects to JAX's coordination service, which runs in process 0; without options JAX detects the cluster."""
    jax.config.update("jax_enable_preemption_service", False)  # it intercepts SIGTERM
    # In a thread: Ctrl-C does not interrupt JAX's call, and at its own timeout JAX aborts with a stack trace.
    joining = concurrent.futures.ThreadPoolExecutor(1).submit(
        jax.distributed.initialize,
        initialization_timeout=math.ceil(seconds) + 60,
        heartbeat_timeout_seconds=HEARTBEAT,
        **options,
    )
    try:
        joining.result(seconds)
    except TimeoutError:
        raise errors.InputError(
            f"the processes did not connect within {seconds:g} s; {_reason(options)}: start all of them, each with its "
            "own --process_id and the same --coordinator and --num_processes, or increase --join_seconds"
        ) from None
    except (RuntimeError, ValueError) as error:
        if options:
            raise
        raise errors.InputError(f"no other process found: {error}; --num_processes 1 trains alone") from error
    # JAX assigns one GPU to each Slurm task. A task uses all visible GPUs if it is the only one on its machine, or if
    # it sees only its own (--gpus-per-task).
    alone = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0] == "1"
    if not options and (alone or os.environ.get("CUDA_VISIBLE_DEVICES", ",").count(",") == 0):
        for kind in ("cuda", "rocm"):
            jax.config.update(f"jax_{kind}_visible_devices", "all")


def _reason(options: Mapping[str, Any]) -> str:
    """Returns why the processes did not connect, as far as known."""
    if not options:
        return "some processes of the detected cluster are missing"
    address = options["coordinator_address"]
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        return f"the coordinator {address} cannot be reached ({error.strerror or error})"
    return f"not all {options['num_processes']} processes connected to {address}"


def _gather(text: str) -> list[str]:
    """Returns the text of every process, ordered by process id."""
    payload = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(payload.size))
    width = 1 << int(sizes.max()).bit_length()  # a power of two: each width compiles a program
    rows = multihost_utils.process_allgather(np.pad(payload, (0, width - payload.size)))
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def _raise_everywhere(message: str) -> NoReturn:
    """Disconnects, then raises; all processes have to call it."""
    jax.distributed.shutdown()
    raise errors.InputError(message)


def _exit(error: BaseException, *, last: bool) -> NoReturn:
    """Ends the program immediately: one line for expected errors, a traceback for bugs."""
    code = 2
    if isinstance(error, KeyboardInterrupt):
        cli.note(cli.RESUMES)
        code = 130
    elif isinstance(error, errors.InputError | OSError):
        cli.note(f"error: {errors.explain(error)}")
    elif "Gloo" in str(error):
        cli.note(
            "error: another process has ended or cannot be reached: read its output; run the same command in all "
            "processes to resume"
        )
    else:
        traceback.print_exception(error)
        code = 1
    time.sleep(_GRACE if last else 0)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed
            stream.flush()
    os._exit(code)

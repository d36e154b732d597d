"""Several processes that train together: how they find each other, agree, and end together.

Every process runs the same program on its own devices; the numbers meet in JAX's collectives. Here is the rest: the
roll-call, the comparison of configurations, what process 0 alone decides, and the end of all when one of them dies.

JAX's client of its coordination service ends the process with a stack trace (`LOG(FATAL)`, exit code 134) when the
service cannot be reached or goes away, before Python can say a word. So processes call each other over a line of our
own first, which says who is missing, and reach the service through a tunnel that does not break when it does.
"""

import contextlib
import hashlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from ferjax import cli, line

_GRACE = 1.0  # seconds for a process that stops by itself to say why
_line: line.Line | None = None
_leaving = threading.Event()


class Place(NamedTuple):
    """A process's place among those that train together.

    Attributes:
      coordinator: HOST:PORT at which process 0 answers.
      total: of the processes.
      number: of this process, from 0.
      devices: which of the machine's accelerators are its own; None for all.
    """

    coordinator: str
    total: int
    number: int
    devices: tuple[int, ...] | None = None


def find_place(
    coordinator: str | None, count: int | None, number: int | None, *, seconds: float = 300.0
) -> Place | None:
    """Returns this process's place, by flags or by the environment that Slurm and TPU pods set; None if it is alone.

    Args:
      coordinator: --coordinator, HOST:PORT.
      count: --num_processes.
      number: --process_id.
      seconds: for a TPU pod's coordinator to appear in its network's names.

    Raises:
      InputError: if only some of the three are given, or they make no sense.
    """
    given = {"--coordinator": coordinator, "--num_processes": count, "--process_id": number}
    if all(value is None for value in given.values()):
        return _from_environment(seconds)
    if missing := [name for name, value in given.items() if value is None]:
        raise cli.InputError(
            f"{' and '.join(missing)} is missing: several processes need --coordinator HOST:PORT, --num_processes and "
            "--process_id; under Slurm and on TPU pods none of them"
        )
    assert coordinator is not None and count is not None and number is not None
    if not 0 <= number < count:
        raise cli.InputError(f"--process_id is counted from 0 and less than --num_processes {count}, got {number}")
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 1 << 16):
        raise cli.InputError(f"--coordinator is HOST:PORT of process 0, such as 10.0.0.1:12345, got {coordinator!r}")
    return Place(coordinator, count, number) if count > 1 else None


@contextlib.contextmanager
def joined(place: Place | None, *, seconds: float = 300.0) -> Iterator[None]:
    """Trains together with the other processes inside the context; does nothing for a process that is alone.

    To be entered before anything asks JAX for devices. If a process fails, all of them end with what it had to say:
    they leave the context, and the program, with exit code 2.

    Args:
      place: from `find_place`.
      seconds: to wait for the others.

    Raises:
      InputError: if they do not come in time, or contradict each other.
    """
    global _line
    if place is None:
        yield
        return
    host, _, port = place.coordinator.rpartition(":")
    host = host.strip("[]")
    if place.number == 0:
        _line, service = line.answer(host, int(port), count=place.total, seconds=seconds, on_lost=_end_with)
    else:
        _line, service = line.call(
            host, int(port), number=place.number, count=place.total, seconds=seconds, on_lost=_end_with
        )
        service = line.tunnel(host, service)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        f"127.0.0.1:{service}",
        num_processes=place.total,
        process_id=place.number,
        local_device_ids=place.devices,
        cluster_detection_method="deactivate",
        coordinator_bind_address=f"{'127.0.0.1' if line.is_local(host) else '[::]'}:{service}",
        initialization_timeout=max(1, int(seconds)),
    )
    try:
        yield
        sys.stdout.flush()
        jax.distributed.shutdown()  # waits for the others
    except BaseException as error:  # whatever it is, the others must not wait for this process
        _leave(error)
    _leaving.set()
    _line.close()
    _line = None


def is_first() -> bool:
    """Returns whether this process writes the files and speaks: it is process 0, or alone."""
    return _line is None or _line.number == 0


def say(text: str) -> None:
    """Prints a line, once for all processes."""
    if is_first():
        print(text, flush=True)


def value_of_first(value: Any) -> Any:
    """Returns process 0's value, which JSON can hold, in every process."""
    return value if _line is None else json.loads(_line.from_first(json.dumps(value).encode()))


def arrays_of_first(tree: Any) -> Any:
    """Returns process 0's arrays in every process; each gives a tree of the same structure, shapes and dtypes."""
    if _line is None:
        return tree
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    payload = _line.from_first(b"".join(leaf.tobytes() for leaf in leaves) if _line.number == 0 else b"")
    found, at = [], 0
    for leaf in leaves:
        found.append(np.frombuffer(payload, leaf.dtype, leaf.size, at).reshape(leaf.shape) if leaf.size else leaf)
        at += leaf.nbytes
    return jax.tree.unflatten(structure, found)


def agree(what: str, values: Mapping[str, Any]) -> None:
    """Compares the hash of values, such as a resolved configuration, with those of the other processes.

    Raises:
      InputError: in all processes, if one has others: it names the process and the first difference.
    """
    if _line is None:
        return
    text = json.dumps(values, sort_keys=True, default=str)
    hashes = [part.decode() for part in _line.gather(hashlib.sha256(text.encode()).hexdigest().encode())]
    odd = next((number for number, each in enumerate(hashes) if each != hashes[0]), None)
    if odd is None:
        return
    flat = [
        {".".join(k): v for k, v in traverse_util.flatten_dict(json.loads(part), keep_empty_nodes=True).items()}
        for part in _line.gather(text.encode())
    ]
    key = next(k for k in sorted(flat[0].keys() | flat[odd].keys()) if flat[0].get(k, ()) != flat[odd].get(k, ()))
    here, there = (str(flat[number].get(key, "not set")) for number in (0, odd))
    raise cli.InputError(
        f"process {odd} has another {what} than process 0 (hashes {hashes[odd][:8]} and {hashes[0][:8]}): {key} is "
        f"{there} there and {here} here: start all processes with the same command and the same data"
    )


def _from_environment(seconds: float) -> Place | None:
    from jax._src import clusters  # what jax.distributed.initialize() itself asks; it is exported nowhere

    known = ("slurm", "gketpu", "gcetpu")
    found = [e for e in clusters.ClusterEnv._cluster_types if e.name in known and e.is_env_present()]
    if not found or found[0].get_process_count() == 1:
        return None
    own = found[0].get_local_process_id()
    one_per_node = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0] == "1"
    return Place(
        found[0].get_coordinator_address(int(seconds), os.environ.get("JAX_COORDINATOR_PORT")),
        found[0].get_process_count(),
        found[0].get_process_id(),
        None if own is None or one_per_node else (own,),
    )


def _end_with(news: str) -> None:
    """Ends this process with what another had to say, unless it has begun to end with words of its own."""
    if _leaving.wait(_GRACE):
        return
    _end(f"{news}; all processes end. The same command, in all of them, continues the run")


def _leave(error: BaseException) -> None:
    """Ends this process, and the others with it."""
    assert _line is not None
    number, count = _line.number, _line.count
    if isinstance(error, cli.InputError | OSError | KeyboardInterrupt):
        words = " ".join(str(error).split()) or "interrupted"
        _leaving.set()
        _line.close(f"process {number} of {count} stopped: {words}")
        _end(words)
    # A collective fails where a peer has died: then the line knows, and ends this process with the reason.
    _leaving.wait(2 * _GRACE)
    traceback.print_exception(error)
    _leaving.set()
    _line.close(f"process {number} of {count} failed: {type(error).__name__}, see what it printed")
    _end(f"process {number} of {count} failed with the error above; the others end, too")


def _end(words: str) -> None:
    """Leaves at once: JAX's way out would wait for processes that are gone, and abort."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        print(f"\nferjax: error: {words}", file=sys.stderr, flush=True)
    os._exit(2)

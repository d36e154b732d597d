"""The processes that this one trains with: joining them, agreeing with them, ending with them."""

import contextlib
import hashlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from ferjax import errors
from ferjax.train.processes.links import Links, is_local
from ferjax.train.processes.place import Place
from ferjax.train.processes.relay import relay
from ferjax.train.processes.rendezvous import meet

_GRACE = 1.0  # seconds for a process that stops by itself to say why
_links: Links | None = None
_leaving = threading.Event()


@contextlib.contextmanager
def joined(place: Place | None, *, seconds: float = 300.0) -> Iterator[None]:
    """Trains together with the other processes inside the context; does nothing for a process that is alone.

    To be entered before anything asks JAX for devices, once in a program. If a process fails, all of them end with what
    it had to say: they leave the context, and the program, with exit code 2; the one that Ctrl-C stopped has 130.

    Args:
      place: from `find_place`.
      seconds: to wait for the others.

    Raises:
      InputError: if they do not come in time, or contradict each other.
    """
    global _links
    if place is None:
        yield
        return
    _links, port = meet(place, seconds=seconds, on_lost=_end_with)
    try:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM
        jax.distributed.initialize(
            f"127.0.0.1:{relay(place.host, port) if place.number else port}",
            num_processes=place.total,
            process_id=place.number,
            local_device_ids=place.devices,
            cluster_detection_method="deactivate",
            coordinator_bind_address=f"{'127.0.0.1' if is_local(place.host) else '[::]'}:{port}",
            initialization_timeout=max(1, int(seconds)),
        )
        yield
        sys.stdout.flush()
        jax.distributed.shutdown()  # waits for the others
    except BaseException as error:  # whatever it is, the others must not wait for this process
        _leave(error, _links)
    _leaving.set()
    _links.close()
    _links = None


def is_first() -> bool:
    """Returns whether this process writes the files and speaks: it is process 0, or alone."""
    links = _find_links()
    return links is None or links.number == 0


def say(text: str) -> None:
    """Prints a line, once for all processes."""
    if is_first():
        print(text, flush=True)


def value_of_first(value: Any) -> Any:
    """Returns process 0's value, which JSON can hold, in every process."""
    links = _find_links()
    return value if links is None else json.loads(links.from_first(json.dumps(value).encode()))


def arrays_of_first(tree: Any) -> Any:
    """Returns process 0's arrays in every process; each gives a tree of the same structure, shapes and dtypes."""
    links = _find_links()
    if links is None:
        return tree
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    payload = links.from_first(b"" if links.number else b"".join(leaf.tobytes() for leaf in leaves))
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
    links = _find_links()
    if links is None:
        return
    text = json.dumps(values, sort_keys=True, default=str)
    hashes = [part.decode() for part in links.gather(hashlib.sha256(text.encode()).hexdigest().encode())]
    odd = next((number for number, each in enumerate(hashes) if each != hashes[0]), None)
    if odd is None:
        return
    flat = [traverse_util.flatten_dict(json.loads(part), sep=".") for part in links.gather(text.encode())]
    key = next(k for k in sorted(flat[0].keys() | flat[odd].keys()) if flat[0].get(k, ()) != flat[odd].get(k, ()))
    here, there = (str(flat[number].get(key, "not set")) for number in (0, odd))
    raise errors.InputError(
        f"process {odd} has another {what} than process 0 (hashes {hashes[odd][:8]} and {hashes[0][:8]}): {key} is "
        f"{there} there and {here} here: start all processes with the same command and the same data"
    )


def _find_links() -> Links | None:
    if _links is None and jax.distributed.is_initialized():
        raise errors.InputError(
            "several processes train together inside `ferjax.train.processes.joined`, which joins them"
        )
    return _links


def _end_with(news: str) -> None:
    """Ends this process with what another had to say, unless it has begun to end with words of its own."""
    if not _leaving.wait(_GRACE):
        _end(f"{news}; all processes end. The same command, in all of them, continues the run")


def _leave(error: BaseException, links: Links) -> None:
    """Ends this process, and the others with it."""
    name = f"process {links.number} of {links.count}"
    if isinstance(error, errors.InputError | OSError | KeyboardInterrupt):
        words = "interrupted" if isinstance(error, KeyboardInterrupt) else errors.explain(error)
        _leaving.set()
        links.close(f"{name} stopped: {words}")
        _end(words, code=130 if isinstance(error, KeyboardInterrupt) else 2)
    # A collective fails where a peer has died: then a link knows, and ends this process with the reason.
    _leaving.wait(5 * _GRACE)
    traceback.print_exception(error)
    _leaving.set()
    links.close(f"{name} failed: {type(error).__name__}, see what it printed")
    _end(f"{name} failed with the error above; the others end, too")


def _end(words: str, code: int = 2) -> None:
    """Leaves at once: JAX's way out would wait for processes that are gone, and abort."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        print(f"\nferjax: error: {words}", file=sys.stderr, flush=True)
    os._exit(code)

"""Which process this is: by flags, or by the environment that Slurm and TPU pods set."""

import os
from typing import NamedTuple

from ferjax import errors

_CLUSTERS = ("slurm", "gketpu", "gcetpu")  # JAX's names for what is looked for


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

    @property
    def host(self) -> str:
        """The coordinator's host; an IPv6 address without its brackets."""
        return self.coordinator.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The coordinator's port."""
        return int(self.coordinator.rpartition(":")[2])


def find_place(
    coordinator: str | None = None, count: int | None = None, number: int | None = None, *, seconds: float = 300.0
) -> Place | None:
    """Returns this process's place, by flags or by the environment that Slurm and TPU pods set; None if it is alone.

    Args:
      coordinator: --coordinator, HOST:PORT.
      count: --num_processes; 1 alone overrules the environment.
      number: --process_id.
      seconds: for a TPU pod's coordinator to appear in its network's names.

    Raises:
      InputError: if only some of the three are given, or they make no sense.
    """
    given = {"--coordinator": coordinator, "--num_processes": count, "--process_id": number}
    if all(value is None for value in given.values()):
        return _from_environment(seconds)
    if count == 1 and not number:
        return None
    if coordinator is None or count is None or number is None:
        missing = [name for name, value in given.items() if value is None]
        raise errors.InputError(
            f"{' and '.join(missing)} is missing: several processes need --coordinator HOST:PORT, --num_processes and "
            "--process_id; under Slurm and on TPU pods none of them"
        )
    if not 0 <= number < count:
        raise errors.InputError(f"--process_id is counted from 0 and less than --num_processes {count}, got {number}")
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdigit() and 0 < int(port) < 1 << 16):
        raise errors.InputError(f"--coordinator is HOST:PORT of process 0, such as 10.0.0.1:12345, got {coordinator!r}")
    return Place(coordinator, count, number)


def _from_environment(seconds: float) -> Place | None:
    from jax._src import clusters  # what jax.distributed.initialize() itself asks; it is exported nowhere

    found = [e for e in clusters.ClusterEnv._cluster_types if e.name in _CLUSTERS and e.is_env_present()]
    if not found or found[0].get_process_count() == 1:
        return None
    cluster, port = found[0], os.environ.get("JAX_COORDINATOR_PORT")
    try:
        address = cluster.get_coordinator_address(int(seconds), port)
    except RuntimeError as error:
        raise errors.InputError(f"the environment says {cluster.name}, but process 0 is not found: {error}") from error
    return Place(address, cluster.get_process_count(), cluster.get_process_id(), _own(cluster.get_local_process_id()))


def _own(number: int | None) -> tuple[int, ...] | None:
    """Returns the accelerators of the process with this number on its machine; None for all that it sees.

    Slurm starts one process per GPU, which all see the machine's GPUs, or only their own with `--gpus-per-task`; or one
    process per machine.
    """
    one_per_machine = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0] == "1"
    sees_one = os.environ.get("CUDA_VISIBLE_DEVICES", ",").count(",") == 0
    return None if number is None or one_per_machine or sees_one else (number,)

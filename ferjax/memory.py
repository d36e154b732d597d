"""The memory of a process: what it asks of the allocator, and the most that it has held."""

import ctypes
import pathlib
import platform
import re
import sys

# <malloc.h>; what each does is in mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed() -> bool:
    """Lets the process keep the memory that it frees, for the next step.

    XLA on CPUs allocates a step's temporary memory anew each time (1.15 GB for MobileNetV3-Small at 224x224, batch
    64). glibc returns blocks of that size at once, and the kernel clears them again page by page: 300,000 page faults
    and a third of the processor time of such a step (2 cores, jax 0.10). A process that calls this stays as large as
    its largest step. Call it at the start of a command, before threads allocate.

    Returns:
      Whether the allocator is glibc's and took the settings; others are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # One heap for all threads, blocks of every size in it, its end never given back.
    return all([mallopt(_M_ARENA_MAX, 1), mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, -1)])


def peak() -> int | None:
    """Returns the most bytes of memory that this process has held; None on Windows."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent's memory before exec
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return 1024 * int(found[1])
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

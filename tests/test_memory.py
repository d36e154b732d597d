"""What is freed stays in the process, where the allocator can be told so."""

import platform
import subprocess
import sys

from ferjax import memory

# In a process of its own: the settings last. A thread frees 64 MiB and takes them again.
FAULTS = """
import resource, threading
from ferjax import memory
{first}
def in_a_thread():
    thread = threading.Thread(target=lambda: bytearray(b"x") * (64 << 20))
    thread.start()
    thread.join()
in_a_thread()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
in_a_thread()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(first):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(first=first)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_memory_that_was_freed_is_taken_again_without_page_faults():
    kept = faults("memory.keep_freed()")
    assert kept < 1000 or platform.libc_ver()[0] != "glibc"


def test_another_allocator_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not memory.keep_freed()

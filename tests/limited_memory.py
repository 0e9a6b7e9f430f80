"""A limit of the memory that a process of a test may take."""

import resource
import sys

import pytest

# macOS refuses such a limit.
NEEDS_LIMIT = pytest.mark.skipif(sys.platform == "darwin", reason="memory is limited by Linux only")


def limit_memory(more: int) -> None:
    """Have allocations fail once this process has so many bytes more than now, where the system can."""
    try:
        with open("/proc/self/statm") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
    except FileNotFoundError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (held + more, resource.getrlimit(resource.RLIMIT_AS)[1]))

"""The memory of this machine, and a limit for a process.

Belongs here: what the system says and enforces. How much a model may take is up to the caller.
"""

from __future__ import annotations

import os
import sys


def physical_bytes() -> int:
    """Memory of this machine; without a limit of a container. 0 < n; very large where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return sys.maxsize


def limit_memory(size: int) -> None:
    """Limit what this process can allocate, in bytes; a limit that is lower already stays. On Linux only."""
    if sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        size = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))

"""Making the C library return memory that threads have freed."""

from __future__ import annotations

import ctypes
import platform

import pyarrow as pa

_M_ARENA_MAX = -8  # of glibc's malloc.h


def share_arenas(arenas: int = 2) -> bool:
    """Let all threads of this process take memory from a few pools; True where the C library supports it.

    glibc gives every thread a pool of its own, up to eight per core, and each retains its thread's peak: of
    threads that hold arrays of some megabytes one after the other, a third of the process was unused memory
    (CelebA's five layers as zarr: 860 MB, and 700 MB with two pools). Arrow, whose own pool retains what it frees, takes
    its memory from there as well. Elsewhere nothing is done. Source: mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    pa.set_memory_pool(pa.system_memory_pool())
    return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, arenas))


def return_memory() -> None:
    """Give freed memory back to the system where the C library supports it. Source: malloc_trim(3)."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)

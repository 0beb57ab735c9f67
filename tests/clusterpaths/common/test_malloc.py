from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from clusterpaths.common.malloc import return_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_returned_to_the_system() -> None:
    blocks = [bytes(60_000) for _ in range(4000)]  # 240 MB, each too small for a mapping of its own
    last = blocks[-1]  # holds the end of the heap: without it the C library would return the rest by itself
    del blocks
    before = resident_bytes()
    return_memory()
    assert before - resident_bytes() > 150_000_000
    assert len(last) == 60_000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

"""Freed memory goes back to the system, in a process whose heap holds nothing else."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import os
from pathlib import Path
from clusterpaths.common.malloc import return_memory

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

blocks = [bytes(60_000) for _ in range(4000)]  # 240 MB, each too small for a mapping of its own
last = blocks[-1]  # holds the end of the heap: without it the C library would return the rest by itself
del blocks
before = resident_bytes()
return_memory()
print(before - resident_bytes())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_returned_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 150_000_000

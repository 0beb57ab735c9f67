"""A limit of a process's memory never raises one that is lower."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource
from clusterpaths.common.memory import limit_memory
resource.setrlimit(resource.RLIMIT_DATA, (2_000_000_000, 2_000_000_000))
limit_memory({asked})
print(*resource.getrlimit(resource.RLIMIT_DATA))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")
@pytest.mark.parametrize(("asked", "found"), [(3_000_000_000, 2_000_000_000), (1_000_000_000, 1_000_000_000)])
def test_the_lower_limit_counts(asked: int, found: int) -> None:
    done = subprocess.run([sys.executable, "-c", CODE.format(asked=asked)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(found), str(found)]

"""The load test of the path service: it works, and both servers answer all of it. No time is asserted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import PROJECT

SHARED = os.environ.get("CLUSTERPATHS_SHARED")


@pytest.mark.skipif(SHARED is None, reason="needs CLUSTERPATHS_SHARED, a folder with celeba/ and models/")
def test_the_quick_load_test_measures_both_servers(tmp_path: Path) -> None:
    pytest.importorskip("torch")  # of the larger model
    command = [
        sys.executable,
        str(PROJECT / "benchmarks" / "path_service.py"),
        "--quick",
        "--only",
        "conv3",
        "--clients",
        "4",
    ]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    cells = [cell.strip() for cell in done.stdout.splitlines()[-1].split("|")[1:-1]]
    assert cells[:2] == ["CelebA CNN, conv3 to fc2", "4"]
    assert all(float(cell) > 0 for cell in cells[2:4])
    assert list(tmp_path.glob("clusterpaths-*")) == []

"""The small version of the load test: it works, and every address that it asks is answered."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.runs import PROJECT


def test_every_address_is_answered_under_load_and_the_page_tells_it(tmp_path: Path) -> None:
    command = [sys.executable, str(PROJECT / "benchmarks" / "load.py"), "--quick", "--out", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "load.json").read_text())
    alone = result["server"]["alone"]
    assert {"centroids", "image", "v1 thumbnail", "v1 search", "page: overview"} < set(alone)
    assert set(result["server"]["mixed"]) <= set(alone)
    assert all(one["requests"] >= 20 for one in alone.values())
    assert set(result["baseline"]["alone"]) == {"paths, 50", "paths, 10,000", "path of an example"}
    assert 50 < result["server"]["memory_mb"] < 500
    page = (tmp_path / "load.md").read_text()
    assert [name for name in alone if f"| {name} |" not in page] == []

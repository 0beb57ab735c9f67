"""The small version of the benchmark of the map page: it works, and has all its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import PROJECT
from tests.server.conftest import CHROMIUM


def test_the_map_page_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium: install the system's package chromium")
    command = [sys.executable, str(PROJECT / "benchmarks" / "map_page.py"), "--quick", "--out", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "map_page.json").read_text())
    for mode in ("headless", "swiftshader"):
        found = result[mode]
        assert found["frames_per_second"] > 0
        assert found["first_picture_ms"] > 0
        assert found["frame_processor_ms"] > 0
        assert found["brush_processor_ms"] > 0
        assert found["brush_ms"]["of"] > 3, "a filter per step of the brush"
        assert found["lasso_ms"]["of"] == found["class_ms"]["of"] == 1
        assert found["transferred_bytes"] > 2000 * (5 * 8 + 8), "points of five layers and a number each"

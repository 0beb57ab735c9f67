"""docs/pytorch.md: its code runs, in order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "pytorch.md").read_text(encoding="utf-8")


def test_the_code_of_the_page_runs_in_order(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    code += "\nassert paths.record.layers == exported.layers == ('conv1', 'conv2', 'pool')"
    code += "\nassert finer.path.name == 'set_02' and paths.metrics.perturbations"
    code += "\nassert explained.path == tuple(paths.clusters[7].tolist())"
    code += "\nimport sys; assert 'prefect' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    path, stored = re.findall(r"\(\d+, \d+, \d+\)", ended.stdout)[:2]
    assert path == stored
    assert "ONNX Runtime's outputs equal torch's on 4 examples up to" in ended.stdout

"""docs/python.md: its code runs, in order, and its table of columns is that of a set."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def test_the_code_of_the_page_runs_in_order(tmp_path: Path) -> None:
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    names = re.search(r"one row per example: (.*?), then", PAGE, re.DOTALL)
    assert names
    columns = re.findall(r"`(\w+)`", names[1])
    code += f"\nassert paths.to_frame('pyarrow').column_names[:{len(columns)}] == {columns}"
    code += "\nassert page.is_file()\nimport sys; assert 'prefect' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("(600, 2) (600, 6) 1.0")

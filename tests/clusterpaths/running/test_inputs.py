"""Inputs that are looked up before a run. What a person sees of it: tests/flows/test_environment.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clusterpaths.config import SAMPLE_NAME, RunConfig
from clusterpaths.datasets.acquire import find_data
from clusterpaths.errors import DatasetError
from clusterpaths.running.inputs import require_inputs
from tests.runs import SAMPLE_MODEL

UNREADABLE = """
import os, sys
from pathlib import Path
from clusterpaths.config import RunConfig
from clusterpaths.errors import DiskError
from clusterpaths.running.inputs import require_inputs
if os.geteuid() == 0:
    os.setegid(65534); os.seteuid(65534)
try:
    require_inputs(RunConfig(model=Path(sys.argv[1]), data_root=Path(sys.argv[2]), cache_root="/"))
except DiskError as error:
    print(error)
"""


@pytest.mark.parametrize("which", ["model", "data"])
def test_a_directory_that_may_not_be_read_is_told(which: str, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    closed = tmp_path / "closed" / "it"
    given = [closed, "/"] if which == "model" else ["/etc/hostname", closed]
    done = subprocess.run(
        [sys.executable, "-c", UNREADABLE, *map(str, given)], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout == f"{closed} may not be read (Permission denied). Allow it, or name another.\n"


def test_what_is_fetched_or_drawn_need_not_be_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTERPATHS_HOME", str(tmp_path))
    require_inputs(RunConfig(model=SAMPLE_MODEL, data_root=tmp_path / "later"))
    drawn = RunConfig(model=SAMPLE_MODEL, sample=True, sample_size=7)
    require_inputs(drawn)
    assert find_data(drawn).root == str(tmp_path / "data" / f"{SAMPLE_NAME}-7" / "celeba")
    with pytest.raises(DatasetError, match="later' does not exist"):
        require_inputs(RunConfig(model=SAMPLE_MODEL, data_root=tmp_path / "later", dataset="folder"))
    assert list(tmp_path.iterdir()) == []

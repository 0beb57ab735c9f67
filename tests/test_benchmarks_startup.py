"""The small version of the start-up measurements. A file of its own: its servers and imports take as long as all other parts."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from tests.runs import PROJECT


@pytest.mark.server
def test_start_up_is_measured_and_what_was_there_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))  # the benchmarks are programs, no package
    monkeypatch.delitem(sys.modules, "celeba", raising=False)  # Prefect may have loaded flows/celeba.py by that name
    (tmp_path / "suite.json").write_text('{"earlier": [1, 2]}')
    importlib.import_module("suite").main(parts=("startup",), out=tmp_path, quick=True)
    after = json.loads((tmp_path / "suite.json").read_text())
    assert after["earlier"] == [1, 2]
    told = after["startup"]["result"]
    assert {"--subset 5, temporary server", "--subset 5, server up", "server until it answers"} <= set(told["seconds"])
    assert all(len(values) == 1 and values[0] > 0 for values in told["seconds"].values())
    assert set(told["cpu_seconds"]) < set(told["seconds"])

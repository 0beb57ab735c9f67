"""The small version of benchmarks/collect_speed.py: it works, and writes what it measured."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from tests.runs import PROJECT


def test_the_benchmark_of_collect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    importlib.import_module("collect_speed").main(device="cpu", quick=True, out=tmp_path)
    result = json.loads((tmp_path / "collect_speed.json").read_text())
    assert (result["images"], result["size"], result["device"]) == (40, 64, "cpu")
    said = capsys.readouterr().out
    for name in ("alone", "collect", "onnx"):
        assert f"{name}: {40 / result[name]:.1f} images/s" in said

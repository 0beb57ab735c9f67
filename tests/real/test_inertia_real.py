"""Inertia of real images' clusters, compared with KMeans(n_init=10) on all of their rows, where CLUSTERPATHS_SHARED is set.

Here are the layers with the smallest margins; `python benchmarks/suite.py --parts inertia` measures all of them.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import pytest

from tests.runs import PROJECT

pytestmark = pytest.mark.skipif("CLUSTERPATHS_SHARED" not in os.environ, reason="CLUSTERPATHS_SHARED is not set")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))  # the benchmarks are programs, no package
    inertia = importlib.import_module("inertia")
    monkeypatch.setattr(inertia, "COMPONENTS", 256)  # that KMeans begins in; it ends in all of them

    def measure(images: int, layers: list[str]) -> dict[tuple[str, str, int], float]:
        material = inertia.prepare(tmp_path, images)
        found = inertia.measure(material, [images], layers=layers)
        return {(entry["layer"], entry["distance"], entry["k"]): entry["ratio"] for entry in found}

    return measure


@pytest.mark.parametrize(("images", "layers"), [(2000, ["conv3", "fc1", "fc2"]), (12_000, ["fc2"])])
def test_inertia_is_within_half_a_percent_of_kmeans_with_ten_starts(
    measured: Any, images: int, layers: list[str]
) -> None:
    ratios = measured(images, layers)
    assert len(ratios) == len(layers) * 2 * 3  # distances, k of 5, 15 and 30
    assert {case: ratio for case, ratio in ratios.items() if ratio > 1.005} == {}

"""The benchmark of the drift detector: its statistics, its windows, and its search; not its numbers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from clusterpaths.monitoring.verdict import Routes

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def found() -> Iterator[None]:
    """Its modules can be imported."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def load(name: str) -> Any:
    return importlib.import_module(name)


def seen(n: int, seed: int, shift: float = 0.0) -> Any:
    draw = np.random.default_rng(seed)
    predictions = draw.integers(0, 3, n)
    routes = Routes(draw.integers(0, 4, (n, 2)).astype(np.int16), draw.normal(size=n), predictions.astype(np.int32))
    features = draw.normal(size=(n, 5)) + shift
    pixels = draw.integers(0, 256, (n, 12), dtype=np.uint8)
    return load("drift_methods").Seen(routes, draw.random(n), predictions, features, pixels)


def test_the_kolmogorov_smirnov_tests_of_columns_are_scipys() -> None:
    draw = np.random.default_rng(0)
    reference, window = draw.normal(size=(200, 4)), draw.normal(0.2, size=(50, 4))
    expected = [stats.ks_2samp(a, b, method="asymp").pvalue for a, b in zip(reference.T, window.T, strict=True)]
    np.testing.assert_allclose(load("drift_methods").ks_columns(reference, window), expected)


def test_detectors_see_their_own_part_only() -> None:
    """The last layer's values are moved, nothing else is."""
    found = load("drift_methods").detectors(seen(300, 0), ("conv1", "fc1"))
    drifted = {name: detect(seen(100, 1, shift=1.0), 0.001, 0) for name, detect in found.items()}
    assert drifted == {
        "cluster paths": False, "softmax": False, "PCA + KS, last layer": True, "PCA + KS, pixels": False
    }  # fmt: skip


def test_a_window_of_own_and_foreign_images_has_each_once() -> None:
    own, foreign = seen(60, 0), seen(40, 1, shift=100.0)
    window = load("drift_shifts")._mixed([own], [foreign], 0, 0.3, 50, trial=2)
    assert len(window) == len(window.routes) == 50
    assert (window.features[:, 0] > 50).sum() == 15
    assert len(np.unique(window.features[:, 0])) == 50


@pytest.mark.parametrize(("border", "expected"), [(0.05, 0.1), (0.2, 0.2), (1.0, 1.0), (2.0, None)])
def test_the_smallest_amount_is_found_by_halving(border: float, expected: float | None) -> None:
    least, measured = load("drift_shifts").smallest(
        (0.01, 0.02, 0.1, 0.2, 0.5, 1.0), lambda amount: float(amount >= border)
    )
    assert least == expected
    assert len(measured) <= 3
    assert list(measured) == sorted(measured)


def test_a_mean_over_references_has_students_interval() -> None:
    values = (0.0, 0.1, 0.05, 0.05)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    spread = load("drift").spread(values)
    assert spread == {"mean": 0.05, "low": round(max(low, 0), 4), "high": round(high, 4)}


def test_the_table_has_a_line_for_each_detector_and_size() -> None:
    rows = [
        {"shift": shift, "detector": name, "window": 100, "alpha": 0.05, "smallest": least, "found": {}}
        for name in ("cluster paths", "softmax")
        for shift, least in (("photo crops, share", 0.2), ("noise", 24), ("JPEG", None))
    ]
    table = load("drift").tables({"power": {"rows": rows}})
    assert "| softmax | 100 | 0.05 | 20% | 24 | — |" in table
    assert "false alarms" not in table

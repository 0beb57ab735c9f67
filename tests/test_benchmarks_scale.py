"""The plan in numbers: the schedule of shards on small cases worked out by hand, and the page that stands in docs/."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from tests.runs import PROJECT


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))  # the benchmarks are programs, no package
    return importlib.import_module("scale")


@pytest.mark.parametrize(
    ("tasks", "workers", "expected"),
    [(1, 1, 2.0), (3, 1, 6.0), (3, 2, 4.0), (4, 2, 4.0), (3, 8, 2.0)],
)
def test_shards_of_equal_length_take_whole_rounds(scale: Any, tasks: int, workers: int, expected: float) -> None:
    assert scale.schedule(tasks, [2.0], workers) == expected


def test_stragglers_cost_more_than_their_mean(scale: Any) -> None:
    """64 shards on 64 workers last as long as the slowest; on one worker, as long as all together."""
    seconds = [1.0] * 9 + [10.0]
    assert scale.schedule(64, seconds, 64) == 10.0
    alone = scale.schedule(64, seconds, 1)
    assert (alone - 64) % 9 == 0  # every straggler adds 9
    assert 64 < alone < 640


def test_a_long_schedule_is_a_shorter_one_of_larger_shards(scale: Any) -> None:
    images = 4 * scale.MOST_TASKS * scale.SHARD
    assert scale.extraction_seconds(images, [1.0], 100) == 4 * scale.MOST_TASKS / 100


def test_core_hours_bytes_and_the_bottleneck_by_hand(scale: Any) -> None:
    """1 ms of extraction and 2 of clustering, of which 1 is for first centroids: 2 ms an image, 2 layers."""
    whole = {
        "stages": [{"stage": "extract", "ms": 1.0}, {"stage": "cluster", "ms": 2.0}],
        "shard_seconds": [0.512, 0.512],
        "bounded_seconds": 1.024,
        "inertia": {"a": 1.0, "b": 1.0},
        "cache_bytes_per_image": 100_000,
    }
    part = {"images": 1024, "one_worker": {"zarr": whole}, "whole": {"zarr": whole}}
    cells = [cell.strip() for cell in scale.rows_of(part, "model")[1].strip("|").split("|")]
    assert cells[:5] == ["model", "zarr", "10,000,000", "1.0 TB", "5.6"]  # 20,000 s
    assert cells[5] == "5.6 h"  # on one worker
    assert cells[6] == "2.8 h"  # on two
    assert cells[-2:] == ["clustering", "1.00"]  # a stream a layer: 5,000 s however many workers


@pytest.mark.parametrize(("size", "told"), [(0, "0.0 bytes"), (12_288, "12.3 kB"), (2e18, "2,000.0 PB")])
def test_bytes_for_people(scale: Any, size: float, told: str) -> None:
    assert scale.human(size) == told


def test_the_page_is_what_the_committed_results_give(scale: Any, tmp_path: Path) -> None:
    scale.main(page=tmp_path / "scale.md")
    assert (PROJECT / "docs" / "scale.md").read_text() == (tmp_path / "scale.md").read_text()

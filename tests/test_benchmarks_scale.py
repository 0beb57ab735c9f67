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


@pytest.fixture
def part() -> dict[str, Any]:
    """1 ms of a fused shard with one worker and with two; 36 s of fits over two layers; 0.01 ms to trace and 0.01 to publish."""
    single = {
        "stages": [],
        "shards": [(512, 0.512), (100, 0.1), (512, 0.512)],
        "fit_seconds": 36.0,
        "inertia": {"a": 1.0, "b": 1.0},
        "cache_bytes_per_image": 100_000,
    }
    rest = [{"stage": "assign", "ms": 0.5}, {"stage": "trace", "ms": 0.01}, {"stage": "publish", "ms": 0.01}]
    whole = {"zarr": {**single, "stages": rest}}
    return {"images": 5220, "workers": 2, "sample": 4096, "one_worker": {"zarr": single}, "whole": whole}


def test_the_smaller_last_shard_is_left_out_and_shards_of_another_size_are_scaled(scale: Any) -> None:
    assert scale.shard_seconds({"shards": [(256, 1.0), (256, 3.0), (10, 7.0)]}) == [4.0, 12.0]


def test_fits_on_fewer_images_count_in_proportion(scale: Any) -> None:
    single = {"fit_seconds": 3.0}
    assert [scale.fit_seconds(single, sample) for sample in (4096, 2048, 512)] == [3.0, 6.0, 24.0]


def test_core_hours_bytes_and_the_bottleneck_by_hand(scale: Any, part: dict[str, Any]) -> None:
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in scale.rows_of(part, "model", 0.02)]
    cells = rows[1]
    assert cells[:5] == ["model", "zarr", "10,000,000", "1.0 TB", "2.8"]  # 10,000 + 200 + 36 s
    assert cells[5] == "2.8 h"  # on one worker
    assert cells[6] == "87.0 min"  # on two: 5,000 s, 200 s, and 18 s of fits
    assert cells[-2:] == ["trace and publish", "2.00"]  # 200 s of one worker, and 78 s of shards
    assert rows[0][-2] == "fit"  # of 200,000: 18 s, 4 s of one worker, and 2 s of shards


def test_fits_use_a_worker_per_layer_and_do_not_grow_with_the_number_of_images(
    scale: Any, part: dict[str, Any]
) -> None:
    single = part["one_worker"]["zarr"]
    seconds = [
        scale.run_seconds(count, single, 4096, 0.02, workers) for count in scale.COUNTS for workers in (1, 2, 128)
    ]
    assert [fits for _, fits, _ in seconds] == [36.0, 18.0, 18.0] * 3


def test_the_page_has_no_estimates_from_before_one_pass(scale: Any, part: dict[str, Any]) -> None:
    machine = {"machine": "m", "memory_gb": 1, "load_average": 0, "python": "3", "versions": {}, "data": "drawn"}
    now = {"stages": {**machine, "result": part}}
    assert "| CelebA's CNN | zarr | 200,000 |" in scale.document(now)
    del part["one_worker"]["zarr"]["shards"]
    assert "Not measured yet" in scale.document(now)


@pytest.mark.parametrize(("size", "told"), [(0, "0.0 bytes"), (12_288, "12.3 kB"), (2e18, "2,000.0 PB")])
def test_bytes_for_people(scale: Any, size: float, told: str) -> None:
    assert scale.human(size) == told


def test_the_page_is_what_the_committed_results_give(scale: Any, tmp_path: Path) -> None:
    scale.main(page=tmp_path / "scale.md")
    assert (PROJECT / "docs" / "scale.md").read_text() == (tmp_path / "scale.md").read_text()

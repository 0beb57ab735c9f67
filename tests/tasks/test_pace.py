"""Time left, in simulated runs whose true end is known: right within 20% from one tenth of the run on."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np
import pytest

from tasks.pace import Pace
from tasks.progress import duration

BATCH = 32
BATCH_SECONDS = 0.05


@dataclass
class Simulation:
    """Workers that take shards in order; each needs seconds to start, and its batches more or less long.

    Where `reports` is off, only ends of shards are told, as by Dask workers.
    """

    sizes: list[int]
    workers: int
    start: float
    jitter: float
    seed: int
    reports: bool = True
    now: float = 0.0
    seen: list[tuple[float, float, float | None]] = field(default_factory=list)  # when, share done, seconds left

    def run(self) -> float:
        """Seconds until all is done."""
        rng = np.random.default_rng(self.seed)
        pace = Pace(
            {str(i): size for i, size in enumerate(self.sizes)}, self.workers, 1 / self.workers, lambda: self.now
        )
        events: list[tuple[float, int, int]] = []  # when, shard, examples that it has left then
        waiting = iter(range(len(self.sizes)))

        def batch(at: float, shard: int, left: int) -> None:
            share = min(BATCH, left) / BATCH
            seconds = BATCH_SECONDS * share * float(rng.uniform(1 - self.jitter, 1 + self.jitter))
            heapq.heappush(events, (at + seconds, shard, max(left - BATCH, 0)))

        def take(at: float, started: float) -> None:
            if (shard := next(waiting, None)) is not None:
                pace.begin(str(shard))
                batch(at + started, shard, self.sizes[shard])

        for _ in range(self.workers):
            take(0.0, self.start * float(rng.uniform(0.7, 1.3)))
        while events:
            self.now, shard, left = heapq.heappop(events)
            if self.reports:
                pace.add(str(shard), BATCH)
            if left:
                batch(self.now, shard, left)
            else:
                pace.finish(str(shard))
                take(self.now, 0.0)
            self.seen.append((self.now, pace.done / pace.total, pace.left()))
        assert pace.done == pace.total
        return self.now

    def worst(self) -> float:
        """Largest error relative to the true time left, from one tenth on and but for the last second: seconds are shown."""
        end = self.run()
        errors = []
        for when, share, left in self.seen:
            if share >= 0.1 and end - when > 1:
                assert left is not None
                errors.append(abs(left - (end - when)) / (end - when))
        assert len(errors) > 20
        return max(errors)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "sizes",
    [[512] * 39 + [32], [2000] * 11, [7000, 7000, 7000]],
    ids=["many shards", "an odd one at the end", "one of three runs alone"],
)
def test_two_workers_with_a_slow_start_and_jitter(sizes: list[int], seed: int) -> None:
    """The start takes 5 s, where all the batches together take 16 s."""
    worst = Simulation(sizes, workers=2, start=5.0, jitter=0.5, seed=seed).worst()
    print(f"worst error {worst:.1%}")
    assert worst <= 0.2


@pytest.mark.parametrize("seed", range(5))
def test_workers_that_tell_only_of_their_ends(seed: int) -> None:
    """60 shards of 0.8 s each by four workers."""
    run = Simulation([512] * 60, workers=4, start=0.5, jitter=0.5, seed=seed, reports=False)
    worst = run.worst()
    print(f"worst error {worst:.1%}")
    assert worst <= 0.2


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_before_anything_is_done_no_time_is_made_up() -> None:
    clock = Clock()
    pace = Pace({"0": 100, "1": 100}, 2, 0.5, clock)
    pace.begin("0")
    clock.now = 3.0
    assert (pace.rate(), pace.left()) == (None, None)


def test_what_a_retry_does_again_counts_once() -> None:
    clock = Clock()
    pace = Pace({"0": 100}, 1, 1.0, clock)
    pace.begin("0")
    for clock.now in (1.0, 2.0, 3.0):
        pace.add("0", 40)
    pace.finish("0")
    assert (pace.done, pace.left()) == (100, 0.0)


def test_a_part_alone_takes_as_long_as_the_cores_say() -> None:
    """200 and 400 by two workers at 20 a second together: after 10 s the first needs 10 more, then 200 are done alone."""
    for lone, expected in ((0.5, 20.0), (1.0, 10.0)):
        clock = Clock()
        pace = Pace({"0": 200, "1": 400}, 2, lone, clock)
        pace.begin("0")
        pace.begin("1")
        for clock.now in (5.0, 10.0):
            pace.add("0", 50)
            pace.add("1", 50)
        assert pace.rate() == pytest.approx(20, rel=0.01)
        assert pace.left() == pytest.approx(10 + expected, rel=0.01)


def test_durations_read_well() -> None:
    assert [duration(s) for s in (6.6, 65, 9000)] == ["7 s", "1:05 min", "2:30 h"]

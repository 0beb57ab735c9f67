from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from clusterpaths.cache.fit_sample import FIT_ROWS, FIT_ROWS_PER_CLUSTER, draw_ids, fit_size, nested_samples
from clusterpaths.cache.manifest import require_manifest
from clusterpaths.cache.rows import LayerRows
from clusterpaths.cache.stores import ZarrStore
from clusterpaths.config import RunConfig
from clusterpaths.errors import CorruptedShardError
from clusterpaths.extraction import plan as plan_module
from tests.clusterpaths.conftest import Extracted, make_plan, read_rows, run_extraction

Configure = Callable[..., RunConfig]


def test_few_examples_are_all_fitted_on() -> None:
    for count in (0, 1, FIT_ROWS):
        np.testing.assert_array_equal(draw_ids(np.arange(count), FIT_ROWS), np.arange(count))


@pytest.mark.parametrize(("k", "size"), [(1, 4096), (5, 4096), (6, 4800), (30, 24_000)])
def test_the_sample_is_800_examples_a_cluster_and_at_least_4096(k: int, size: int) -> None:
    assert fit_size(k) == size
    assert FIT_ROWS_PER_CLUSTER == 800


def test_the_sample_is_uniform_and_changes_by_what_is_added_or_lost() -> None:
    ids = np.arange(0, 300_000, 3)
    chosen = draw_ids(ids, FIT_ROWS)
    assert len(np.unique(chosen)) == FIT_ROWS
    assert (np.diff(chosen) > 0).all()
    # Ten stretches of the ids get a tenth each, within five standard deviations; so do last digits.
    spread = 5 * np.sqrt(FIT_ROWS * 0.1 * 0.9)
    assert np.abs(np.bincount(chosen // 30_000) - FIT_ROWS / 10).max() < spread
    assert np.abs(np.bincount(chosen % 10) - FIT_ROWS / 10).max() < spread
    fewer = np.setdiff1d(ids, chosen[:3])
    again = draw_ids(fewer, FIT_ROWS)
    assert len(np.setdiff1d(again, chosen)) == 3
    np.testing.assert_array_equal(np.intersect1d(again, chosen), chosen[3:])


def test_a_smaller_sample_is_part_of_a_larger_one() -> None:
    ids = np.arange(1000, 40_000, 7)
    samples = [draw_ids(ids, size) for size in (10, 500, 4096, 5000)]
    for smaller, larger in itertools.pairwise(samples):
        assert np.isin(smaller, larger).all()


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (3, [3]),
        (100, [100]),
        (101, [100, 1]),
        (1000, [100, 100, 200, 400, 200]),
        (9999, [100, 100, 200, 400, 800, 8399]),
    ],
)
def test_nested_samples_are_what_each_doubling_adds(count: int, sizes: list[int]) -> None:
    ids = np.arange(count) * 3 + 1
    groups = nested_samples(ids, 100)
    assert [len(group) for group in groups] == sizes
    for number in range(len(groups)):
        together = np.sort(np.concatenate(groups[: number + 1]))
        np.testing.assert_array_equal(together, draw_ids(ids, len(together)))


def with_sample(configure: Configure, monkeypatch: pytest.MonkeyPatch, size: int = 12, **options: object) -> RunConfig:
    monkeypatch.setattr(plan_module, "fit_size", lambda _k: size)
    return configure(**options)


@pytest.mark.parametrize("cache_format", ["npy", "zarr", "none"])
def test_examples_to_fit_on_lie_in_shards_of_their_own_and_come_first(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, cache_format: str
) -> None:
    plain = run_extraction(configure(cache_format=cache_format, shard_size=7, name="plain"))
    expected = read_rows(plain, "conv2")
    done = run_extraction(with_sample(configure, monkeypatch, cache_format=cache_format, shard_size=7, name="fit"))
    fit = draw_ids(done.ids, 12)
    np.testing.assert_array_equal(done.plan.sample_ids(), fit)
    shards = require_manifest(done.storage).shards
    assert [len(shard.planned_ids()) for shard in shards] == [7, 5, 7, 5, 7, 7, 2]
    np.testing.assert_array_equal(np.concatenate([s.planned_ids() for s in shards[:2]]), fit)
    # a cache that was made before there were so many has no such shards
    positions = np.searchsorted(plain.ids, fit)
    # another batch of the same image: the last bits may be others
    np.testing.assert_allclose(read_rows(done, "conv2", ids=fit), expected[positions], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(read_rows(plain, "conv2", ids=fit), expected[positions])
    if cache_format != "none":  # otherwise only the sample's activations are there
        np.testing.assert_allclose(read_rows(done, "conv2"), expected, rtol=1e-3, atol=1e-3)


def test_fit_all_makes_every_example_part_of_the_sample(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan, _ = make_plan(with_sample(configure, monkeypatch, fit="all"))
    np.testing.assert_array_equal(plan.sample_ids(), plan.example_ids())
    assert [len(shard.planned_ids()) for shard in plan.manifest.shards] == [16, 16, 8]


def flip(done: Extracted, position: int) -> None:
    """Another last byte of one example; a second time, the old one."""
    path = done.directory / "fc1" / f"{done.ids[position]}.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)


def test_flipped_bytes_are_found_wherever_all_of_a_shard_is_read(configure: Configure) -> None:
    done = run_extraction(configure(cache_format="npy", shard_size=10))
    for position in (0, 15, 25, 39):
        flip(done, position)
        with pytest.raises(CorruptedShardError, match="checksum differs") as caught:
            read_rows(done, "fc1")
        assert caught.value.shard == position // 10
        flip(done, position)
    assert len(read_rows(done, "fc1")) == 40


def test_flipped_bytes_are_found_in_shards_of_the_sample(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples to fit on have shards of their own, so reading them reads whole shards."""
    done = run_extraction(with_sample(configure, monkeypatch, cache_format="npy", shard_size=5))
    fit = draw_ids(done.ids, 12)
    for shard, example in ((0, fit[1]), (1, fit[7]), (2, fit[11])):
        flip(done, int(np.searchsorted(done.ids, example)))
        with pytest.raises(CorruptedShardError, match="checksum differs") as caught:
            read_rows(done, "fc1", ids=fit)
        assert caught.value.shard == shard
        flip(done, int(np.searchsorted(done.ids, example)))
    assert len(read_rows(done, "fc1", ids=fit)) == 12


def test_rows_of_a_chunk_are_read_by_decompressing_it_once(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_extraction(configure(cache_format="zarr", shard_size=40))
    rows = LayerRows(done.storage, "conv2", done.ids)
    whole = read_rows(done, "conv2")
    reads: list[int] = []
    read = ZarrStore.read

    def counted(store: ZarrStore, layer: str, ids: np.ndarray, at: np.ndarray) -> np.ndarray:
        reads.append(len(ids))
        return read(store, layer, ids, at)

    monkeypatch.setattr(ZarrStore, "read", counted)
    some = np.array([0, 3, 9, 11, 38])
    (block,) = (block for _, block in rows.blocks(some))
    np.testing.assert_array_equal(block, whole[some])
    assert reads == [40]  # the chunk is decompressed completely anyhow

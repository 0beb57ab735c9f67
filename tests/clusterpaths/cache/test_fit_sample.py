from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from clusterpaths.cache import fit_sample as order
from clusterpaths.cache.fit_sample import FIT_ROWS, fit_positions
from clusterpaths.cache.manifest import require_manifest
from clusterpaths.cache.rows import LayerRows
from clusterpaths.cache.stores import ZarrStore
from clusterpaths.clustering.cluster import cluster_layer
from clusterpaths.clustering.identity import identify
from clusterpaths.config import RunConfig
from clusterpaths.errors import CorruptedShardError
from tests.clusterpaths.conftest import Extracted, run_extraction

Configure = Callable[..., RunConfig]


def test_few_examples_are_all_fitted_on() -> None:
    assert fit_positions(np.arange(FIT_ROWS)) is None


def test_the_sample_is_uniform_and_changes_by_what_is_added_or_lost() -> None:
    ids = np.arange(0, 300_000, 3)
    chosen = fit_positions(ids)
    assert chosen is not None
    assert len(np.unique(chosen)) == FIT_ROWS
    assert (np.diff(chosen) > 0).all()
    # Ten stretches of the ids get a tenth each, within five standard deviations; so do last digits.
    spread = 5 * np.sqrt(FIT_ROWS * 0.1 * 0.9)
    assert np.abs(np.bincount(chosen // 10_000) - FIT_ROWS / 10).max() < spread
    assert np.abs(np.bincount(ids[chosen] % 10) - FIT_ROWS / 10).max() < spread
    fewer = np.delete(ids, chosen[:3])
    again = fit_positions(fewer)
    assert again is not None
    assert len(np.setdiff1d(fewer[again], ids[chosen])) == 3


@pytest.mark.parametrize("cache_format", ["npy", "zarr", "none"])
def test_rows_to_fit_on_lie_in_shards_of_their_own_and_come_first(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, cache_format: str
) -> None:
    plain = run_extraction(configure(cache_format=cache_format, shard_size=7, name="plain"))
    expected = LayerRows(plain.storage, "conv2", plain.ids).take(np.arange(40))
    monkeypatch.setattr(order, "FIT_ROWS", 12)
    done = run_extraction(configure(cache_format=cache_format, shard_size=7, name="fit"))
    fit = fit_positions(done.ids)
    assert fit is not None
    shards = require_manifest(done.storage).shards
    assert [len(shard.planned_ids()) for shard in shards] == [7, 5, 7, 7, 7, 7]
    np.testing.assert_array_equal(np.concatenate([s.planned_ids() for s in shards[:2]]), done.ids[fit])
    for of in (done, plain):  # a cache that was made before there were so many has no such shards
        rows = LayerRows(of.storage, "conv2", of.ids)
        read = list(rows.blocks())
        order_of = np.concatenate([np.asarray(where) for where, _ in read])
        np.testing.assert_array_equal(order_of[:12], fit)
        np.testing.assert_array_equal(order_of[12:], np.setdiff1d(np.arange(40), fit))
        # another batch of the same image: the last bits may be others
        np.testing.assert_allclose(
            np.concatenate([block for _, block in read]), expected[order_of], rtol=1e-3, atol=1e-3
        )
        some = list(rows.blocks(fit))
        np.testing.assert_allclose(np.concatenate([block for _, block in some]), expected[fit], rtol=1e-3, atol=1e-3)


def flip(done: Extracted, position: int) -> None:
    """Another last byte of one example; a second time, the old one."""
    path = done.directory / "fc1" / f"{done.ids[position]}.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)


def test_flipped_bytes_are_found_also_where_rows_to_fit_on_lie_among_others(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a cache that was made before there were so many: then no shard is read in its own order."""
    done = run_extraction(configure(cache_format="npy", shard_size=10))
    monkeypatch.setattr(order, "FIT_ROWS", 12)
    for position in (0, 15, 25, 39):
        flip(done, position)
        with pytest.raises(CorruptedShardError, match="checksum differs"):
            list(LayerRows(done.storage, "fc1", done.ids).blocks())
        flip(done, position)
    assert sum(len(block) for _, block in LayerRows(done.storage, "fc1", done.ids).blocks()) == 40


def test_flipped_bytes_are_found_by_the_clustering(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "FIT_ROWS", 6)
    done = run_extraction(configure(cache_format="npy", shard_size=5))
    identity = identify(done.config, done.model, done.record)
    for position in range(1, 40, 6):
        flip(done, position)
        with pytest.raises(CorruptedShardError, match="checksum differs"):
            cluster_layer(done.record, identity, "fc1")
        flip(done, position)
        assert not list((done.directory / "clusterings").glob("fc1-*"))


def test_a_chunk_with_the_last_row_to_fit_on_and_the_first_other_one(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_extraction(configure(cache_format="zarr", shard_size=40))
    expected = LayerRows(done.storage, "fc1", done.ids).take(np.arange(40))
    monkeypatch.setattr(order, "FIT_ROWS", 12)
    for where, block in LayerRows(done.storage, "fc1", done.ids).blocks():
        np.testing.assert_array_equal(block, expected[where])


def test_rows_of_a_chunk_are_read_by_decompressing_it_once(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_extraction(configure(cache_format="zarr", shard_size=40))
    rows = LayerRows(done.storage, "conv2", done.ids)
    whole = rows.take(np.arange(40))
    reads: list[int] = []
    read = ZarrStore.read

    def counted(store: ZarrStore, layer: str, ids: np.ndarray, at: np.ndarray) -> np.ndarray:
        reads.append(len(ids))
        return read(store, layer, ids, at)

    monkeypatch.setattr(ZarrStore, "read", counted)
    some = np.array([0, 3, 9, 11, 38])
    np.testing.assert_array_equal(rows.take(some), whole[some])
    assert reads == [5]

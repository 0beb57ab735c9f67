from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clusterpaths.cache.manifest import ShardRecord, as_planned, forget_shard, require_manifest
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError
from clusterpaths.extraction.again import run_again
from clusterpaths.extraction.begin import begin_extraction, mark_missing, widen_layers
from clusterpaths.extraction.sample import plan_sample, whole_shards
from tests.clusterpaths.conftest import LAYERS, Extracted, image_of, make_plan, read_rows, run_extraction

Configure = Callable[..., RunConfig]


@pytest.fixture
def done(configure: Configure) -> Extracted:
    """40 images in shards of 16, 16 and 8; activations of all are there."""
    return run_extraction(configure(cache_format="none"))


def is_recorded(parts: dict[int, ShardRecord]) -> dict[int, bool]:
    return {index: part.rows is not None for index, part in parts.items()}


def test_a_sample_is_a_cache_of_the_same_shards_as_far_as_it_goes(configure: Configure) -> None:
    config = configure(cache_format="none", cache_dtype="float16")
    begin_extraction(make_plan(config)[1])
    cache = require_manifest(config.cache_dir)
    ids = np.concatenate([shard.planned_ids()[::3] for shard in (cache.shards[0], cache.shards[2])])
    parts = plan_sample(config.cache_dir, ids)
    assert sorted(parts) == [0, 2]
    assert np.concatenate([part.planned_ids() for part in parts.values()]).tolist() == ids.tolist()
    assert [part.start for part in parts.values()] == [0, 64]
    own = require_manifest(config.cache_dir / "sample")
    assert (own.format, own.dtype, own.layers) == ("zarr", "float16", cache.layers)
    assert own.shards == tuple(parts.values())
    assert is_recorded(parts) == {0: False, 2: False}


def test_what_an_interrupted_run_has_left_is_reused(done: Extracted) -> None:
    assert is_recorded(plan_sample(done.storage, done.ids)) == dict.fromkeys(range(3), True)
    forget_shard(done.storage / "sample", 1)
    parts = plan_sample(done.storage, done.ids)
    assert is_recorded(parts) == {0: True, 1: False, 2: True}
    run_again(done.job, require_manifest(done.storage).shards[1], (), parts[1])
    assert is_recorded(plan_sample(done.storage, done.ids)) == dict.fromkeys(range(3), True)


@pytest.mark.parametrize("left", ["nothing", "metadata that is cut"])
def test_a_run_that_was_stopped_before_it_had_made_room_is_gone_on_with(done: Extracted, left: str) -> None:
    plan_sample(done.storage, done.ids[::2])  # recorded: no shard
    for layer in LAYERS:
        (done.storage.path / "sample" / layer / "zarr.json").write_text('{"shape": [')
        if left == "nothing":
            shutil.rmtree(done.storage.path / "sample" / layer)
    parts = plan_sample(done.storage, done.ids[::2])
    for shard in require_manifest(done.storage).shards:
        run_again(done.job, shard, (), parts[shard.index])
    assert is_recorded(plan_sample(done.storage, done.ids[::2])) == dict.fromkeys(range(3), True)


def test_a_sample_of_other_examples_is_replaced(done: Extracted) -> None:
    before = {layer: read_rows(done, layer) for layer in LAYERS}
    parts = plan_sample(done.storage, done.ids[::2])
    assert is_recorded(parts) == dict.fromkeys(range(3), False)
    for shard in require_manifest(done.storage).shards:
        run_again(done.job, shard, (), parts[shard.index])
    for layer in LAYERS:
        np.testing.assert_array_equal(read_rows(done, layer, ids=done.ids[::2]), before[layer][::2])
    with pytest.raises(CacheError, match="lacks the activations of 20 of 40 examples"):
        read_rows(done, "conv1")


def test_a_sample_of_another_dtype_is_replaced(configure: Configure) -> None:
    done = run_extraction(configure(cache_format="none", cache_dtype="float16"))
    widen_layers(done.storage, ["conv2"])
    assert is_recorded(plan_sample(done.storage, done.ids)) == dict.fromkeys(range(3), False)
    assert require_manifest(done.storage / "sample").layers["conv2"].dtype == "float32"


@pytest.mark.parametrize("content", [b"", b"{}", b"<html>"])
def test_a_corrupted_manifest_of_the_sample_is_replaced(done: Extracted, content: bytes) -> None:
    (done.directory / "sample" / "manifest.json").write_bytes(content)
    assert whole_shards(done.storage, require_manifest(done.storage).shards) == {}
    assert is_recorded(plan_sample(done.storage, done.ids)) == dict.fromkeys(range(3), False)
    require_manifest(done.storage / "sample")


def test_a_shard_of_the_sample_whose_files_are_gone_is_made_again(done: Extracted) -> None:
    before = read_rows(done, "conv1")
    chunk = done.directory / "sample" / "conv1" / "c" / "1" / "0" / "0" / "0"
    chunk.unlink()
    parts = plan_sample(done.storage, done.ids)
    assert is_recorded(parts) == {0: True, 1: False, 2: True}
    assert parts[1] == as_planned(parts[1])
    run_again(done.job, require_manifest(done.storage).shards[1], (), parts[1])
    np.testing.assert_array_equal(read_rows(done, "conv1"), before)


def test_a_corrupted_shard_is_marked_missing_in_both(done: Extracted) -> None:
    mark_missing(done.storage, 1)
    for storage in (done.storage, done.storage / "sample"):
        assert [shard.rows for shard in require_manifest(storage).shards] == [16, None, 8]


def test_shards_are_whole_where_every_row_is_in_the_sample(configure: Configure, own_faces: Path) -> None:
    image_of(own_faces, 5).write_bytes(b"no image")  # in shard 0
    done = run_extraction(configure(cache_format="none", data_root=own_faces, max_failures=0.1))
    shards = require_manifest(done.storage).shards
    assert [shard.rows for shard in shards] == [15, 16, 8]
    whole = whole_shards(done.storage, shards)
    assert sorted(whole) == [0, 1, 2]  # the failed example has no row in either
    assert [whole[index].rows for index in range(3)] == [15, 16, 8]
    assert sorted(whole_shards(done.storage, shards[1:2])) == [1]
    parts = plan_sample(done.storage, done.ids[done.ids != done.ids[-1]])  # all but the last one
    for shard in shards:
        run_again(done.job, shard, (), parts[shard.index])
    assert sorted(whole_shards(done.storage, shards)) == [0, 1]
    (done.storage / "sample").remove_tree()
    assert whole_shards(done.storage, shards) == {}

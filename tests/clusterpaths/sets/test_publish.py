from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clusterpaths.clustering.assign import Assigner
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError, DiskError
from clusterpaths.sets import publish
from clusterpaths.sets.find import find_set, list_sets
from clusterpaths.sets.publish import describe_newest, publish_set
from clusterpaths.sets.published import open_set
from tests.clusterpaths.conftest import LAYERS, NUMBERS, run_stages

Configure = Callable[..., RunConfig]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_documents_have_the_contracts_shapes(configure: Configure) -> None:
    done = run_stages(configure(k="3,fc1=2"))
    path, record = done.published.path, done.published.record
    centroids, paths, metadata = (
        read(path / "centroids.json"), read(path / "paths.json"), read(done.directory / "metadata.json")
    )  # fmt: skip
    assert list(centroids) == list(LAYERS)
    assert {layer: np.shape(rows) for layer, rows in centroids.items()} == {
        "conv1": (3, 1024), "conv2": (3, 384), "fc1": (2, 10)
    }  # fmt: skip
    assert list(paths) == [f"example_{number - 1:04d}" for number in NUMBERS]
    assert all(len(p) == 3 and all(isinstance(c, int) for c in p) for p in paths.values())
    assert {key: metadata[key] for key in ("num_examples", "layers", "k", "distance", "k_per_layer")} == {
        "num_examples": 40, "layers": list(LAYERS), "k": 3, "distance": "cosine",
        "k_per_layer": {"conv1": 3, "conv2": 3, "fc1": 2},
    }  # fmt: skip
    table = pq.read_table(path / "paths.parquet")
    assert np.column_stack([table[layer].to_numpy() for layer in LAYERS]).tolist() == list(paths.values())
    twins = np.load(path / "centroids.npz")
    for layer in LAYERS:
        np.testing.assert_array_equal(np.array(centroids[layer], np.float32), twins[layer])
        assert record.clusters[layer].sizes == tuple(np.bincount(table[layer].to_numpy()).tolist())
    assert open_set(done.directory / "set_01") == done.published


def test_another_seed_makes_the_next_set_and_metadata_are_of_the_newest(configure: Configure) -> None:
    first = run_stages(configure())
    second = run_stages(configure(seed=1))
    assert list_sets(first.storage) == ["set_01", "set_02"]
    assert (second.plan.pending, read(second.directory / "metadata.json")["seed"]) == ((), 1)
    for done in (first, second):
        assert find_set(done.storage, done.identity.fingerprint()) == done.published
    assert find_set(first.storage, "0" * 64) is None
    describe_newest(first.published)
    assert read(second.directory / "metadata.json")["set"] == "set_02"


def test_numbers_go_on_behind_the_largest_also_of_folders_that_are_not_ours(configure: Configure) -> None:
    done = run_stages(configure())
    for name in ("set_9", "set_100", "set_x", ".set_200.partial"):
        (done.directory / name).mkdir()
    (done.directory / "set_300").write_text("a file")
    assert list_sets(done.storage) == ["set_01", "set_9", "set_100"]
    assert find_set(done.storage, done.identity.fingerprint()) == done.published
    with pytest.raises(CacheError, match=r"set_100.set\.json does not exist"):
        open_set(done.directory / "set_100")
    assert run_stages(configure(seed=1)).published.record.set == "set_101"


@pytest.mark.parametrize("name", ["centroids.json", "paths.json", "set.json"])
def test_full_disk_in_the_middle_leaves_nothing_half_written(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    done = run_stages(configure())
    shutil.rmtree(done.published.path)
    traced = done.directory / "traced.parquet"
    again = run_stages(configure(name="again"))
    shutil.copy(again.published.path / "paths.parquet", traced)
    before = sorted(path.name for path in done.directory.iterdir())
    monkeypatch.setattr(publish, "assigner_of", lambda *_: Assigner(np.zeros((3, 2), np.float32), "cosine"))
    monkeypatch.setattr(publish, "write_maps_of", lambda *_: None)  # the labels that they are of are gone
    write = Path.write_text

    def full(path: Path, text: str, **options: str) -> int:
        if path.name == name:
            write(path, text[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DiskError, match="The disk is full"):
        publish_set(
            done.config,
            done.job,
            done.record,
            done.identity,
            done.fits,
            done.traced.model_copy(update={"file": traced}),
        )
    assert sorted(path.name for path in done.directory.iterdir()) == before


def test_left_overs_of_killed_runs_are_cleared(configure: Configure) -> None:
    done = run_stages(configure())
    left = [done.directory / ".set_02.1a2b.partial", done.directory / "clusterings"]
    for folder in left:
        folder.mkdir()
        (folder / "x").write_text("")
    left += [done.directory / ".manifest.json.1a2b.partial", done.directory / "examples" / ".00000.parquet.1a.partial"]
    for file in left[2:]:
        file.write_text("")
    (done.directory / "metadata.json").unlink()
    describe_newest(done.published)
    assert not [path for path in left if path.exists()]
    assert read(done.directory / "metadata.json")["set"] == "set_01"

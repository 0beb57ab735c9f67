"""The recluster flow: the next set where something is new, and none where nothing is.

With --k auto: test_choose_flow.py; through a worker, with its alarm: tests/deployments/test_deployments.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from clusterpaths.cache.manifest import read_manifest
from clusterpaths.config import RunConfig
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.sets.find import list_sets
from clusterpaths.storage import open_storage
from tests.runs import SAMPLE_MODEL, listening, run_pipeline, written

pytestmark = pytest.mark.usefixtures("prefect_server")


def recluster(cache_root: Path, **changes: Any) -> list[str]:
    """What the flow logs."""
    from flows.recluster import recluster

    lines: list[str] = []
    with listening(lines):
        state = recluster(name="Growing", cache_root=cache_root, return_state=True, **changes)
    assert state.is_completed(), state.message
    return lines


def test_recluster_makes_the_next_set_only_where_something_is_new(tmp_path: Path) -> None:
    data, cache = tmp_path / "data", tmp_path / "Growing"
    write_faces(data, 40, seed=21)
    run_pipeline(
        RunConfig(
            model=SAMPLE_MODEL, data_root=data, cache_root=tmp_path, name="Growing", layers="fc1,fc2", shard_size=20,
            evaluate=False,
        )
    )  # fmt: skip
    before = written(cache)
    recluster(tmp_path, k=7)
    assert list_sets(cache) == ["set_01", "set_02"]

    assert any("no set was published" in line for line in recluster(tmp_path))
    assert list_sets(cache) == ["set_01", "set_02"]

    shutil.rmtree(data)
    write_faces(data, 60, seed=21)  # the 40 and 20 more
    recluster(tmp_path)
    assert list_sets(cache) == ["set_01", "set_02", "set_03"]
    manifest = read_manifest(open_storage(cache))
    assert manifest is not None
    assert [shard.row_ids().tolist() for shard in manifest.shards[2:]] == [list(range(40, 60))]
    assert {file: file.stat().st_mtime_ns for file in before} == before

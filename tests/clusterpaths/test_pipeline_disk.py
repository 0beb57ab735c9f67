"""A disk that fills up while a run extracts: what was recorded stays, and with more room the run goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterpaths.cache.examples import PARTS, part_file
from clusterpaths.cache.manifest import read_manifest
from clusterpaths.config import RunConfig
from clusterpaths.errors import DiskError
from clusterpaths.records import CacheFormat
from clusterpaths.storage import open_storage
from tests.runs import assert_same_documents, run_pipeline

PAGE = 4096  # bytes: what a file takes there is a multiple of it


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """mount(bytes) -> a disk of that size; again, for another size of the same one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = False

    def with_size(size: int) -> Path:
        nonlocal mounted
        options = f"{'remount,' if mounted else ''}size={size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("mounting a small disk needs root")
        mounted = True
        return disk

    yield with_size
    if mounted:
        subprocess.run(["umount", "-l", disk], check=True)


def taken(folder: Path) -> int:
    """Bytes on such a disk."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("cache_format", ["npy", "zarr", "none"])
def test_what_was_recorded_stays_and_the_run_goes_on_with_more_room(
    cache_format: CacheFormat,
    mount: Callable[[int], Path],
    configure: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: dict[str, Any] = {
        "cache_format": cache_format, "shard_size": 4, "workers": 1, "evaluate": False, "check_preprocessing": False,
    }  # fmt: skip
    roomy = run_pipeline(configure(**given, cache_root=tmp_path / "room"))
    small = mount((taken(roomy.cache) - taken(roomy.folder)) * 2 // 3)
    monkeypatch.setattr("clusterpaths.extraction.plan.check_room", lambda plan: None)  # another program filled it later
    with pytest.raises(DiskError, match=r"The disk is full: writing .*run the same command again"):
        run_pipeline(configure(**given, cache_root=small))
    assert not list(small.rglob("set_*"))
    cache = small / "T"
    manifest = read_manifest(open_storage(cache))
    assert manifest is not None
    recorded = [shard.index for shard in manifest.shards if shard.rows is not None]
    assert 1 <= len(recorded) < len(manifest.shards)
    parts = {part: part.stat().st_mtime_ns for part in (cache / PARTS / part_file(index) for index in recorded)}
    mount(100_000_000)
    run = run_pipeline(configure(**given, cache_root=small))
    assert {part: part.stat().st_mtime_ns for part in parts} == parts  # what was recorded was not made again
    assert_same_documents(roomy.folder, run.folder)

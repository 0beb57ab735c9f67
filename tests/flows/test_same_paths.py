"""Same paths: whatever the cache's format, the engine, the workers, batch and shard sizes.

Belongs here: results of whole chains beside one another, all with float32; what float16 may change is in
tests/real/test_same_paths_real.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.config import RunConfig
from clusterpaths.pipeline import run
from tests.runs import SAMPLE_MODEL, assert_same_documents, paths_of, succeed

SHARD, BATCH = 64, 32
FLOAT32 = {"npy": {"cache_dtype": "float32"}, "zarr": {"cache_dtype": "float32"}, "none": {}}


def chosen(faces: Path, root: Path, cache_format: str, **more: Any) -> dict[str, Any]:
    given = {"model": SAMPLE_MODEL, "data_root": faces.parent, "cache_root": root, "cache_format": cache_format}
    return given | {"shard_size": SHARD, "batch_size": BATCH} | FLOAT32[cache_format] | more


def in_process(faces: Path, root: Path, cache_format: str, **more: Any) -> Path:
    """The set's folder, made without Prefect."""
    published = run(RunConfig(**chosen(faces, root, cache_format, **more))).published
    assert published
    return published.path


@pytest.fixture(scope="module")
def first(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return in_process(faces, tmp_path_factory.mktemp("first"), "npy")


@pytest.mark.parametrize("cache_format", ["zarr", "none"])
def test_every_format_gives_the_same_documents(first: Path, faces: Path, tmp_path: Path, cache_format: str) -> None:
    assert_same_documents(first, in_process(faces, tmp_path, cache_format))


@pytest.mark.parametrize("cache_format", ["npy", "zarr", "none"])
@pytest.mark.parametrize("shard_size", [128, 512])
def test_shards_that_leave_the_batches_as_they_are_change_nothing(
    first: Path, faces: Path, tmp_path: Path, cache_format: str, shard_size: int
) -> None:
    """Of 300 examples, all batches have 32 of them but the last."""
    assert_same_documents(first, in_process(faces, tmp_path, cache_format, shard_size=shard_size))


@pytest.mark.parametrize("cache_format", ["npy", "none"])
@pytest.mark.parametrize(("batch_size", "shard_size"), [(1, 64), (7, 50), (100, 512)])
def test_batches_of_any_size_give_the_same_paths(
    first: Path, faces: Path, tmp_path: Path, cache_format: str, batch_size: int, shard_size: int
) -> None:
    """ONNX Runtime chooses kernels by the size of a run: activations may differ in their last bits, and so centroids."""
    other = in_process(faces, tmp_path, cache_format, batch_size=batch_size, shard_size=shard_size)
    assert paths_of(first) == paths_of(other)
    one, another = (json.loads((folder / "centroids.json").read_text()) for folder in (first, other))
    for layer, centroids in one.items():
        np.testing.assert_allclose(another[layer], centroids, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("cache_format", "more"),
    [
        ("npy", {"workers": 1}),
        ("zarr", {"workers": 2}),
        ("none", {"workers": 2}),
        ("none", {"workers": 2, "engine": "dask"}),
    ],
    ids=["npy, one thread", "zarr, two threads", "none, two threads", "none, two on Dask"],
)
def test_threads_and_dask_workers_give_the_same_documents(
    first: Path, faces: Path, tmp_path: Path, cache_format: str, more: dict[str, Any]
) -> None:
    if more.get("engine") == "dask":
        pytest.importorskip("prefect_dask", reason="needs the extra [dask]")
    run = succeed(**chosen(faces, tmp_path, cache_format, **more))
    assert run.path is not None
    assert_same_documents(first, run.path)

"""Same paths: whatever the cache's format, the workers, batch and shard sizes. Dask's are in tests/flows/test_dask.py.

Belongs here: results of whole runs beside one another, with float32 but for one; what float16 may change is in
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
from tests.runs import SAMPLE_MODEL, assert_same_documents, paths_of

SHARD, BATCH = 64, 32
LAYERS = ("conv3", "fc1", "fc2")
FLOAT32 = {"npy": {"cache_dtype": "float32"}, "zarr": {"cache_dtype": "float32"}, "none": {}}


def made(photos: Path, root: Path, cache_format: str, **more: Any) -> Path:
    """The set's folder, of 203 faces."""
    given: dict[str, Any] = {
        "model": SAMPLE_MODEL, "dataset": "folder", "data_root": photos, "cache_root": root, "name": "T",
        "layers": LAYERS, "cache_format": cache_format, "shard_size": SHARD, "batch_size": BATCH,
        "evaluate": False, "check_preprocessing": False,
    }  # fmt: skip
    published = run(RunConfig(**given | FLOAT32[cache_format] | more)).published
    assert published
    return published.path


@pytest.fixture(scope="module")
def first(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(photos, tmp_path_factory.mktemp("first"), "npy", workers=1)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("cache_format", ["npy", "zarr", "none"])
def test_every_format_and_any_number_of_threads_give_the_same_documents(
    first: Path, photos: Path, tmp_path: Path, cache_format: str, workers: int
) -> None:
    assert_same_documents(first, made(photos, tmp_path, cache_format, workers=workers))


@pytest.mark.parametrize("cache_format", ["npy", "zarr", "none"])
@pytest.mark.parametrize("shard_size", [128, 512])
def test_shards_that_leave_the_batches_as_they_are_change_nothing(
    first: Path, photos: Path, tmp_path: Path, cache_format: str, shard_size: int
) -> None:
    """Of 203 examples, all batches have 32 of them but the last."""
    assert_same_documents(first, made(photos, tmp_path, cache_format, shard_size=shard_size))


@pytest.mark.parametrize("cache_format", ["npy", "none"])
@pytest.mark.parametrize(("batch_size", "shard_size"), [(1, 64), (7, 50), (100, 512)])
def test_batches_of_any_size_give_the_same_paths(
    first: Path, photos: Path, tmp_path: Path, cache_format: str, batch_size: int, shard_size: int
) -> None:
    """ONNX Runtime chooses kernels by the size of a run: activations may differ in their last bits, and so centroids."""
    other = made(photos, tmp_path, cache_format, batch_size=batch_size, shard_size=shard_size)
    assert paths_of(first) == paths_of(other)
    one, another = (json.loads((folder / "centroids.json").read_text()) for folder in (first, other))
    for layer, centroids in one.items():
        np.testing.assert_allclose(another[layer], centroids, rtol=0, atol=1e-5)


def test_float16_of_any_format_and_of_other_shards_batches_and_threads_is_the_same_bytes(
    photos: Path, tmp_path: Path
) -> None:
    """float16 hides what the size of a batch does to the last bits of float32."""
    half = {"cache_dtype": "float16"}
    npy = made(photos, tmp_path / "npy", "npy", **half, workers=1, batch_size=20, shard_size=100)
    assert_same_documents(npy, made(photos, tmp_path / "zarr", "zarr", **half, workers=2))
    assert_same_documents(npy, made(photos, tmp_path / "none", "none", **half, workers=2, shard_size=50))

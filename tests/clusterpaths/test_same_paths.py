"""Same paths: whatever the cache's format, the workers, batch and shard sizes. Dask's are in tests/flows/test_dask.py.

Belongs here: results of whole runs beside one another, with float32 but for one; what float16 may change is in
tests/real/test_same_paths_real.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.clustering import identity
from clusterpaths.config import RunConfig
from clusterpaths.extraction import extract, plan
from clusterpaths.pipeline import run
from clusterpaths.running import stages
from tests.runs import SAMPLE_MODEL, assert_same_documents, paths_of

SHARD, BATCH = 64, 32
LAYERS = ("conv3", "fc1", "fc2")
FLOAT32 = {"npy": {"cache_dtype": "float32"}, "zarr": {"cache_dtype": "float32"}, "none": {}}
FIT = 60  # examples, where not all are in the sample


def made(photos: Path, root: Path, cache_format: str, **more: Any) -> Path:
    """The set's folder, of 203 faces."""
    given: dict[str, Any] = {
        "model": SAMPLE_MODEL, "dataset": "folder", "data_root": photos, "cache_root": root, "name": "T",
        "layers": LAYERS, "cache_format": cache_format, "shard_size": SHARD, "batch_size": BATCH,
        "evaluate": False, "check_preprocessing": False,
    }  # fmt: skip
    return path_of(RunConfig(**given | FLOAT32[cache_format] | more))


def path_of(config: RunConfig) -> Path:
    published = run(config).published
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


# One pass: layers are fitted on 60 of the 203 examples; the others are extracted and assigned in one go. Any way there
# gives the same bytes.


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (plan, identity):
        monkeypatch.setattr(module, "fit_size", lambda _k: FIT)


@pytest.fixture(scope="module")
def of_few(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By dtype; one thread, npy, undisturbed."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (plan, identity):
            patch.setattr(module, "fit_size", lambda _k: FIT)
        root = tmp_path_factory.mktemp("few")
        return {
            dtype: made(photos, root / dtype, "npy", workers=1, cache_dtype=dtype) for dtype in ("float16", "float32")
        }


class StoppedError(Exception):
    pass


def at_call(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which stops the run at this call of it."""
    calls = 0

    def stopping(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise StoppedError
        return function(*args, **options)

    stopping.__name__ = function.__name__
    return stopping


# what stops, at which of its calls; the sample has one shard of 64 examples or fewer, the others three
STOPS: dict[str, tuple[Any, str, int]] = {
    "in the sample": (extract, "record_shard", 1),
    "before the fit": (stages, "fit_layer", 1),
    "in the fit": (stages, "fit_layer", 3),
    "before the other shards": (stages, "extract_shard", 2),
    "in a fused shard": (extract, "record_shard", 3),
    "before the last shard": (extract, "record_shard", 4),
    "before the sample is assigned": (stages, "assign_shard", 1),
    "before the trace": (stages, "trace_paths", 1),
    "before publication": (stages, "publish_set", 1),
}


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("cache_format", ["npy", "zarr", "none"])
def test_stopped_anywhere_and_resumed(
    of_few: dict[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_format: str, stop: str
) -> None:
    module, name, number = STOPS[stop]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, at_call(number, getattr(module, name)))
        with pytest.raises(StoppedError):
            made(photos, tmp_path, cache_format, cache_dtype="float32", workers=1)
    resumed = made(photos, tmp_path, cache_format, cache_dtype="float32", shard_size=50, workers=2)
    assert_same_documents(of_few["float32"], resumed)
    assert not list((tmp_path / "T").glob("sample*"))
    assert not (tmp_path / "T" / "shards").exists()


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("cache_format", ["npy", "zarr", "none"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("workers", "shard_size"), [(1, 64), (2, 32), (3, 512)])
def test_assigned_while_extracted_or_from_the_cache(
    of_few: dict[str, Path], photos: Path, tmp_path: Path, cache_format: str, dtype: str, workers: int, shard_size: int
) -> None:
    options = {"cache_dtype": dtype, "workers": workers, "shard_size": shard_size}
    fused = made(photos, tmp_path / "fused", cache_format, **options)
    assert_same_documents(of_few[dtype], fused)
    made(photos, tmp_path / "cached", cache_format, k=4, **options)
    cached = made(photos, tmp_path / "cached", cache_format, **options)
    assert cached.name == "set_02"
    assert_same_documents(of_few[dtype], cached)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("cache_format", ["npy", "zarr", "none"])
@pytest.mark.parametrize("batch_size", [20, 100])
def test_float16_of_other_batches(
    of_few: dict[str, Path], photos: Path, tmp_path: Path, cache_format: str, batch_size: int
) -> None:
    other = made(photos, tmp_path, cache_format, cache_dtype="float16", batch_size=batch_size, shard_size=100)
    assert_same_documents(of_few["float16"], other)


@pytest.mark.usefixtures("few")
def test_examples_that_came_later_are_assigned_to_a_fit_of_the_same_sample(photos: Path, tmp_path: Path) -> None:
    """The sample of the first 150 is not that of all: layers are fitted anew, on examples of several shards."""
    grown = made(photos, tmp_path / "grown", "zarr", subset=150, batch_size=1, cache_dtype="float16")
    grown = made(photos, tmp_path / "grown", "zarr", batch_size=1, cache_dtype="float16")
    fresh = made(photos, tmp_path / "fresh", "zarr", batch_size=1, cache_dtype="float16")
    assert grown.name == "set_02"
    assert_same_documents(fresh, grown)

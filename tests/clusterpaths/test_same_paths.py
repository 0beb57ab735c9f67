"""Same paths: whatever the cache's format, the workers, batch and shard sizes, and whatever was there before.

Belongs here: results of whole runs beside one another. On Prefect's threads and Dask workers: tests/flows/test_celeba.py and
test_dask.py; on real images, and what float16 may change: tests/real/test_same_paths_real.py. Killed runs are
test_pipeline_resume.py, corrupted files test_pipeline_damage.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.cache import fit_sample
from clusterpaths.cache.manifest import require_manifest
from clusterpaths.config import RunConfig
from clusterpaths.pipeline import run
from clusterpaths.running.runner import InProcess
from clusterpaths.sets.published import open_set
from clusterpaths.storage import open_storage
from tests.clusterpaths.conftest import image_of, write_celeba, write_cnn
from tests.runs import SAMPLE_MODEL, assert_same_documents, paths_of

COUNT, FEW = 130, 30  # more and fewer than a sample
K, OTHER_K = 8, 3  # fitted on 64 and on 40 of them
UNREADABLE = (7, 41, 50, 77, 122, 129)  # in the sample and out of it
BRIGHT = (1, 14, 91, 127)
FORMATS, DTYPES = ("npy", "zarr", "none"), ("float16", "float32")
Make = Callable[..., Path]
Before = Callable[[Make, dict[str, Any]], None]


@pytest.fixture(autouse=True)
def _small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_sample, "FIT_ROWS", 40)
    monkeypatch.setattr(fit_sample, "FIT_ROWS_PER_CLUSTER", 8)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """130 drawn images, six of which cannot be read."""
    root = write_celeba(tmp_path_factory.mktemp("images"), range(1, COUNT + 1))
    for number in UNREADABLE:
        image_of(root, number).write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CNN whose fc1 has an odd number of values, conv2 a multiple of 16."""
    return write_cnn(tmp_path_factory.mktemp("odd") / "odd.onnx", width=7)


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A CNN whose conv2 exceeds float16, for images that are in no sample of this module."""

    def colour(number: int) -> tuple[int, ...]:
        if number in BRIGHT:
            return 250, 250, 250
        return tuple(np.random.default_rng(number).integers(0, 60, 3).tolist())

    root = write_celeba(tmp_path_factory.mktemp("bright"), range(1, COUNT + 1), colour)
    model = write_cnn(root / "bright.onnx", factor=30000, width=7)
    return {"model": model, "data_root": root}


@pytest.fixture
def make(odd: Path, images: Path, tmp_path: Path) -> Make:
    """The set's directory of a run; options by keyword."""

    def made(runner: InProcess | None = None, **options: Any) -> Path:
        given: dict[str, Any] = {
            "model": odd, "data_root": images, "cache_root": tmp_path, "name": "T", "k": K, "preprocessing": "unit",
            "max_failures": 0.2, "evaluate": False, "check_preprocessing": False,
        }  # fmt: skip
        published = run(RunConfig(**given | options), runner).published
        assert published
        return published.path

    return made


@pytest.fixture(scope="module")
def references() -> dict[Any, Path]:
    """What the runs of each dtype, data and k are compared with: npy, one worker, batches of 32, shards of 512."""
    return {}


def assert_same_set(one: Path, other: Path) -> None:
    """Documents byte for byte, and clusters with their inertia."""
    assert_same_documents(one, other)
    assert open_set(one).record.clusters == open_set(other).record.clusters


class Stopping(InProcess):
    """Stops a run when the nth piece of a stage is submitted."""

    def __init__(self, workers: int, stage: str, nth: int) -> None:
        super().__init__(workers)
        self._stage, self._left = stage, nth

    def submit(self, stage: Callable[..., Any], *args: Any, name: str = "") -> Any:
        if stage.__name__ == self._stage:
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt
        return super().submit(stage, *args, name=name)


# What was there before a run: functions that leave it


def nothing(_make: Make, _options: dict[str, Any]) -> None:
    """Every shard is new."""


def same_settings(make: Make, options: dict[str, Any]) -> None:
    """Everything is in the cache, and fitted and assigned again."""
    shutil.rmtree(make(**options))


def another_k(make: Make, options: dict[str, Any]) -> None:
    """A smaller sample: some of this run's lies in shards that were no sample's."""
    make(**options | {"k": OTHER_K})


def larger_k(make: Make, options: dict[str, Any]) -> None:
    """A larger sample: this run's is part of it."""
    make(**options | {"k": K + 2})


def a_subset(make: Make, options: dict[str, Any]) -> None:
    """Of which all were fitted on, in shards and batches of their own."""
    make(**options | {"subset": 50, "batch_size": 16, "shard_size": 20})


def stopped_in_the_sample(make: Make, options: dict[str, Any]) -> None:
    _stopped(make, options, "extract_shard", 2)


def stopped_between_fits(make: Make, options: dict[str, Any]) -> None:
    _stopped(make, options, "fit_layer", 3)


def stopped_in_the_rest(make: Make, options: dict[str, Any]) -> None:
    _stopped(make, options, "extract_shard", 5)


def _stopped(make: Make, options: dict[str, Any], stage: str, nth: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(Stopping(options["workers"], stage, nth), **options | {"shard_size": 20})


BEFORE = (
    nothing, same_settings, another_k, larger_k, a_subset, stopped_in_the_sample, stopped_between_fits,
    stopped_in_the_rest,
)  # fmt: skip
SIZES = list(product((1, 2, 3), (1, 7, 32), (5, 64, 512)))  # workers, batch, shard
DATA: dict[str, dict[str, Any]] = {
    "many": {},
    "few": {"subset": FEW},  # a sample is all of them
    "euclidean": {"distance": "euclidean"},
    "bright": {},  # activations beyond float16, of images that are not in the sample
    "fit all": {"fit": "all"},
}
TABLE = [
    *product(["many"], FORMATS, DTYPES, BEFORE),
    *product(["few", "euclidean"], FORMATS, DTYPES, [nothing, larger_k]),
    *product(["bright"], FORMATS, ["float16"], [nothing, another_k, stopped_in_the_rest]),
    *product(["fit all"], ["npy", "zarr"], DTYPES, [nothing, another_k, stopped_in_the_rest]),
]
CASES = [(*row, *SIZES[number * 8 % len(SIZES)]) for number, row in enumerate(TABLE)]  # 27 sizes, in turn


@pytest.mark.parametrize(("data", "cache_format", "dtype", "before", "workers", "batch", "shard"), CASES)
def test_the_same_bytes_however_a_set_is_made(
    make: Make, references: dict[Any, Path], bright: dict[str, Any], tmp_path_factory: pytest.TempPathFactory,
    data: str, cache_format: str, dtype: str, before: Before, workers: int, batch: int, shard: int,
) -> None:  # fmt: skip
    own = DATA[data] | {"cache_dtype": dtype} | (bright if data == "bright" else {})
    if (data, dtype) not in references:
        root = tmp_path_factory.mktemp("reference")
        same = {"cache_format": "npy", "workers": 1, "batch_size": 32, "shard_size": 512}
        references[data, dtype] = make(**own | same | {"cache_root": root})
    options = own | {"cache_format": cache_format, "workers": workers, "batch_size": batch, "shard_size": shard}
    before(make, options)
    found = make(**options)
    assert_same_set(references[data, dtype], found)
    layers = require_manifest(open_storage(found.parent)).layers
    widened = [layer for layer, record in layers.items() if record.dtype != dtype]
    assert widened == (["conv2"] if data == "bright" else [])


def test_on_all_examples_and_on_a_sample_of_no_fewer_the_same_is_fitted(make: Make, tmp_path: Path) -> None:
    few = make(cache_root=tmp_path / "sample", subset=FEW)
    assert_same_set(few, make(cache_root=tmp_path / "all", subset=FEW, fit="all"))
    many, every = make(cache_root=tmp_path / "sample"), make(cache_root=tmp_path / "all", fit="all")
    assert (many / "centroids.npz").read_bytes() != (every / "centroids.npz").read_bytes()


# A trained CNN on drawn faces: the size of a run chooses ONNX Runtime's kernels
PHOTOS: dict[str, Any] = {
    "model": SAMPLE_MODEL, "dataset": "folder", "layers": ("conv3", "fc1", "fc2"), "k": 5, "preprocessing": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def of_photos(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return PHOTOS | {"data_root": photos}


@pytest.mark.parametrize("shard", [64, 512])
@pytest.mark.parametrize("cache_format", FORMATS)
def test_a_trained_cnn_gives_the_same_bytes_where_its_batches_are_the_same(
    make: Make, of_photos: dict[str, Any], tmp_path: Path, cache_format: str, shard: int
) -> None:
    """40 of 203 examples are fitted on: batches of 32 and 8, then of 32 and the last of 3, whatever the shards."""
    own = of_photos | {"cache_dtype": "float32", "batch_size": 32}
    first = make(**own, cache_root=tmp_path / "first", cache_format="npy", shard_size=128, workers=1)
    assert_same_set(
        first, make(**own, cache_root=tmp_path / "other", cache_format=cache_format, shard_size=shard, workers=2)
    )


@pytest.mark.parametrize("cache_format", ["npy", "none"])
@pytest.mark.parametrize(("batch", "shard"), [(1, 64), (7, 50), (100, 512)])
def test_batches_of_any_size_give_the_same_paths_of_a_trained_cnn(
    make: Make, of_photos: dict[str, Any], tmp_path: Path, cache_format: str, batch: int, shard: int
) -> None:
    """Activations may differ in their last bits, and so centroids."""
    own = of_photos | {"cache_dtype": "float32"}
    first = make(**own, cache_root=tmp_path / "first", cache_format="npy", shard_size=64, batch_size=32)
    other = make(**own, cache_root=tmp_path / "other", cache_format=cache_format, shard_size=shard, batch_size=batch)
    assert paths_of(first) == paths_of(other)
    one, another = (json.loads((folder / "centroids.json").read_text()) for folder in (first, other))
    for layer, centroids in one.items():
        np.testing.assert_allclose(another[layer], centroids, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("cache_format", "batch", "shard"), [("zarr", 32, 64), ("none", 7, 512)])
def test_float16_hides_what_the_size_of_a_batch_does_to_a_trained_cnn(
    make: Make, of_photos: dict[str, Any], tmp_path: Path, cache_format: str, batch: int, shard: int
) -> None:
    own = of_photos | {"cache_dtype": "float16"}
    first = make(**own, cache_root=tmp_path / "npy", cache_format="npy", workers=1, batch_size=20, shard_size=100)
    other = {"cache_format": cache_format, "batch_size": batch, "shard_size": shard, "workers": 2}
    assert_same_set(first, make(**own, cache_root=tmp_path / "other", **other))

"""Runs of the pipeline on results that are there: what is found, what is made, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError
from clusterpaths.pipeline import run
from tests.clusterpaths.conftest import LAYERS, write_celeba, write_cnn
from tests.runs import SHAPES, Run, assert_contract, paths_of, run_pipeline

Configure = Callable[..., RunConfig]
WITHOUT: dict[str, Any] = {"evaluate": False, "check_preprocessing": False}  # they run the model, too
WIDTHS = {layer: int(np.prod(shape)) for layer, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def first(cnn: Path, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Run]:
    """A configuration, and the run that made its set_01; not to be written to."""
    config = RunConfig(
        model=cnn, data_root=faces, cache_root=tmp_path_factory.mktemp("first"), name="T", k=3, preprocessing="unit",
        shard_size=16, batch_size=8, **WITHOUT,
    )  # fmt: skip
    return config, run_pipeline(config)


@pytest.fixture
def there(first: tuple[RunConfig, Run], tmp_path: Path) -> RunConfig:
    """As `first`, in results of this test's own."""
    config, run = first
    shutil.copytree(run.cache, tmp_path / "T")
    return config.model_copy(update={"cache_root": str(tmp_path)})


def again(config: RunConfig, **changes: Any) -> Run:
    return run_pipeline(RunConfig(**{name: getattr(config, name) for name in config.model_fields_set} | changes))


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != "report.html"}


def test_the_first_five_of_the_sample_leave_their_activations_and_three_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clusterpaths.common.roots.data_root", lambda: tmp_path / "data")
    run = run_pipeline(RunConfig(sample=True, sample_size=60, subset=5, cache_root=tmp_path / "cache", **WITHOUT))
    assert run.cache.name == "SampleFaces"
    for layer, shape in SHAPES.items():
        assert {path.name for path in (run.cache / layer).iterdir()} == {f"{i}.npy" for i in range(5)}
        assert {np.load(path).shape for path in (run.cache / layer).iterdir()} == {shape}
    assert_contract(run.folder, 5, WIDTHS, 5)
    assert list(paths_of(run.folder)) == [f"example_{i:04d}" for i in range(5)]
    assert (run.folder / "report.html").stat().st_size > 10_000


def test_nothing_half_written_stays_beside_a_set(first: tuple[RunConfig, Run]) -> None:
    cache = first[1].cache
    assert [path.name for path in cache.rglob("*partial*")] == []
    assert not (cache / "clusterings").exists()
    assert not (cache / ".lock.holder").exists()


def test_a_subset_of_a_larger_cache_needs_no_model(there: RunConfig) -> None:
    run = again(there, subset=10)
    assert run.batches == 0
    assert len(paths_of(run.folder)) == 10


def test_a_larger_subset_extracts_only_what_is_new(configure: Configure) -> None:
    assert run_pipeline(configure(**WITHOUT, subset=16)).batches == 2
    run = run_pipeline(configure(**WITHOUT, subset=32))
    assert run.batches == 2
    assert len(paths_of(run.folder)) == 32


def test_a_split_takes_the_examples_of_that_part_under_their_own_ids(configure: Configure) -> None:
    run = run_pipeline(configure(**WITHOUT, split="valid", k=2))
    assert list(paths_of(run.folder)) == [f"example_{i:04d}" for i in range(0, 58, 3)]  # images 1, 4, 7 …


def test_the_same_question_finds_its_set_and_says_so(there: RunConfig, tmp_path: Path) -> None:
    before = times(tmp_path / "T" / "set_01")
    run = again(there, workers=1, batch_size=7)  # how it is made is no part of the question
    assert run.folder.name == "set_01"
    assert run.batches == 0
    assert any("set_01 already has this result" in line for line in run.log)
    assert times(tmp_path / "T" / "set_01") == before


@pytest.mark.parametrize(
    "other",
    [{"k": 4}, {"seed": 1}, {"distance": "euclidean"}, {"layers": ("conv2", "fc1")}, {"subset": 39}],
    ids=lambda other: next(iter(other)),
)
def test_another_question_makes_the_next_set_without_running_the_model(there: RunConfig, other: dict[str, Any]) -> None:
    run = again(there, **other)
    assert run.folder.name == "set_02"
    assert run.batches == 0
    assert json.loads((run.cache / "metadata.json").read_text())["set"] == "set_02"


def test_k_of_each_layer_is_kept_and_said(there: RunConfig) -> None:
    run = again(there, k="3,conv2=7")
    expected = {layer: 7 if layer == "conv2" else 3 for layer in LAYERS}
    centroids = json.loads((run.folder / "centroids.json").read_text())
    assert {layer: len(rows) for layer, rows in centroids.items()} == expected
    assert json.loads((run.cache / "metadata.json").read_text())["k_per_layer"] == expected


def test_another_preprocessing_under_the_same_name_is_refused_with_all_differences(
    there: RunConfig, tmp_path: Path
) -> None:
    manifest = tmp_path / "T" / "manifest.json"
    before = manifest.read_bytes()
    with pytest.raises(CacheError) as refused:
        again(there, preprocessing="imagenet", cache_format="zarr", cache_dtype="float32")
    for expected in (
        "preprocessing mean: stored (0.0, 0.0, 0.0), required (0.485, 0.456, 0.406)",
        "preprocessing std: stored (1.0, 1.0, 1.0), required (0.229, 0.224, 0.225)",
        "cache format: stored npy, required zarr",
        "cache dtype: stored float16, required float32",
        "--name",
        "--refresh",
    ):
        assert expected in str(refused.value)
    with pytest.raises(CacheError, match=r"preprocessing scale: stored 0\.0039"):
        again(there, preprocessing="raw")
    assert manifest.read_bytes() == before


def test_refresh_makes_the_activations_again_and_keeps_the_sets(there: RunConfig) -> None:
    run = again(there, refresh=True, preprocessing="imagenet")
    assert run.batches == 5  # 40 images in batches of 8
    assert run.folder.name == "set_02"
    assert (run.cache / "set_01" / "paths.json").is_file()


def test_plan_says_what_would_be_done_and_writes_nothing(configure: Configure, tmp_path: Path) -> None:
    run = run_pipeline(configure(**WITHOUT, plan=True))
    assert run.path is None
    told = next(line for line in run.log if "40 examples" in line)
    assert "(0 in the cache, 40 to extract in 3 shards); 3 layers (conv1 4x16x16" in told
    assert "120 more files, 491.5 kB more as float16" in told
    assert "free on that disk" in told
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size] == []
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.mark.parametrize(("black", "new"), [(True, True), (False, False)])
def test_a_set_with_rows_of_zeros_at_distance_0_is_made_again_and_others_stay(
    tmp_path: Path, black: bool, new: bool
) -> None:
    """As an earlier version published them: their summaries do not count such rows, and noted them."""
    data = write_celeba(tmp_path / "faces", colour=lambda n: (0,) * 3 if black and n < 10 else (200, n % 9 * 20, n % 2))
    config = RunConfig(
        model=write_cnn(tmp_path / "m.onnx"), data_root=data, cache_root=tmp_path, name="T", k=3, preprocessing="unit",
        **WITHOUT,
    )  # fmt: skip
    first = run(config).published
    assert first
    conv1 = first.distances[:, 0] == 1
    assert conv1.any() == black  # biases are 0
    members = np.flatnonzero(first.clusters[:, 0] == 0)
    assert not black or conv1[members[np.argmax(first.distances[members, 0])]]  # last among the exemplars of cluster 0
    document = first.path / "set.json"
    stored = json.loads(document.read_text())
    zeros = [one.pop("zeros") for one in stored["clusters"].values()]
    assert (zeros[0] > 0) == black
    document.write_text(json.dumps(stored))
    assert run(config).new == new
    assert not run(config).new

"""Runs whose sample is a part: what is found only while the other shards are extracted and assigned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.cache.fit_sample import draw_ids
from clusterpaths.cache.manifest import require_manifest
from clusterpaths.clustering import identity
from clusterpaths.config import RunConfig
from clusterpaths.errors import ExtractionError
from clusterpaths.extraction import plan
from clusterpaths.records import CacheFormat
from clusterpaths.running import stages
from clusterpaths.sets.published import open_set
from clusterpaths.storage import open_storage
from tests.clusterpaths.conftest import LAYERS, NUMBERS, Recording, image_of, write_celeba, write_cnn
from tests.runs import Run, assert_same_documents, run_pipeline

FIT = 12
FORMATS: tuple[CacheFormat, ...] = ("npy", "zarr", "none")
IDS = np.array(NUMBERS) - 1
SAMPLE = draw_ids(IDS, FIT)
SECOND = np.setdiff1d(draw_ids(IDS, 2 * FIT), SAMPLE)  # shard 1
OTHERS = np.setdiff1d(IDS, SAMPLE)


@pytest.fixture
def start(configure: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """A run whose layers are fitted on 12 of the 40 examples, which are shard 0; options by keyword."""
    for module in (plan, identity):
        monkeypatch.setattr(module, "fit_size", lambda _k: FIT)

    def run(recording: Recording | None = None, **options: Any) -> Run:
        given: dict[str, Any] = {"evaluate": False, "check_preprocessing": False, "cache_dtype": "float16"}
        return run_pipeline(configure(**given | options), recording)

    return run


def shards_of(recording: Recording, stage: str) -> list[tuple[int, int]]:
    """Index of each shard that a stage was given, and to how many fits it was assigned."""
    return [(args[1].index, len(args[2])) for args in recording.submitted.get(stage, [])]


@pytest.mark.parametrize("cache_format", FORMATS)
def test_each_example_is_extracted_once_and_assigned_once(start: Callable[..., Run], cache_format: str) -> None:
    recording = Recording()
    run = start(recording, cache_format=cache_format)
    assert shards_of(recording, "extract_shard") == [(0, 0), (1, 3), (2, 3)]
    assert shards_of(recording, "assign_shard") == [(0, 3)]
    assert shards_of(recording, "run_again") == []
    assert len(recording.submitted["fit_layer"]) == 3
    assert run.batches == 2 + 2 + 2  # 12, 12 and 16 images, 8 a batch
    images = {stage.stage: stage.images for stage in open_set(run.folder).record.stages if stage.images}
    assert images == {"extract": 12, "assign": 40, "trace": 40}


@pytest.mark.parametrize("cache_format", FORMATS)
def test_a_new_k_fits_and_assigns_from_what_is_there(start: Callable[..., Run], cache_format: str) -> None:
    start(cache_format=cache_format)
    recording = Recording()
    start(recording, cache_format=cache_format, k=4)
    assert shards_of(recording, "extract_shard") == []
    assert shards_of(recording, "run_again") == ([(0, 0)] if cache_format == "none" else [])
    assert shards_of(recording, "assign_shard") == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize("cache_format", FORMATS)
def test_a_layer_that_exceeds_float16_only_in_an_example_that_is_not_in_the_sample(
    start: Callable[..., Run], tmp_path: Path, cache_format: str
) -> None:
    """It is stored as float32 throughout; fits that were made of float16 values are not used."""
    bright = int(OTHERS[-1]) + 1
    data = write_celeba(
        tmp_path / "faces", colour=lambda number: (255,) * 3 if number == bright else (1, number % 7, 1)
    )
    options = {"data_root": data, "model": write_cnn(tmp_path / "m.onnx", factor=1e5), "cache_format": cache_format}
    recording = Recording()
    run = start(recording, **options, workers=1)
    layers = require_manifest(open_storage(run.cache)).layers
    assert [layers[layer].dtype for layer in LAYERS] == ["float16", "float32", "float32"]
    again = shards_of(recording, "extract_shard")
    assert (again[0], again[-3:]) == ((0, 0), [(0, 0), (1, 3), (2, 3)])
    assert len(recording.submitted["fit_layer"]) == 6
    other = start(**options | {"cache_format": "zarr" if cache_format == "npy" else "npy", "name": "other"})
    assert_same_documents(run.folder, other.folder)
    assert not (run.cache / "sample").exists()


@pytest.mark.parametrize("cache_format", FORMATS)
def test_a_value_that_is_not_finite_stops_the_run_and_later_shards_are_not_begun(
    start: Callable[..., Run], tmp_path: Path, cache_format: str
) -> None:
    bad = int(SECOND[0]) + 1
    data = write_celeba(tmp_path / "faces", colour=lambda number: (255,) * 3 if number == bad else (0, 0, 0))
    recording = Recording()
    with pytest.raises(ExtractionError, match=rf"Layer conv2 .* not finite .* example {bad - 1} \("):
        start(
            recording, data_root=data, model=write_cnn(tmp_path / "m.onnx", factor=3e38), cache_format=cache_format,
            workers=1,
        )  # fmt: skip
    assert shards_of(recording, "extract_shard") == [(0, 0), (1, 3)]


@pytest.mark.parametrize("cache_format", ["npy", "zarr"])
def test_bytes_of_the_sample_that_are_damaged_after_the_fit_are_extracted_and_fitted_again(
    start: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_format: str
) -> None:
    """Fits are of bytes that nobody can check any more."""
    clean = start(cache_format=cache_format, name="clean")
    assign = stages.assign_shard

    def damaging(job: Any, shard: Any, *more: Any) -> Any:
        if shard.index == 0:
            monkeypatch.setattr(stages, "assign_shard", assign)
            path = tmp_path / "cache" / "T" / "conv1"
            path = path / f"{SAMPLE[3]}.npy" if cache_format == "npy" else path / "c" / "0" / "0" / "0" / "0"
            content = bytearray(path.read_bytes())
            content[-1] ^= 0x20
            path.write_bytes(content)
        return assign(job, shard, *more)

    damaging.__name__ = "assign_shard"
    monkeypatch.setattr(stages, "assign_shard", damaging)
    recording = Recording()
    run = start(recording, cache_format=cache_format, workers=1)
    assert_same_documents(clean.folder, run.folder)
    assert shards_of(recording, "extract_shard") == [(0, 0), (1, 3), (2, 3), (0, 0)]
    assert len(recording.submitted["fit_layer"]) == 6
    assert any(line.startswith("WARNING") and "shard 0" in line for line in run.log)


@pytest.mark.parametrize("cache_format", FORMATS)
def test_a_shard_outside_the_sample_that_is_damaged_leaves_the_fits(
    start: Callable[..., Run], cache_format: str
) -> None:
    clean = start(cache_format=cache_format, k=4, name="clean")
    first = start(cache_format=cache_format)
    if cache_format == "none":
        path = first.cache / "pixels" / "00001.rgb"
    elif cache_format == "npy":
        path = first.cache / "conv1" / f"{OTHERS[2]}.npy"
    else:
        path = first.cache / "conv1" / "c" / "1" / "0" / "0" / "0"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x20
    path.write_bytes(content)
    recording = Recording()
    run = start(recording, cache_format=cache_format, k=4)
    assert_same_documents(clean.folder, run.folder)
    assert shards_of(recording, "extract_shard") == [(1, 3)]  # and assigned on the way
    assert [fit.found for fit in run_fits(recording)] == [True] * 3


def run_fits(recording: Recording) -> tuple[Any, ...]:
    """The fits that the paths were traced with."""
    fits: tuple[Any, ...] = recording.given["trace_paths"][-1][2]
    return fits


def test_images_of_the_sample_that_cannot_be_read_are_replaced_by_no_others(
    start: Callable[..., Run], own_faces: Path
) -> None:
    """Layers are fitted on those of the drawn examples that have activations."""
    for example in SAMPLE[[1, 5]]:
        image_of(own_faces, int(example) + 1).write_bytes(b"no image")
    recording = Recording()
    run = start(recording, data_root=own_faces, max_failures=0.1)
    assert {fit.num_fitted for fit in run_fits(recording)} == {FIT - 2}
    again = start(data_root=own_faces, max_failures=0.1)
    assert (again.path, again.batches) == (run.path, 0)


@pytest.mark.parametrize("cache_format", FORMATS)
def test_evaluation_and_choice_read_the_sample_only(start: Callable[..., Run], cache_format: str) -> None:
    run = start(cache_format=cache_format, evaluate=True)
    assert (run.folder / "metrics.json").is_file()
    assert not (run.cache / "sample").exists()
    (run.folder / "metrics.json").unlink()
    recording = Recording()
    measured = start(recording, cache_format=cache_format, evaluate=True)
    assert measured.path == run.path
    assert shards_of(recording, "run_again") == ([(0, 0)] if cache_format == "none" else [])
    assert (run.folder / "metrics.json").is_file()

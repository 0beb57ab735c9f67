"""`cp.run` and `cp.load`, from Python arguments to a set."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import clusterpaths as cp
from clusterpaths.common import roots
from clusterpaths.config import RunConfig
from clusterpaths.errors import CacheError, ConfigError, DatasetError, ModelError
from clusterpaths.notebook.run import configure
from clusterpaths.pipeline import run as run_pipeline
from clusterpaths.sets.published import PublishedSet


def test_a_run_returns_the_set_that_the_pipeline_published(
    ran: PublishedSet, cnn: Path, pictures: Path, results: Path
) -> None:
    assert ran.path == results / "Pets" / "set_01"
    assert ran.num_examples == 24
    config = RunConfig(
        model=cnn, data_root=pictures, dataset="folder", k=3, cache_root=str(results), name="Pets", preprocessing="unit",
        layers=("auto:2",),
    )  # fmt: skip
    outcome = run_pipeline(config)
    assert (outcome.published, outcome.new) == (ran, False)


def test_a_run_inside_a_running_event_loop_works(ran: PublishedSet, cnn: Path, pictures: Path, results: Path) -> None:
    async def cell() -> PublishedSet:
        options = {"k": 3, "cache_root": results, "name": "Pets", "preprocessing": "unit", "layers": "auto:2"}
        return cp.run(model=cnn, data=pictures, **options)

    assert asyncio.run(cell()) == ran


def test_a_set_is_loaded_by_its_directory_or_the_one_above(ran: PublishedSet, results: Path) -> None:
    assert cp.load(results / "Pets" / "set_01") == ran
    assert cp.load(str(results / "Pets")) == ran


def test_a_set_is_loaded_by_its_name(ran: PublishedSet, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(roots.HOME_VARIABLE, str(results.parent))
    assert cp.load("Pets") == ran
    assert cp.load("Pets/set_01") == ran
    with pytest.raises(CacheError, match="with NAME one of: Pets"):
        cp.load("Pest")


@pytest.mark.usefixtures("ran")
def test_no_set_is_one_paragraph_with_the_nearest_directory(results: Path) -> None:
    with pytest.raises(CacheError, match=r"no published set at .*Pet\. Nearest: Pets\. Expected a set's directory"):
        cp.load(results / "Pet")
    with pytest.raises(CacheError, match=r"Nearest: set_01"):
        cp.load(results / "Pets" / "set_02")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, r"needs model=… and data=…"),
        ({"model": "m.onnx"}, r"needs data=…"),
        ({"data": "photos"}, r"needs model=…"),
        ({"model": "m.onnx", "data": "p", "layer": "conv3"}, r"no option 'layer'\. Nearest: layers"),
        ({"model": "m.onnx", "data": "p", "data_root": "q"}, r"same directory of images"),
        ({"model": "m.onnx", "data": "p", "plan": True}, r"would publish no set"),
        ({"model": "m.onnx", "data": "p", "distance": "cosin"}, r"distance: .*got 'cosin'"),
        ({"model": "m.onnx", "data": "p", "layers": []}, r"layers: should name at least one layer"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_paragraph(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        cp.run(**options)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_reported_before_anything_runs(cnn: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model at .*none\.onnx"):
        cp.run(model=tmp_path / "none.onnx", data=pictures, cache_root=tmp_path)
    with pytest.raises(DatasetError):
        cp.run(model=cnn, data=tmp_path / "none", cache_root=tmp_path / "cache")


def test_layers_that_match_nothing_are_reported_with_the_nearest(cnn: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"(?s)conw1.*conv1"):
        cp.run(model=cnn, data=pictures, layers="conw1", cache_root=tmp_path, preprocessing="unit")


def test_data_is_a_directory_of_images_and_others_are_named() -> None:
    assert configure("m.onnx", "photos", {}).dataset == "folder"
    assert configure("m.onnx", None, {"dataset": "torchvision:CIFAR10"}).dataset == "torchvision:CIFAR10"
    assert configure(None, None, {"sample": True}).sample
    assert configure("m.onnx", "photos", {"layers": ["conv3", "fc1"]}).layers == ("conv3", "fc1")
    assert configure("m.onnx", "photos", {"k": {"conv3": 15, "fc1": "auto"}}).asked_k(("conv3", "fc1", "fc2")) == {
        "conv3": 15, "fc1": None, "fc2": 5,
    }  # fmt: skip

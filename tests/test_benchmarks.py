"""The small version of the benchmark suite: it works, and what does not hang on the machine is as it should be.

Bytes, model runs, reads of the cache and (generously) memory are asserted; no time is. Real images where
CLUSTERPATHS_SHARED names them, else drawn faces; both models have the same five layers.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.runs import PROJECT, SHAPES, shell_environment

FEWER, IMAGES = 40, 120
PROFILED = 160  # images: a fifth is the sample, the others are four shards
SAMPLE = 60  # of the part stages: what its layers are fitted on
VALUES = 16 * 64 * 64 + 32 * 32 * 32 + 64 * 16 * 16 + 128 + 64  # of all layers, an image
NPY_HEADERS = 5 * 128
ACTIVATIONS = ("npy", "zarr")  # formats that keep them
REFERENCES = ("baseline", "dataloader", "bare")
PARTS = ("end_to_end", "celeba_full", "tapping", "stages", "inertia")
MOST_MB = 1200  # a run of so few images takes 600 to 800


@pytest.fixture(scope="module")
def suite() -> Iterator[Any]:
    """The command, as a module: the benchmarks are programs, no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PROJECT / "benchmarks"))
        yield importlib.import_module("suite")


@pytest.fixture(scope="module")
def folder(suite: Any, prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite's files; its runs report to this session's server."""
    out = tmp_path_factory.mktemp("suite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", shell_environment())
        suite.main(parts=PARTS, formats=ACTIVATIONS, out=out, quick=True)
    return out


@pytest.fixture
def material(suite: Any, prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Images and the model; runs report to this session's server."""
    monkeypatch.setattr(os, "environ", shell_environment())
    return suite.prepare(tmp_path, FEWER)


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "suite.json").read_text())
    return told


def test_every_part_says_on_which_machine_versions_and_images_it_was_measured(result: dict[str, Any]) -> None:
    for part in PARTS:
        assert "cores" in result[part]["machine"]
        assert {"prefect", "onnxruntime", "numpy", "zarr", "pillow"} <= set(result[part]["versions"])
        assert "CelebA images" in result[part]["data"] or "drawn faces" in result[part]["data"]


@pytest.mark.parametrize("cache_format", ACTIVATIONS)
def test_every_image_goes_through_the_model_once(result: dict[str, Any], cache_format: str) -> None:
    """The sample when it is extracted, all others while they are assigned; evaluation runs changed images, counted apart."""
    for workers in ("whole", "one_worker"):
        ran = result["stages"]["result"][workers][cache_format]["model_images"]
        assert {stage: images for stage, images in ran.items() if stage != "evaluate"} == {
            "extract": SAMPLE,
            "assign": IMAGES - SAMPLE,
        }


@pytest.mark.parametrize("cache_format", ACTIVATIONS)
def test_only_the_samples_activations_are_read_back(result: dict[str, Any], cache_format: str) -> None:
    """Five times to fit (a sketch, seeding, three passes at most), once to assign, once for the means of clusters."""
    whole = result["stages"]["result"]["whole"][cache_format]
    assert whole["examples_read"] == dict.fromkeys(SHAPES, SAMPLE)
    assert set(whole["layer_reads"]) == {"fit", "assign", "evaluate"}
    assert whole["layer_reads"]["evaluate"] == dict.fromkeys(SHAPES, 1) | {"fc1": 2, "fc2": 2}
    assert set(whole["layer_reads"]["fit"]) == set(SHAPES)
    assert max(whole["layer_reads"]["fit"].values()) <= 5
    assert whole["layer_reads"]["assign"] == dict.fromkeys(SHAPES, 1)


def test_without_a_cache_of_activations_every_image_goes_through_the_model_once_too(suite: Any, material: Any) -> None:
    """The activations of the sample are stored during the run, and only they are read."""
    run = suite.stages.measure_run(material, FEWER, "none", 2, evaluate=False)
    assert run["model_images"] == {"extract": FEWER // 2, "assign": FEWER // 2}
    assert run["examples_read"] == dict.fromkeys(SHAPES, FEWER // 2)
    assert run["layer_reads"]["assign"] == dict.fromkeys(SHAPES, 1)
    assert run["cache_bytes_per_image"] < 64 * 64 * 3 + 1000  # pixels, examples and manifest


def test_all_images_but_the_samples_are_in_shards_that_are_extracted_and_assigned_at_once(
    result: dict[str, Any],
) -> None:
    for workers in ("whole", "one_worker"):
        for run in result["stages"]["result"][workers].values():
            assert sorted(size for size, _ in run["shards"]) == [28, 32]


def test_bytes_an_image(result: dict[str, Any]) -> None:
    ways = result["end_to_end"]["result"]["ways"]
    baseline, npy, zarr = (ways[way]["cache_bytes_per_image"] for way in ("baseline", "npy", "zarr"))
    assert 4 * VALUES + NPY_HEADERS < baseline < 4 * VALUES + NPY_HEADERS + 100  # float32, and the paths
    assert 2 * VALUES + NPY_HEADERS < npy < 2 * VALUES + NPY_HEADERS + 2000  # float16, examples and manifest
    assert 0.3 * npy < zarr < 0.6 * npy
    assert 4 * VALUES < ways["dataloader"]["cache_bytes_per_image"] < 4 * VALUES + NPY_HEADERS  # files of 64 images
    assert ways["bare"]["cache_bytes_per_image"] == 0
    for name, size in (("npy", npy), ("zarr", zarr)):
        assert result["stages"]["result"]["whole"][name]["cache_bytes_per_image"] == pytest.approx(size, rel=0.01)


def test_peak_memory(result: dict[str, Any]) -> None:
    peaks = {(run["way"], run["images"]): run["peak_mb"] for run in result["end_to_end"]["result"]["runs"]}
    assert set(peaks) == {(way, count) for way in (*REFERENCES, *ACTIVATIONS) for count in (FEWER, IMAGES)}
    assert {run: peak for run, peak in peaks.items() if not 30 < peak < MOST_MB} == {}
    assert all(run["peak_tree_mb"] > 30 for run in result["end_to_end"]["result"]["runs"])


def test_peak_memory_is_that_of_the_program_and_not_of_the_one_that_starts_it(suite: Any, tmp_path: Path) -> None:
    """This process has imported onnxruntime and more; wait4 would report its size as the peak of any child."""
    watched = suite.celeba.watch(
        [sys.executable, "-c", "import time; time.sleep(0.3)"], os.environ, tmp_path / "errors.txt"
    )
    assert 5 < watched["peak_mb"] < 40


def test_another_k_takes_all_activations_from_the_cache(suite: Any, material: Any) -> None:
    first, second = suite.another_k.measure_both(material, FEWER)
    assert (first["way"], second["way"]) == ("k=5", "k=7")
    assert first["details"]["extract"] == "40 examples"
    assert "extract" not in second["details"]
    assert second["details"]["assign"] == "40 examples, 0 of them extracted"


def test_a_complete_run_says_how_long_every_stage_took_with_the_evaluation(result: dict[str, Any]) -> None:
    told = result["celeba_full"]["result"]
    assert told["images"] == IMAGES
    (run,) = told["runs"]
    assert {"check preprocessing", "extract", "fit", "assign", "publish", "evaluate", "report"} <= set(run["stages"])
    assert sum(run["stages"].values()) < run["seconds"]


def test_tapping_is_compared_with_the_model_without_taps(result: dict[str, Any]) -> None:
    told = result["tapping"]["result"]
    assert told["layers"] == list(SHAPES)
    assert set(told["ms"]) == {"plain", "float16", "float32"}
    assert set(told["ratio"]) == {"float16", "float32"}


def test_ratios_are_taken_within_a_turn_and_start_up_is_excluded(suite: Any) -> None:
    """Two turns, the second on a machine half as fast: 1 ms an image to 0.5 of the bare work and 4 of the baseline."""
    ms = {"baseline": 4.0, "dataloader": 2.0, "bare": 0.5, "none": 1.0}
    runs = [
        {"way": way, "turn": turn, "images": count, "seconds": 7 + (1 + turn) * cost * count / 1000, "cpu_seconds": 1}
        | {"peak_mb": 100 + count / 1000, "peak_tree_mb": 200, "cache_bytes": 12 * count}
        for way, cost in ms.items()
        for turn in range(2)
        for count in (1000, 3000)
    ]
    told = suite.celeba.summary(runs, "none")
    assert told["ms_per_image"] == pytest.approx(1.5)
    assert told["relative_to"] == pytest.approx({"baseline": 0.25, "dataloader": 0.5, "bare": 2.0})
    assert told["fixed_seconds"] == pytest.approx(7)
    assert suite.growth(told["peak_mb"]) == pytest.approx(103 / 101)
    assert told["cache_bytes_per_image"] == 12


def test_formats_give_the_same_inertia_and_it_is_close_to_that_of_kmeans(result: dict[str, Any]) -> None:
    npy, zarr = (result["stages"]["result"]["whole"][name]["inertia"] for name in ACTIVATIONS)
    assert npy == zarr
    assert set(npy) == set(SHAPES)
    measured = result["inertia"]["result"]
    assert len(measured) == 2 * 3 * len(SHAPES)  # distances, and three numbers of clusters
    assert {(each["layer"], each["distance"]): each["ratio"] for each in measured if each["ratio"] > 1.05} == {}


def test_stages_are_told_with_what_the_cores_did(result: dict[str, Any]) -> None:
    stages = result["stages"]["result"]
    steps = ["digest", "decode", "resize", "normalise", "inference", "inference with taps", "hash"]
    steps += ["write npy", "write zarr", *(f"fit {layer}" for layer in SHAPES), "inference with assignment"]
    steps += ["inference with assignment, no activations", "assign from the cache"]
    assert [row["stage"] for row in stages["alone"]] == steps
    told = ["extract", "fit", "assign", "trace", "publish", "evaluate", "report"]
    for whole in stages["whole"].values():
        assert [row["stage"] for row in whole["stages"]] == told
        assert all(len(row["cores"]) > 0 and all(0 <= share <= 1 for share in row["cores"]) for row in whole["stages"])


def test_a_run_without_evaluation_has_no_such_stage(result: dict[str, Any]) -> None:
    for single in result["stages"]["result"]["one_worker"].values():
        assert [row["stage"] for row in single["stages"]] == ["extract", "fit", "assign", "trace", "publish", "report"]
        assert single["fit_seconds"] > 0


@pytest.mark.parametrize("cache_format", [*ACTIVATIONS, "none"])
def test_the_profile_charges_every_part_of_a_fused_shard(suite: Any, material: Any, cache_format: str) -> None:
    profile = importlib.import_module("shard_profile")
    spent = profile.measure(material, PROFILED, cache_format, rounds=1)
    assert list(spent) == list(profile.PARTS)
    charged = ("digest", "decode", "resize", "normalise", "model", "hashing", "writing", "rest")
    assert [part for part in charged if spent[part] <= 0] == []
    assert cache_format != "none" or spent["taps"] == 0  # activations do not leave the runtime


def test_a_part_is_charged_with_its_own_time_only_and_all_parts_add_up(suite: Any) -> None:
    """On a clock that shows 0, 1, 3, 6, 10 and 15 s: a is entered at 1, b within it from 3 to 6."""
    profile = importlib.import_module("shard_profile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile.time, "process_time", iter([0, 1, 3, 6, 10, 15]).__next__)
        clock = profile.Clock()
        with clock.inside("a"), clock.inside("b"):
            pass
        assert clock.taken() == {"rest": 1 + 5, "a": 2 + 4, "b": 3}


def test_page_and_picture_tell_every_part(folder: Path) -> None:
    page = (folder / "suite.md").read_text()
    for heading in ("Targets", "End to end", "All of CelebA's size", "Tapping", "Stages", "Inertia"):
        assert f"## {heading}" in page
    assert "| zarr: time per image, times the bare work | 1.8 |" in page
    assert "| zarr: time per image, relative to the baseline | 0.33 |" in page
    assert "| model with taps, float16, relative to the model without | 1.1 |" in page
    assert "| none, complete run over 120 images: seconds | 180 |" in page
    picture = ElementTree.parse(folder / "speed.svg").getroot()
    shown = " ".join(element.text or "" for element in picture.iter())
    for words in ("baseline: ", "npy: ", "zarr: ", "decode", "extract, zarr", "assign, npy"):
        assert words in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quick": True}, "--quick gives no meaningful numbers. Give a directory for them with --out."),
        ({"sizes": (500,)}, "--sizes names 1 numbers of images. A slope needs two or more, such as 500,2000."),
        ({"baseline_sizes": (500, 500)}, "--baseline-sizes names 1 numbers of images. A slope needs two or more"),
        ({"formats": ("npy", "hdf5")}, "--formats names hdf5. Expected some of npy, zarr"),
        ({"parts": ("speed",)}, "--parts names speed. Expected some of end_to_end, another_k, resnet18, evaluation"),
    ],
)
def test_wrong_options_end_with_one_line(suite: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        suite.main(**options)
    assert str(ended.value).startswith(f"error: {message}")


def test_the_command_reads_its_options(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(PROJECT / "benchmarks" / "suite.py"),
        "--sizes",
        "500",
        "--parts",
        "end_to_end,startup",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: --sizes names 1 numbers of images.")

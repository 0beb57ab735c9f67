"""The small version of the benchmark suite: it works, and what does not hang on the machine is as it should be.

Bytes, model runs, reads of the cache and (generously) memory are asserted; no time is. Real images where
CLUSTERPATHS_SHARED names them, else drawn faces; both models have the same five layers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.runs import PROJECT, SHAPES, shell_environment

IMAGES = 240
VALUES = 16 * 64 * 64 + 32 * 32 * 32 + 64 * 16 * 16 + 128 + 64  # of all layers, an image
NPY_HEADERS = 5 * 128
ACTIVATIONS = ("npy", "zarr")  # formats that keep them
MOST_MB = 1200  # a run of so few images takes 600 to 800


def suite(*options: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT / "benchmarks" / "suite.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def folder(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite's files; its runs report to this session's server."""
    out = tmp_path_factory.mktemp("suite")
    options = ["--parts", "end_to_end,stages,inertia", "--formats", ",".join(ACTIVATIONS), "--out", str(out)]
    ended = suite("--quick", *options, environment=shell_environment())
    assert ended.returncode == 0, ended.stderr
    return out


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "suite.json").read_text())
    return told


def test_every_part_says_on_which_machine_versions_and_images_it_was_measured(result: dict[str, Any]) -> None:
    for part in ("end_to_end", "stages", "inertia"):
        assert "cores" in result[part]["machine"]
        assert {"prefect", "onnxruntime", "numpy", "zarr", "pillow"} <= set(result[part]["versions"])
        assert "CelebA images" in result[part]["data"] or "drawn faces" in result[part]["data"]


@pytest.mark.parametrize("cache_format", ACTIVATIONS)
def test_every_image_goes_through_the_model_once(result: dict[str, Any], cache_format: str) -> None:
    whole = result["stages"]["result"]["whole"][cache_format]
    assert whole["model_images"] == IMAGES
    assert whole["model_batches"] == -(-IMAGES // 32)


@pytest.mark.parametrize("cache_format", ACTIVATIONS)
def test_every_layer_is_read_at_most_six_times(result: dict[str, Any], cache_format: str) -> None:
    """Five times to fit, then for the assignment."""
    reads = result["stages"]["result"]["whole"][cache_format]["layer_reads"]
    assert set(reads) <= set(SHAPES)
    assert max(reads.values(), default=0) <= 6


def test_bytes_an_image(result: dict[str, Any]) -> None:
    ways = result["end_to_end"]["result"]["ways"]
    baseline, npy, zarr = (ways[way]["cache_bytes_per_image"] for way in ("baseline", "npy", "zarr"))
    assert 4 * VALUES + NPY_HEADERS < baseline < 4 * VALUES + NPY_HEADERS + 100  # float32, and the paths
    assert 2 * VALUES + NPY_HEADERS < npy < 2 * VALUES + NPY_HEADERS + 2000  # float16, examples and manifest
    assert 0.3 * npy < zarr < 0.6 * npy
    for name, size in (("npy", npy), ("zarr", zarr)):
        assert result["stages"]["result"]["whole"][name]["cache_bytes_per_image"] == pytest.approx(size, rel=0.01)


def test_peak_memory(result: dict[str, Any]) -> None:
    peaks = {(run["way"], run["images"]): run["peak_mb"] for run in result["end_to_end"]["result"]["runs"]}
    assert set(peaks) == {(way, count) for way in ("baseline", *ACTIVATIONS) for count in (60, IMAGES)}
    assert {run: peak for run, peak in peaks.items() if not 50 < peak < MOST_MB} == {}
    assert all(run["peak_tree_mb"] > 50 for run in result["end_to_end"]["result"]["runs"])


def test_formats_give_the_same_inertia_and_it_is_close_to_that_of_kmeans(result: dict[str, Any]) -> None:
    npy, zarr = (result["stages"]["result"]["whole"][name]["inertia"] for name in ACTIVATIONS)
    assert npy == zarr
    assert set(npy) == set(SHAPES)
    measured = result["inertia"]["result"]
    assert len(measured) == 2 * len(SHAPES)
    assert {(each["layer"], each["distance"]): each["ratio"] for each in measured if each["ratio"] > 1.05} == {}


def test_stages_are_told_with_what_the_cores_did(result: dict[str, Any]) -> None:
    stages = result["stages"]["result"]
    steps = [
        "digest",
        "decode",
        "resize",
        "normalise",
        "inference",
        "write npy",
        "write zarr",
        "fit",
        "assign",
    ]
    assert [row["stage"] for row in stages["alone"]] == steps
    for whole in stages["whole"].values():
        names = [row["stage"] for row in whole["stages"]]
        assert names == ["extract", "cluster", "read", "trace", "publish", "evaluate", "report"]
        assert all(len(row["cores"]) > 0 and all(0 <= share <= 1 for share in row["cores"]) for row in whole["stages"])


def test_page_and_picture_tell_every_part(folder: Path) -> None:
    page = (folder / "suite.md").read_text()
    for heading in ("## Targets", "## End to end", "## Stages", "## Inertia"):
        assert heading in page
    assert "| zarr: time per image, relative to the baseline | 0.33 |" in page
    picture = ElementTree.parse(folder / "speed.svg").getroot()
    shown = " ".join(element.text or "" for element in picture.iter())
    for words in ("baseline: ", "npy: ", "zarr: ", "decode", "extract, zarr"):
        assert words in shown


@pytest.mark.server
def test_start_up_is_measured_and_what_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "suite.json").write_text('{"earlier": [1, 2]}')
    ended = suite("--quick", "--parts", "startup", "--out", str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    after = json.loads((tmp_path / "suite.json").read_text())
    assert after["earlier"] == [1, 2]
    told = after["startup"]["result"]
    assert {"--subset 5, temporary server", "--subset 5, server up", "server until it answers"} <= set(told["seconds"])
    assert all(len(values) == 1 and values[0] > 0 for values in told["seconds"].values())
    assert set(told["cpu_seconds"]) < set(told["seconds"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quick"], "--quick gives no meaningful numbers. Give a directory for them with --out."),
        (["--sizes", "500"], "--sizes names 1 numbers of images. A slope needs two or more, such as 500,2000."),
        (["--formats", "npy,hdf5"], "--formats names hdf5. Expected some of npy, zarr"),
        (["--parts", "speed"], "--parts names speed. Expected some of end_to_end, stages, startup, inertia, resnet50."),
    ],
)
def test_wrong_options_end_with_one_line(options: list[str], message: str) -> None:
    ended = suite(*options)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {message}")

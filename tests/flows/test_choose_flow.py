"""--k auto and --distance auto through the whole flow, on drawn faces: what is kept, said and shown, and asked again."""

from __future__ import annotations

import json
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.clustering.choice import Choice
from tests.runs import SHAPES, Run, assert_same_documents, listening, published, succeed

pytestmark = pytest.mark.usefixtures("prefect_server")
AUTO = {"k": "auto", "distance": "auto"}


@pytest.fixture(scope="module")
def options(project_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """200 faces of the sample, in shards of 64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLUSTERPATHS_HOME", str(project_home))
        yield {
            "sample": True,
            "sample_size": 200,
            "cache_root": tmp_path_factory.mktemp("chosen"),
            "shard_size": 64,
        }


@pytest.fixture(scope="module")
def chosen(prefect_server: None, options: dict[str, Any]) -> Run:
    return succeed(**options, **AUTO)


def folder_of(run: Run) -> Path:
    assert run.path is not None
    return run.path


def choice_of(folder: Path) -> Choice:
    return Choice.model_validate_json((folder / "choice.json").read_text())


def test_the_set_carries_the_numbers_and_the_sentence_and_the_whole_sweep(chosen: Run) -> None:
    record, choice = published(chosen), choice_of(folder_of(chosen))
    assert record.k_per_layer == choice.k_per_layer
    assert record.distance == choice.distance
    assert record.choice == choice.sentence
    assert f"INFO {choice.sentence}" in chosen.log
    assert choice.scored_by == "decisions"
    assert choice.sampled == 200
    assert {point.layer for point in choice.points} == set(SHAPES)
    assert {point.distance for point in choice.points} == {"cosine", "euclidean"}
    centroids = json.loads((folder_of(chosen) / "centroids.json").read_text())
    assert {layer: len(rows) for layer, rows in centroids.items()} == choice.k_per_layer


def test_the_set_remembers_that_it_was_asked_to_choose(chosen: Run) -> None:
    config = published(chosen).config
    assert (config["k"], config["distance"]) == ("auto", "auto")


def test_the_report_and_the_run_s_page_show_the_sweep(chosen: Run) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    choice = choice_of(folder_of(chosen))
    page = unescape((folder_of(chosen) / "report.html").read_text())
    assert 'id="chosen"' in page
    assert choice.sentence in page
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[chosen.flow_run_id]))
        )
    (table,) = [artifact for artifact in found if artifact.key == "choice"]
    assert str(table.description).startswith(choice.sentence)
    rows = json.loads(table.data) if isinstance(table.data, str) else table.data
    assert len(rows) == len(choice.points)
    assert {row["layer"]: row["k"] for row in rows if row["chosen"]} == choice.k_per_layer


def test_the_same_question_is_answered_by_the_same_set_and_only_choosing_is_done_again(
    chosen: Run, options: dict[str, Any]
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in folder_of(chosen).iterdir() if path.name != "report.html"}
    again = succeed(**options, **AUTO)
    assert again.path == chosen.path
    assert again.batches == 0
    assert {name: (folder_of(chosen) / name).stat().st_mtime_ns for name in before} == before
    names = {run.name for run in again.task_runs()}
    assert "choose" in names
    assert not [name for name in names if name.startswith(("extract", "cluster", "trace", "publish"))]


def test_giving_the_chosen_numbers_asks_the_same_question(chosen: Run, options: dict[str, Any]) -> None:
    record = published(chosen)
    k = ",".join(f"{layer}={number}" for layer, number in record.k_per_layer.items())
    given = succeed(**options, k=k, distance=record.distance)
    assert given.path == chosen.path
    assert "choose" not in {run.name for run in given.task_runs()}


@pytest.mark.parametrize("bits", [0x3C01, 0x7E00, 0x7C00], ids=["another value", "NaN", "infinity"])
def test_a_shard_found_damaged_while_choosing_is_made_again(
    chosen: Run, options: dict[str, Any], tmp_path: Path, bits: int
) -> None:
    name = folder_of(chosen).parent.name
    cache = Path(shutil.copytree(folder_of(chosen).parent, tmp_path / name))
    for folder in cache.glob("set_*"):
        shutil.rmtree(folder)
    values = np.load(cache / "conv2" / "130.npy")
    values.view(np.uint16).reshape(-1)[7] = bits
    np.save(cache / "conv2" / "130.npy", values)
    run = succeed(**(options | {"cache_root": tmp_path}), **AUTO)
    assert run.batches == 2  # 64 examples in batches of 32
    assert any("shard 2" in line and "checksum" in line for line in run.log)
    assert [task.name for task in run.task_runs()].count("choose") == 2
    assert_same_documents(folder_of(chosen), folder_of(run))
    assert choice_of(folder_of(run)) == choice_of(folder_of(chosen))


def test_recluster_chooses_and_makes_no_second_set_of_the_same_choice(
    chosen: Run, options: dict[str, Any], tmp_path: Path
) -> None:
    name = folder_of(chosen).parent.name
    cache = Path(shutil.copytree(folder_of(chosen).parent, tmp_path / name))
    for folder in cache.glob("set_*"):
        shutil.rmtree(folder)
    succeed(**(options | {"cache_root": tmp_path}), k=3)
    first, _ = recluster(name, tmp_path, **AUTO)
    assert first == cache / "set_02"
    assert choice_of(first).k_per_layer == choice_of(folder_of(chosen)).k_per_layer
    assert (first / f"comparison_with_{name}_set_01.json").is_file()
    again, log = recluster(name, tmp_path)  # auto is the last set's wish, so it is chosen again
    assert again == first
    assert any("no setting changed since set_02: no set was published" in line for line in log)


def test_recluster_chooses_one_layer_and_keeps_the_others_numbers(
    chosen: Run, options: dict[str, Any], tmp_path: Path
) -> None:
    name = folder_of(chosen).parent.name
    shutil.copytree(folder_of(chosen).parent, tmp_path / name)
    found, _ = recluster(name, tmp_path, k="3,fc2=auto", distance="cosine")
    choice = choice_of(found)
    assert {layer: k for layer, k in choice.k_per_layer.items() if layer != "fc2"} == dict.fromkeys(
        ("conv1", "conv2", "conv3", "fc1"), 3
    )
    assert {point.k for point in choice.points if point.layer == "fc2"} > {2, 3, 4, 5}
    assert f"k conv1=3, conv2=3, conv3=3, fc1=3 (as given), fc2={choice.k_per_layer['fc2']}," in choice.sentence


def recluster(name: str, cache_root: Path, **changes: Any) -> tuple[Path, list[str]]:
    """The flow, in this process."""
    from flows.recluster import recluster

    lines: list[str] = []
    with listening(lines):
        state = recluster(name=name, cache_root=cache_root, return_state=True, **changes)
    assert state.is_completed(), state.message
    return state.result(), lines

"""--k auto and --distance auto through the flows: what Prefect shows, and what recluster makes of them.

What is chosen, preserved and found again is tests/clusterpaths/test_pipeline_choose.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterpaths.clustering.choice import Choice
from clusterpaths.config import RunConfig
from tests.runs import SAMPLE_MODEL, Run, assert_same_documents, listening, run_pipeline, succeed

pytestmark = pytest.mark.usefixtures("prefect_server")
AUTO = {"k": "auto", "distance": "auto"}
NAME, LAYERS = "Chosen", ("conv3", "fc2")


@pytest.fixture(scope="module")
def options(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """100 faces, in shards of 32, two layers."""
    return {
        "model": SAMPLE_MODEL, "data_root": faces, "cache_root": tmp_path_factory.mktemp("chosen"), "name": NAME,
        "layers": LAYERS, "subset": 100, "shard_size": 32,
    }  # fmt: skip


@pytest.fixture(scope="module")
def chosen(prefect_server: None, options: dict[str, Any]) -> Run:
    return succeed(**options, **AUTO)


@pytest.fixture
def without_set(chosen: Run, tmp_path: Path) -> Path:
    """A copy of what the cache has but for its set."""
    cache = Path(shutil.copytree(chosen.cache, tmp_path / NAME))
    shutil.rmtree(cache / "set_01")
    return cache


def choice_of(folder: Path) -> Choice:
    return Choice.model_validate_json((folder / "choice.json").read_text())


def test_the_run_s_page_and_log_show_the_choice_and_the_whole_sweep(chosen: Run) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    choice = choice_of(chosen.folder)
    assert f"INFO {choice.sentence}" in chosen.log
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[chosen.flow_run_id]))
        )
    (table,) = [artifact for artifact in found if artifact.key == "choice"]
    assert str(table.description).startswith(choice.sentence)
    rows = json.loads(table.data) if isinstance(table.data, str) else table.data
    assert len(rows) == len(choice.points)
    assert {row["layer"]: row["k"] for row in rows if row["chosen"]} == choice.k_per_layer


def test_a_shard_found_damaged_while_choosing_is_made_again_and_the_task_runs_show_it(
    chosen: Run, options: dict[str, Any], without_set: Path
) -> None:
    values = np.load(without_set / "conv3" / "70.npy")
    values.view(np.uint16).reshape(-1)[7] = 0x3C01
    np.save(without_set / "conv3" / "70.npy", values)
    run = succeed(**(options | {"cache_root": without_set.parent}), **AUTO)
    assert run.batches == 1  # 32 examples
    assert any(line.startswith("WARNING") and "shard 2" in line and "checksum" in line for line in run.log)
    names = [task.name for task in run.task_runs()]
    assert (names.count("choose"), names.count("extract shard 1/1")) == (2, 1)
    assert_same_documents(chosen.folder, run.folder)
    assert choice_of(run.folder) == choice_of(chosen.folder)


def test_only_choosing_is_done_again_where_its_set_is_there(chosen: Run, options: dict[str, Any]) -> None:
    again = succeed(**options, **AUTO)
    assert again.path == chosen.path
    names = {run.name for run in again.task_runs()}
    assert "choose" in names
    assert not [name for name in names if name.startswith(("extract", "fit", "assign", "trace", "publish"))]


def test_recluster_chooses_and_makes_no_second_set_of_the_same_choice(
    chosen: Run, options: dict[str, Any], without_set: Path
) -> None:
    run_pipeline(RunConfig(**(options | {"cache_root": without_set.parent, "evaluate": False, "k": 3})))
    first, _ = recluster(without_set.parent, **AUTO)
    assert first == without_set / "set_02"
    assert choice_of(first).k_per_layer == choice_of(chosen.folder).k_per_layer
    assert (first / f"comparison_with_{NAME}_set_01.json").is_file()
    again, log = recluster(without_set.parent)  # auto is the last set's wish, so it is chosen again
    assert again == first
    assert any("no setting changed since set_02: no set was published" in line for line in log)


def test_recluster_chooses_one_layer_and_keeps_the_others_numbers(chosen: Run, tmp_path: Path) -> None:
    shutil.copytree(chosen.cache, tmp_path / NAME)
    found, _ = recluster(tmp_path, k="3,fc2=auto", distance="cosine")
    choice = choice_of(found)
    assert choice.k_per_layer["conv3"] == 3
    assert {point.k for point in choice.points if point.layer == "fc2"} > {2, 3, 4, 5}
    assert f"k conv3=3 (as given), fc2={choice.k_per_layer['fc2']}," in choice.sentence


def recluster(cache_root: Path, **changes: Any) -> tuple[Path, list[str]]:
    """The flow, in this process."""
    from flows.recluster import recluster

    lines: list[str] = []
    with listening(lines):
        state = recluster(name=NAME, cache_root=cache_root, return_state=True, **changes)
    assert state.is_completed(), state.message
    return state.result(), lines

"""The compare flow on sets of a small drawn sample: two seeds, two k, two models, and what it leaves."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from clusterpaths.comparison.compare import CompareConfig
from clusterpaths.comparison.record import Comparison
from clusterpaths.pipeline import compare_with_earlier
from clusterpaths.running.report import Report
from clusterpaths.running.runner import InProcess
from clusterpaths.sets.published import open_set
from tests.flows.test_command_line import assert_one_paragraph, log_to_this_test
from tests.runs import SAMPLE_MODEL, listening, succeed

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample model with two classes' weights and biases exchanged: it decides otherwise on the same activations."""
    model = onnx.load(SAMPLE_MODEL)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if values.shape[0] == 5:
            values[[1, 3]] = values[[3, 1]]
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        elif values.ndim == 2 and values.shape[1] == 5:
            values[:, [1, 3]] = values[:, [3, 1]]
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    path = tmp_path_factory.mktemp("models") / "exchanged.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def results(prefect_server: None, faces: Path, other_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CelebA/set_01, set_02 (seed 1), set_03 (k 4) and Exchanged/set_01, on 80 faces."""
    root = tmp_path_factory.mktemp("compared")
    options: dict[str, Any] = {"data_root": faces, "cache_root": root, "subset": 80}
    for more in ({}, {"seed": 1}, {"k": 4}):
        succeed(model=SAMPLE_MODEL, **options, **more)
    succeed(model=other_model, name="Exchanged", **options)
    return root


def run(results: Path, first: str, second: str, **more: Any) -> tuple[Any, list[str]]:
    from flows.compare import compare

    lines: list[str] = []
    with listening(lines):
        state = compare(CompareConfig(first=first, second=second, cache_root=results, **more), return_state=True)
    return state, lines


def read(page: Path) -> Comparison:
    return Comparison.model_validate_json(page.with_suffix(".json").read_text())


def artifacts(state: Any) -> dict[str, Any]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    run_id = state.state_details.flow_run_id
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        )
    return {artifact.key: artifact.data for artifact in found}


def events(name: str, second: str) -> list[dict[str, Any]]:
    """Payloads of the events about a set, as the server has them once it has taken them in."""
    from prefect.client.orchestration import get_client
    from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

    wanted = EventFilter(
        event=EventNameFilter(name=[name]),
        resource=EventResourceFilter(id=[f"cluster-paths.{second.replace('/', '.')}"]),
    )
    with get_client(sync_client=True) as client:
        answer = client._client.post("/events/filter", json={"filter": wanted.model_dump(mode="json"), "limit": 50})
    return [event["payload"] for event in answer.raise_for_status().json()["events"]]


def wait_for_event(name: str, first: str, second: str) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while True:
        found = [payload for payload in events(name, second) if payload["first"] == first]
        if found:
            return found[0]
        assert time.monotonic() < deadline, f"no event {name}"
        time.sleep(0.2)


def test_two_seeds_leave_a_page_a_document_and_two_artifacts(results: Path) -> None:
    state, lines = run(results, "CelebA/set_01", "CelebA/set_02")
    assert state.is_completed(), state.message
    page = state.result()
    assert page == results / "CelebA" / "set_02" / "comparison_with_CelebA_set_01.html"
    comparison = read(page)
    assert (comparison.same_model, comparison.num_examples) == (True, 80)
    assert 0 < comparison.path_agreement < 1
    assert comparison.decisions is not None
    assert comparison.decisions.changed == 0
    html = page.read_text()
    assert html.count("data:image/jpeg") == len(comparison.moved)
    found = artifacts(state)
    assert set(found) == {"comparison", "comparison-layers"}
    for expected in (
        str(page),
        f"{comparison.paths_kept:,} of 80 paths are unchanged",
        "## Examples that changed most",
    ):
        assert expected in found["comparison"]
    table = json.loads(found["comparison-layers"])
    assert [row["layer"] for row in table] == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    assert [row["adjusted Rand"] for row in table] == [round(layer.adjusted_rand, 4) for layer in comparison.layers]
    assert any("What changed from CelebA/set_01 to set_02" in line for line in lines)


def test_another_k_leaves_a_cluster_without_a_counterpart_in_each_layer(results: Path) -> None:
    state, _ = run(results, "CelebA/set_01", "CelebA")  # the newest: set_03
    comparison = read(state.result())
    assert comparison.second.name == "CelebA/set_03"
    for layer in comparison.layers:
        assert sum(match.second is None for match in layer.matches) >= 1


def test_a_set_agrees_with_itself(results: Path) -> None:
    state, lines = run(results, "CelebA/set_01", "CelebA/set_01", alert_below=1.0)
    comparison = read(state.result())
    assert (comparison.path_agreement, comparison.layers_kept, comparison.moved) == (1, 1, ())
    assert not any("WARNING" in line for line in lines)  # 1.0 is not under 1.0


def test_a_model_that_decides_otherwise_on_the_same_activations_changes_decisions_and_no_path(results: Path) -> None:
    state, _ = run(results, "CelebA/set_01", "Exchanged")
    comparison = read(state.result())
    assert not comparison.same_model
    assert comparison.path_agreement == 1
    decisions = comparison.decisions
    assert decisions is not None
    changed = {(pair.first, pair.second) for pair in decisions.counts if pair.first != pair.second}
    assert changed == {(1, 3), (3, 1)}
    assert decisions.right_second < decisions.right_first
    assert "| Black | Brown |" in artifacts(state)["comparison"]


def test_events_tell_automations_of_a_comparison_and_of_one_under_the_threshold(results: Path) -> None:
    run(results, "Exchanged/set_01", "CelebA/set_01", alert_below=0.0)
    state, lines = run(results, "CelebA/set_02", "CelebA/set_01", alert_below=1.0)
    _, other_k = run(results, "CelebA/set_03", "CelebA/set_01", alert_below=1.0)
    comparison = read(state.result())
    told = wait_for_event("cluster-paths.diverged", "CelebA/set_02", "CelebA/set_01")
    assert told["path_agreement"] == comparison.path_agreement < told["alert_below"] == 1.0
    assert wait_for_event("cluster-paths.compared", "Exchanged/set_01", "CelebA/set_01")["examples"] == 80
    assert not wait_for_event("cluster-paths.compared", "CelebA/set_03", "CelebA/set_01")["same_k"]
    assert any("different numbers of clusters" in line for line in other_k)  # of different k: no alarm
    assert [p["first"] for p in events("cluster-paths.diverged", "CelebA/set_01")] == ["CelebA/set_02"]
    assert any("is under 1.000" in line for line in lines)


class Pages(Report):
    """Remembers the page of a comparison."""

    page: Path | None = None

    def comparison(self, comparison: Comparison, page: Path, alert_below: float) -> None:  # noqa: ARG002
        self.page = page


def test_a_new_model_is_compared_with_the_one_before_it(results: Path, faces: Path) -> None:
    alone = succeed(model=SAMPLE_MODEL, name="Alone", data_root=faces, cache_root=results / "apart", subset=20)

    def afterwards(set_dir: Path) -> Path | None:
        """The page that the pipeline writes after it published this set."""
        report = Pages()
        compare_with_earlier(open_set(set_dir), InProcess(), report, 0.0)
        return report.page

    newest = afterwards(results / "Exchanged" / "set_01")
    assert newest is not None
    assert newest.name.startswith("comparison_with_CelebA_set_0")
    before = afterwards(results / "CelebA" / "set_02")
    assert before is not None
    assert before.name == "comparison_with_CelebA_set_01.html"  # the one before, under its own name
    assert afterwards(alone.path) is None  # nothing to compare with


def test_images_that_are_gone_leave_a_page_without_pictures_unless_a_folder_was_named(
    results: Path, tmp_path: Path
) -> None:
    folder = results / "CelebA" / "set_02"
    record = json.loads((folder / "set.json").read_text())
    kept = record["data_root"]
    try:
        (folder / "set.json").write_text(json.dumps(record | {"data_root": str(tmp_path / "gone")}))
        state, lines = run(results, "CelebA/set_01", "CelebA/set_02")
        assert state.is_completed()
        assert "data:image/jpeg" not in state.result().read_text()
        assert any("WARNING The page has no images" in line and "--images" in line for line in lines)
        state, _ = run(results, "CelebA/set_01", "CelebA/set_02", data_root=Path(kept))
        assert "data:image/jpeg" in state.result().read_text()
    finally:
        (folder / "set.json").write_text(json.dumps(record))
    state, _ = run(results, "CelebA/set_01", "CelebA/set_02", data_root=tmp_path / "nowhere")
    assert state.is_failed()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--first", "../CelebA", "--second", "CelebA"], ["There are no sets called '../CelebA'", "CelebA, Exchanged"]),
        (["--first", "CelebA/set_09", "--second", "CelebA"], ["has no set 'set_09'", "set_01, set_02, set_03"]),
        (["--first", "CelebA"], ["--second"]),
        (["--first", "CelebA", "--second", "CelebA", "--top", "0"], ["--top", "greater than or equal to 1"]),
    ],
    ids=["a path", "no such set", "one set only", "none listed"],
)
def test_a_mistake_ends_with_2_and_one_paragraph(
    argv: list[str], expected: list[str], results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli import main

    log_to_this_test()
    with pytest.raises(SystemExit, match="2"):
        main(["compare", *argv, "--cache-root", str(results)])
    shown = capsys.readouterr()
    assert_one_paragraph(shown.out + shown.err, *expected)

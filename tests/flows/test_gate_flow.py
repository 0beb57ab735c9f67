"""The flow for new models with a gate: its events, its artifact, the accepted set, and what the next model is compared with."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from clusterpaths.config import RunConfig
from clusterpaths.gate.policy import GateSettings
from clusterpaths.sets.accepted import accepted_set, read_accepted, roll_back
from clusterpaths.sets.published import open_set
from clusterpaths.storage import open_storage
from flows.options import ImagesConfig
from tests.clusterpaths.conftest import write_cnn
from tests.clusterpaths.gate.conftest import write_variant
from tests.flows.test_compare import artifacts
from tests.runs import SAMPLE_MODEL, run_pipeline

pytestmark = pytest.mark.usefixtures("prefect_server")
POLICY = "decisions = {kept = 0.8}\naccuracy = {drop = 0.05}\npaths = {information = 0.1}"


@pytest.fixture(scope="module")
def results(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hair/set_01 of the sample model, with three clusters per layer."""
    root = tmp_path_factory.mktemp("gated")
    run_pipeline(
        RunConfig(
            model=SAMPLE_MODEL, data_root=faces, cache_root=str(root), name="Hair", subset=80, k=3, evaluate=False,
            check_preprocessing=False,
        )
    )  # fmt: skip
    (root / "policy.toml").write_text(POLICY)
    return root


def new_model(results: Path, model: Path, name: str, reference: str = "Hair") -> Any:
    """The state of a run as the deployment starts it: with options of its own for k and the images."""
    from flows.celeba import celeba

    config = RunConfig(
        model=model, name=name, cache_root=str(results), cache_format="zarr", compare=True, evaluate=False
    )
    gate = GateSettings(reference=reference, policy=results / "policy.toml")
    return celeba(config, gate, return_state=True)


def decisions(name: str) -> list[tuple[str, dict[str, Any]]]:
    """The gate's events about a model, as the server has them."""
    from prefect.client.orchestration import get_client
    from prefect.events.filters import EventFilter, EventResourceFilter

    wanted = EventFilter(resource=EventResourceFilter(id=[f"onnx-model.{name}"]))
    deadline = time.monotonic() + 20
    while True:
        with get_client(sync_client=True) as client:
            answer = client._client.post("/events/filter", json={"filter": wanted.model_dump(mode="json"), "limit": 50})
        found = [(one["event"], one["payload"]) for one in answer.raise_for_status().json()["events"]]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def test_a_worse_model_is_rejected_a_better_one_accepted_and_the_next_compared_with_it(
    results: Path, tmp_path: Path
) -> None:
    root = open_storage(results)
    worse = write_variant(tmp_path / "worse.onnx", exchange=(1, 3))
    state = new_model(results, worse, "worse-1")
    assert state.is_completed(), state.message
    [(event, payload)] = decisions("worse")
    assert event == "onnx-model.rejected"
    assert (payload["stage"], payload["path"], payload["set"]) == ("gate", str(worse), "worse-1/set_01")
    assert (payload["reference"], payload["is_accepted_set"]) == ("Hair/set_01", False)
    assert [reason.partition(" ")[0] for reason in payload["reasons"]] == ["decisions.kept", "accuracy.drop"]
    assert payload["sha256"] == open_set(state.result()).record.model.sha256
    shown = artifacts(state)
    assert shown["gate"].startswith("## Gate: rejected ❌")
    assert all(reason in shown["gate"] for reason in payload["reasons"])
    assert open_set(state.result()).record.k_per_layer["fc2"] == 3  # the reference's, on its images
    assert open_set(state.result()).num_examples == 80
    assert read_accepted(root).lines == {}

    state = new_model(results, write_variant(tmp_path / "better.onnx", noise=0.01), "better-1")
    [(event, payload)] = decisions("better")
    assert (event, payload["is_accepted_set"], payload["reasons"]) == ("onnx-model.accepted", True, [])
    assert accepted_set(root, "Hair").path == state.result()

    state = new_model(results, write_variant(tmp_path / "third.onnx", noise=0.02, seed=5), "third-1")
    [(event, payload)] = decisions("third")
    assert payload["reference"] == "better-1/set_01"
    assert list(state.result().glob("comparison_with_*.html")) == [
        state.result() / "comparison_with_better-1_set_01.html"
    ]
    assert roll_back(root, "Hair").name == "better-1/set_01"

    again = new_model(results, tmp_path / "better.onnx", "better-1")  # a retry, when it is accepted already
    assert again.is_completed()
    assert [entry.action for entry in read_accepted(root).lines["Hair"]][-1] == "rolled back"
    assert [path.name for path in again.result().glob("gate*.json")] == ["gate.json"]


def test_a_model_that_cannot_be_compared_is_rejected_and_the_run_fails_with_the_reason(
    results: Path, tmp_path: Path
) -> None:
    state = new_model(results, write_cnn(tmp_path / "tiny.onnx"), "tiny-1")
    assert state.is_failed()
    [(event, payload)] = decisions("tiny")
    assert (event, payload["stage"], payload["set"]) == ("onnx-model.rejected", "gate", "")
    assert "cannot be compared with" in payload["reason"]
    assert "whose layers are conv1, conv2, conv3, fc1, fc2" in payload["reason"]


def test_a_mistake_of_the_gate_itself_rejects_nothing(results: Path, tmp_path: Path) -> None:
    model = write_variant(tmp_path / "fourth.onnx", noise=0.01, seed=9)
    state = new_model(results, model, "fourth-1", reference="Nobody")
    assert state.is_failed()
    assert "There are no sets called 'Nobody'" in state.message
    (results / "policy.toml").write_text("decisions = {keep = 1}")
    try:
        state = new_model(results, model, "fourth-1")
    finally:
        (results / "policy.toml").write_text(POLICY)
    assert "decisions.keep is no key of [decisions]" in state.message
    assert not (results / "fourth-1").exists()


def test_the_flow_of_any_images_has_the_gate_too_and_a_registry_has_to_be_configured(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.images import images

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    gate = GateSettings(reference="Hair/set_01", policy=results / "policy.toml")
    model = write_variant(tmp_path / "fifth.onnx", noise=0.01, seed=11)
    config = ImagesConfig(dataset="celeba", model=model, name="fifth-1", cache_root=str(results))
    state = images(config, gate, "models:/Hair/1", return_state=True)
    assert state.is_failed()
    assert "MLFLOW_TRACKING_URI" in state.message or "mlflow" in state.message  # without the extra
    assert not (results / "fifth-1").exists()
    assert images(config, gate, return_state=True).is_completed()
    [(event, payload)] = decisions("fifth")
    assert (event, payload["is_accepted_set"]) == ("onnx-model.accepted", False)  # another one is the accepted set

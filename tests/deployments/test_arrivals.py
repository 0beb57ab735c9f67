"""A model arrives: the watcher announces it, a worker runs it, in a cache of its own, compared with the one before."""

from __future__ import annotations

import datetime
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest

from clusterpaths.models.external import hash_files
from clusterpaths.sets.accepted import accepted_set
from clusterpaths.sets.find import list_sets
from clusterpaths.sets.published import open_set
from clusterpaths.storage import open_storage
from tests.clusterpaths.gate.conftest import write_variant
from tests.deployments.conftest import end_group
from tests.deployments.site import Site, wait_until
from tests.runs import PROJECT, SAMPLE_MODEL

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def watcher(site: Site) -> Iterator[None]:
    """The watcher of the site's model folder; what lies there when it starts is known."""
    command = [sys.executable, str(PROJECT / "deployments" / "watch_models.py"), "--settle", "1"]
    with (site.home / "watcher.log").open("ab") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=site.environment, cwd=site.home, start_new_session=True
        )
    try:
        wait_until((site.home / "ONNX_models" / ".announced.json").is_file)
        yield
    finally:
        end_group(process)


def version(number: int) -> bytes:
    """The sample model as another file: the same layers and weights, another sha256."""
    model = onnx.load(str(SAMPLE_MODEL))
    onnx.helper.set_model_props(model, {p.key: p.value for p in model.metadata_props} | {"version": str(number)})
    return bytes(model.SerializeToString())


def arrive(site: Site, name: str, content: bytes, pieces: int = 1) -> str:
    """Write a model into the watched folder, slowly where in pieces; the name that its results get."""
    path = site.home / "ONNX_models" / name
    step = -(-len(content) // pieces)
    with path.open("wb") as file:
        for start in range(0, len(content), step):
            file.write(content[start : start + step])
            file.flush()
            time.sleep(0.6 if pieces > 1 else 0)
    return f"{path.stem}-{hash_files([path])[:8]}"


def arrivals(site: Site) -> list[dict[str, Any]]:
    return site.runs_of("celeba/on-new-model")


def completed(site: Site, count: int) -> list[dict[str, Any]]:
    """The runs for arrived models, once there are so many and all have completed."""

    def done() -> list[dict[str, Any]] | None:
        runs = arrivals(site)
        assert not [run for run in runs if run["state"]["type"] in ("FAILED", "CRASHED")], site.log
        return runs if len(runs) == count and {run["state"]["type"] for run in runs} == {"COMPLETED"} else None

    runs: list[dict[str, Any]] = wait_until(done, lambda: f"{[r['state'] for r in arrivals(site)]}\n{site.log}")
    return runs


def test_arrived_models_get_a_run_each_one_at_a_time_a_cache_of_their_own_and_a_comparison(
    site: Site, watcher: None
) -> None:
    site.publish(name="Before", data_root=site.home / "data")

    first = arrive(site, "Hair.onnx", version(1), pieces=3)
    wait_until(lambda: len(arrivals(site)) == 1, lambda: (site.home / "watcher.log").read_text())
    second = arrive(site, "Other.onnx", version(2))
    (site.home / "ONNX_models" / "notes.onnx").write_text("no model")
    runs = completed(site, 2)

    config = runs[0]["parameters"]["config"]
    assert config["name"] == first
    assert runs[0]["parameters"]["registered"] == ""  # of no registry
    assert Path(config["model"]) == site.home / "ONNX_models" / "Hair.onnx"
    assert {run["parameters"]["config"]["name"] for run in runs} == {first, second}
    earlier, later = sorted(runs, key=lambda run: str(run["start_time"]))
    assert earlier["end_time"] <= later["start_time"]  # the later arrival waited
    for name in (first, second):
        assert list_sets(site.caches / name) == ["set_01"]
        assert open_set(site.caches / name / "set_01").record.num_examples == 40
    assert list((site.caches / first / "set_01").glob("comparison_with_*.json")) != []
    assert ("comparison", "markdown") in site.artifacts(runs[0]["id"])
    (alarm,) = site.alarms(lambda one: one.get("event") == "onnx-model.rejected")
    assert (alarm["stage"], Path(alarm["model"]).name) == ("file", "notes.onnx")
    assert "notes.onnx" in alarm["reason"]
    time.sleep(3)
    assert len(arrivals(site)) == 2  # the text file, and models that were announced, start none


def test_another_model_under_the_same_name_gets_a_run_with_a_name_of_its_own(site: Site, watcher: None) -> None:
    before = {run["id"] for run in arrivals(site)}
    site.patch("/work_pools/clusterpaths", is_paused=True)  # it is enough to see the run wait
    try:
        name = arrive(site, "Hair.onnx", version(3))
        [run] = wait_until(lambda: [run for run in arrivals(site) if run["id"] not in before])
        assert run["parameters"]["config"]["name"] == name
        assert name not in {path.name for path in site.caches.iterdir()}
        site.delete(f"/flow_runs/{run['id']}")
    finally:
        site.patch("/work_pools/clusterpaths", is_paused=False)


def test_a_run_for_a_model_that_was_replaced_meanwhile_says_so(site: Site) -> None:
    sample = str(site.home / "ONNX_models" / SAMPLE_MODEL.name)
    id_ = site.start("celeba/on-new-model", config={"model": sample, "name": "Late", "model_sha256": "0" * 64})
    failed = site.end_of(id_)
    assert failed["state"]["type"] == "FAILED"
    assert "has changed" in failed["state"]["message"]
    assert not (site.caches / "Late").exists()


def test_a_model_of_a_registry_brings_its_version_to_the_run(site: Site) -> None:
    before = {run["id"] for run in arrivals(site)}
    path = site.home / "ONNX_models" / SAMPLE_MODEL.name
    payload = {"path": str(path), "name": "Registered", "sha256": "1" * 64, "registered": "models:/Hair colour/12"}
    event = {
        "id": str(uuid.uuid4()), "occurred": datetime.datetime.now(datetime.UTC).isoformat(), "event": "onnx-model.arrived",
        "resource": {"prefect.resource.id": "onnx-model.Registered"}, "payload": payload,
    }  # fmt: skip
    site.patch("/work_pools/clusterpaths", is_paused=True)
    try:
        httpx.post(f"{site.url}/events", json=[event], timeout=20).raise_for_status()
        [run] = wait_until(lambda: [run for run in arrivals(site) if run["id"] not in before])
        assert run["parameters"]["registered"] == "models:/Hair colour/12"
        assert run["parameters"]["gate"] is None
        site.delete(f"/flow_runs/{run['id']}")
    finally:
        site.patch("/work_pools/clusterpaths", is_paused=False)


def test_a_gate_in_the_deployments_parameters_decides_and_moves_the_accepted_set(site: Site) -> None:
    site.publish(name="Gated", data_root=site.home / "data", k=3)
    (site.home / "policy.toml").write_text("decisions = {kept = 0.9}")
    gate = {"reference": "Gated", "policy": str(site.home / "policy.toml")}
    for name, change in (("Confused", {"exchange": (1, 3)}), ("Further", {"noise": 0.01})):
        model = write_variant(site.home / "candidates" / f"{name}.onnx", **change)
        config = {"model": str(model), "name": name, "evaluate": False, "check_preprocessing": False}
        ended = site.end_of(site.start("celeba/on-new-model", config=config, gate=gate))
        assert ended["state"]["type"] == "COMPLETED", ended["state"]["message"]
        assert ("gate", "markdown") in site.artifacts(ended["id"])
        assert open_set(site.caches / name / "set_01").record.k_per_layer["fc2"] == 3
    (alarm,) = site.alarms(lambda one: one.get("stage") == "gate")
    assert alarm["reason"].startswith("decisions.kept is 0.")
    assert accepted_set(open_storage(site.caches), "Gated").name == "Further/set_01"

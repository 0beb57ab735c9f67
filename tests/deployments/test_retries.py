"""Runs that fail, crash, are cancelled or meet: what was recorded stays, and the next run goes on from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from clusterpaths.sets.find import list_sets
from tests.deployments.site import Site, made_shards, wait_until
from tests.runs import PROJECT, assert_same_documents, written

pytestmark = pytest.mark.server


SHARD = 6  # of 300 images


def slow(site: Site, faces: Path, name: str, shard_size: int = SHARD) -> dict[str, Any]:
    """Many small shards, one after the other: time to stop it half-way; and little to do after them."""
    model = str(site.home / "ONNX_models" / "SampleFaces_CNN.onnx")
    own = {"name": name, "data_root": str(faces), "model": model, "evaluate": False, "check_preprocessing": False}
    return own | {"layers": ["fc1", "fc2"], "shard_size": shard_size, "workers": 1, "cache_format": "npy"}


@pytest.fixture(scope="module")
def together(site: Site, faces: Path) -> dict[str, dict[str, Any]]:
    """Two runs on one name and one on another, started at once."""
    names = {"first": "Twins", "second": "Twins", "other": "Undisturbed"}
    ids = {key: site.start("celeba/full", config=slow(site, faces, name)) for key, name in names.items()}
    return {key: site.complete(id_) for key, id_ in ids.items()}


def test_two_runs_on_one_name_make_one_set_while_another_name_goes_in_parallel(
    site: Site, together: dict[str, dict[str, Any]]
) -> None:
    assert list_sets(site.caches / "Twins") == list_sets(site.caches / "Undisturbed") == ["set_01"]
    assert_same_documents(site.caches / "Twins" / "set_01", site.caches / "Undisturbed" / "set_01")
    twins = [together["first"], together["second"]]
    assert all(together["other"]["start_time"] < run["end_time"] for run in twins)
    assert all(run["start_time"] < together["other"]["end_time"] for run in twins)


def test_a_run_that_failed_at_a_shard_tells_why_and_a_retry_makes_only_what_is_missing(site: Site) -> None:
    root, cache = site.draw("faulty", 40), site.caches / "Faulty"
    image = root / "celeba" / "img_align_celeba" / "000025.jpg"
    whole = image.read_bytes()
    image.write_bytes(b"no image")
    id_ = site.start("celeba/full", config=slow(site, root, "Faulty", 10) | {"max_failures": 0})
    failed = site.end_of(id_)
    assert failed["state"]["type"] == "FAILED"
    assert "1 images cannot be read" in failed["state"]["message"]
    assert "000025.jpg" in failed["state"]["message"]
    assert "Traceback" not in failed["state"]["message"]
    assert not [line for line in site.logs(id_, "cannot be read") if "Traceback" in line]
    (alarm,) = site.alarms(lambda one: one.get("flow_run") == failed["name"])
    assert "000025.jpg" in alarm["message"]
    assert made_shards(cache) == [0, 1]
    before = written(cache)

    image.write_bytes(whole)
    site.prefect("flow-run", "retry", id_)
    wait_until(lambda: site.run(id_)["state"]["type"] != "FAILED")
    site.complete(id_)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    site.logs(id_, "(20 in the cache, 20 to extract in 2 shards)")
    assert made_shards(cache) == [0, 1, 2, 3]
    assert list_sets(cache) == ["set_01"]


def test_a_cancelled_run_stops_half_way_and_leaves_a_cache_that_goes_on(
    site: Site, faces: Path, together: dict[str, dict[str, Any]]
) -> None:
    cache, config = site.caches / "Cancelled", slow(site, faces, "Cancelled", 1)
    id_ = site.start("celeba/full", config=config)
    wait_until(lambda: len(made_shards(cache)) >= 2, lambda: site.log)
    site.set_state(id_, "CANCELLING", "Cancelling")
    assert site.end_of(id_)["state"]["type"] == "CANCELLED"
    before = written(cache)
    assert len(made_shards(cache)) < 300
    assert list_sets(cache) == []
    assert list(cache.glob("*partial*")) == []
    site.publish(**config | {"shard_size": 100})
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert list_sets(cache) == ["set_01"]


def test_a_killed_workers_run_is_noticed_and_its_retry_ends_as_if_nothing_had_happened(
    site: Site, faces: Path, together: dict[str, dict[str, Any]]
) -> None:
    (shipped,) = yaml.safe_load((PROJECT / "deployments" / "automations.yaml").read_text())["automations"]
    assert shipped["trigger"]["within"] == 90
    shipped |= {"name": "crashed-runs-soon", "trigger": shipped["trigger"] | {"within": 15}}
    automation = site.post("/automations/", **shipped)["id"]
    wait_until(lambda: site.get(f"/automations/{automation}"))
    cache = site.caches / "Killed"
    id_ = site.start("celeba/full", config=slow(site, faces, "Killed"))
    wait_until(lambda: len(made_shards(cache)) >= 2, lambda: site.log)
    site.kill_worker()
    before, made = written(cache), len(made_shards(cache))
    assert 2 <= made < 300 // SHARD
    assert site.end_of(id_)["state"]["type"] == "CRASHED"
    site.delete(f"/automations/{automation}")

    site.start_worker()
    site.set_state(id_, "SCHEDULED", "AwaitingRetry")
    wait_until(lambda: site.run(id_)["state"]["type"] != "CRASHED")
    site.complete(id_)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert_same_documents(cache / "set_01", site.caches / "Undisturbed" / "set_01")

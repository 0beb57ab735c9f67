"""What set_up.py makes on a real server, and runs of it by a real worker."""

from __future__ import annotations

import sys

import pytest

from clusterpaths.sets.find import list_sets
from tests.deployments.site import Site, wait_until
from tests.runs import PROJECT

pytestmark = pytest.mark.server
DEPLOYMENTS = [
    "celeba/full",
    "celeba/quick",
    "celeba/sample",
    "celeba/on-new-model",
    "images/folder",
    "recluster/nightly",
    "recluster/after-drift",
    "monitor/hourly",
    "monitor/on-new-images",
]


def test_setting_up_again_asks_nothing_and_renews_what_is_there(site: Site) -> None:
    ids = {name: site.deployment(name)["id"] for name in DEPLOYMENTS}
    automations = sorted(one["name"] for one in site.post("/automations/filter"))
    done = site.command(sys.executable, str(PROJECT / "deployments" / "set_up.py"))
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) <= 9, done.stdout
    assert all(name in done.stdout for name in DEPLOYMENTS)
    waiting = "recluster/nightly, recluster/after-drift, monitor/hourly, monitor/on-new-images"
    assert any(line.startswith(f"Not ready: {waiting}. There are no sets called 'CelebA'") for line in lines), lines
    assert lines[-2:] == [
        "Next: prefect worker start --pool clusterpaths --type process",
        "Then, in another terminal: prefect deployment run celeba/sample --watch",
    ]
    assert {name: site.deployment(name)["id"] for name in DEPLOYMENTS} == ids
    assert sorted(one["name"] for one in site.post("/automations/filter")) == automations
    alarms = {"run-failed", "paths-diverged", "drifted", "model-rejected", "crashed-runs"}
    assert {f"clusterpaths-{name}" for name in alarms} <= {*automations}


def test_deployments_have_their_parameters_and_prefect_yaml_names_no_folder_of_one_machine(site: Site) -> None:
    assert site.deployment("celeba/full")["parameters"] == {"config": {"cache_format": "zarr"}}
    assert site.deployment("celeba/quick")["parameters"]["config"]["subset"] == 5
    assert site.deployment("celeba/sample")["parameters"] == {"config": {"sample": True}}
    assert site.deployment("celeba/on-new-model")["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    assert str(PROJECT) not in (PROJECT / "prefect.yaml").read_text()


def test_every_parameter_has_its_help_and_its_type_in_the_form(site: Site) -> None:
    flat = site.deployment("recluster/nightly")["parameter_openapi_schema"]["properties"]
    nested = site.deployment("celeba/sample")["parameter_openapi_schema"]["definitions"]["RunConfig"]["properties"]
    assert {"name", "k", "distance", "seed"} <= set(flat)
    assert {"model", "k", "sample", "sample_size"} <= set(nested)
    for field, schema in (*flat.items(), *nested.items()):
        assert schema.get("description"), field
        assert {"type", "anyOf", "allOf", "$ref", "enum"} & set(schema), field


def test_nightly_runs_are_scheduled_at_three_in_berlin(site: Site) -> None:
    (schedule,) = site.deployment("recluster/nightly")["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("0 3 * * *", "Europe/Berlin")
    scheduled = {"type": {"any_": ["SCHEDULED"]}}  # the server's scheduler makes them some seconds after deploying
    runs = wait_until(lambda: site.runs_of("recluster/nightly", state=scheduled))
    assert {run["expected_start_time"][11:16] for run in runs} <= {"01:00", "02:00"}


def test_the_sample_runs_through_the_worker_and_shows_artifacts_and_logs(site: Site) -> None:
    options = '{"sample": true, "sample_size": 60}'
    said = site.prefect("deployment", "run", "celeba/sample", "--watch", "-p", f"config={options}")
    assert "Completed" in said
    run = next(one for one in site.runs_of("celeba/sample") if one["state"]["type"] == "COMPLETED")
    assert run["name"] == "SampleFaces: SampleFaces_CNN on 60 drawn faces"
    assert "sample" in run["tags"]
    artifacts = site.artifacts(run["id"])
    assert artifacts["extraction-progress", "progress"]["data"] == 100
    assert {("stage-times", "table"), ("cluster-paths", "markdown")} <= set(artifacts)
    site.logs(run["id"], "60 examples on")


def test_a_reclustering_through_the_worker_is_compared_and_raises_the_alarm(site: Site) -> None:
    site.publish(name="Growing", data_root=site.home / "data", layers="fc1,fc2", alert_below=1.0)
    changed = ("-p", "name=Growing", "-p", "seed=7", "-p", "distance=euclidean")
    site.prefect("deployment", "run", "recluster/nightly", *changed, "--watch")
    [id_] = [run["id"] for run in site.runs_of("recluster/nightly") if run["state"]["type"] == "COMPLETED"]
    assert list_sets(site.caches / "Growing") == ["set_01", "set_02"]
    assert ("comparison", "markdown") in site.artifacts(id_)
    (alarm,) = site.alarms(lambda one: one.get("event") == "cluster-paths.diverged")
    assert (alarm["first"], alarm["second"]) == ("Growing/set_01", "Growing/set_02")
    assert alarm["path_agreement"] < 1

"""A day in production, on a real server with a worker: quiet windows, an odd one, and two new models."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.monitoring.series import Series
from clusterpaths.sets.accepted import accepted_set
from clusterpaths.sets.find import list_sets
from clusterpaths.sets.published import open_set
from clusterpaths.storage import open_storage
from tests.clusterpaths.gate.conftest import write_variant
from tests.deployments.conftest import free_port, running_server
from tests.deployments.postgres import running_postgres
from tests.deployments.site import Site, furnished, wait_until
from tests.runs import SAMPLE_MODEL

pytestmark = [pytest.mark.server, pytest.mark.timeout(1500)]
REFERENCE, WINDOW = 600, 600  # faces


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server of its own: its sets, events and automations are those of this day only."""
    home = tmp_path_factory.mktemp("day")
    quick = {"PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "1"}
    with running_postgres(free_port()) as database:
        more = quick | {"PREFECT_API_DATABASE_CONNECTION_URL": database}
        with running_server(home / "server", free_port(), **more) as url, furnished(url, home / "home") as site:
            yield site


def come_in(site: Site, part: int, *, upside_down: float = 0.0) -> None:
    """A window of new faces, a share of them upside down, in the directory that is watched."""
    folder, drawn = site.home / "incoming", site.home / "drawn" / str(part)
    files = sorted(write_faces(drawn, WINDOW, seed=100 + part).glob("**/*.jpg"))
    folder.mkdir(exist_ok=True)
    for place, file in enumerate(files):
        target = folder / f"{part:02d}-{file.name}"
        if place < upside_down * len(files):
            with Image.open(file) as image:
                image.transpose(Image.Transpose.ROTATE_180).save(target, quality=95)
        else:
            shutil.copyfile(file, target)
        os.utime(target, (1_000 * part + place,) * 2)


def hourly(site: Site) -> dict[str, Any]:
    """What the deployment does ten minutes past each hour, now; windows are counted, as no hour passes here."""
    config = {
        "reference": "CelebA",
        "data_root": str(site.home / "incoming"),
        "series": "hourly",
        "window": str(WINDOW),
    }
    return site.complete(site.start("monitor/hourly", config=config))


def gate(site: Site, name: str, **change: Any) -> dict[str, Any]:
    """A model arrives; its run, when it has ended."""
    model = write_variant(site.home / "candidates" / f"{name}.onnx", **change)
    config = {"model": str(model), "name": name, "cache_format": "zarr", "evaluate": False}
    given = {"reference": "CelebA", "policy": str(site.home / "policy.toml")}
    return site.complete(site.start("celeba/on-new-model", config=config, gate=given))


def model_events(site: Site, event: str) -> list[dict[str, Any]]:
    found = site.post("/events/filter", filter={"event": {"name": [event]}, "order": "ASC"}, limit=50)
    return [one["payload"] for one in found["events"]]


def test_a_day_in_production(day: Site) -> None:
    site = day
    # The reference, as the deployment for all of CelebA makes it.
    site.draw("data", REFERENCE)
    shutil.copyfile(SAMPLE_MODEL, site.home / "ONNX_models" / "CelebA_CNN_instrumented.onnx")
    site.complete(site.start("celeba/full", config={"cache_format": "zarr", "causal": False}))
    assert list_sets(site.caches / "CelebA") == ["set_01"]
    published = open_set(site.caches / "CelebA" / "set_01")
    series = Series(published, "hourly")

    # Three quiet windows.
    for part in (1, 2, 3):
        come_in(site, part)
    run = hourly(site)
    quiet = [series.read(number) for number in (1, 2, 3)]
    assert [(one.num_images, one.drifted) for one in quiet] == [(WINDOW, False)] * 3
    assert {("windows", "table"), ("window", "markdown")} <= set(site.artifacts(run["id"]))
    assert model_events(site, "cluster-paths.drifted") == []

    # A tenth of the next window's faces is upside down: found, reported, and a re-clustering is started.
    come_in(site, 4, upside_down=0.1)
    hourly(site)
    assert series.numbers() == [1, 2, 3, 4]
    odd = series.read(4)
    assert (odd.num_images, odd.drifted) == (WINDOW, True)
    (alarm,) = site.alarms(lambda one: one.get("event") == "cluster-paths.drifted")
    assert (alarm["reference"], alarm["series"], alarm["window"]) == ("CelebA/set_01", "hourly", 4)
    (started,) = wait_until(lambda: site.runs_of("recluster/after-drift"), lambda: site.log)
    site.complete(started["id"])
    site.logs(started["id"], "Nothing new in the data directory")
    assert list_sets(site.caches / "CelebA") == ["set_01"]

    # The same again: nothing is recorded, nothing is announced.
    hourly(site)
    assert series.numbers() == [1, 2, 3, 4]
    assert len(model_events(site, "cluster-paths.drifted")) == 1

    # A directory that is announced, as docs/monitoring.md says, is watched, too.
    payload = json.dumps({"path": str(site.home / "incoming")})
    site.prefect("event", "emit", "new-images.arrived", "--resource-id", "new-images.camera-1", "--payload", payload)
    (started,) = wait_until(lambda: site.runs_of("monitor/on-new-images"), lambda: site.log)
    site.complete(started["id"])
    announced = Series(published, "on-new-images")
    assert [announced.read(number).num_images for number in announced.numbers()] == [200] * (4 * WINDOW // 200)

    # A model that confuses two classes is rejected; one that was trained further is accepted, and is the reference then.
    (site.home / "policy.toml").write_text("decisions = {kept = 0.9}\nclasses = {drop = 0.1}\n")
    run = gate(site, "Confused", exchange=(1, 3))
    assert ("gate", "markdown") in site.artifacts(run["id"])
    (rejected,) = model_events(site, "onnx-model.rejected")
    assert (rejected["stage"], rejected["set"], rejected["reference"]) == ("gate", "Confused/set_01", "CelebA/set_01")
    assert any("decisions.kept" in reason for reason in rejected["reasons"])
    site.alarms(lambda one: one.get("event") == "onnx-model.rejected")
    gate(site, "Further", noise=0.01)
    (accepted,) = model_events(site, "onnx-model.accepted")
    assert (accepted["set"], accepted["is_accepted_set"]) == ("Further/set_01", True)
    root = open_storage(site.caches)
    assert accepted_set(root, "CelebA").name == "Further/set_01"

    # Images are compared with the accepted model's set from now on.
    come_in(site, 5)
    hourly(site)
    of_further = Series(open_set(site.caches / "Further" / "set_01"), "hourly")
    assert of_further.numbers() == [1], "the series goes on: what was judged before is not judged again"
    assert (of_further.read(1).reference.name, of_further.read(1).num_images) == ("Further/set_01", WINDOW)

    # And back.
    done = site.command(sys.executable, "-m", "clusterpaths.commands.main", "accepted", "--roll-back")
    assert done.returncode == 0, done.stdout
    assert accepted_set(root, "CelebA").name == "CelebA/set_01"
    hourly(site)
    assert series.numbers() == [1, 2, 3, 4]
    come_in(site, 6)
    hourly(site)
    assert series.numbers() == [1, 2, 3, 4, 5]
    assert series.read(5).num_images == WINDOW

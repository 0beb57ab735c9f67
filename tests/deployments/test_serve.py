"""deployments/serve.py offers what prefect.yaml says."""

from __future__ import annotations

import runpy
from typing import Any

import yaml

from tests.runs import PROJECT


def test_serving_offers_the_deployments_of_prefect_yaml() -> None:
    served = runpy.run_path(str(PROJECT / "deployments" / "serve.py"))["deployments"]()
    entries: list[dict[str, Any]] = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    assert [(one.flow_name, one.name) for one in served] == [
        (entry["entrypoint"].rpartition(":")[2], entry["name"]) for entry in entries
    ]
    for one, entry in zip(served, entries, strict=True):
        assert one.parameters == entry["parameters"]
        assert one.tags == entry["tags"]
        assert one.description == entry["description"]
        schedules = [(each.schedule.cron, each.schedule.timezone) for each in one.schedules or []]
        assert schedules == [(each["cron"], each["timezone"]) for each in entry.get("schedules", [])]
        assert [trigger.parameters for trigger in one.triggers] == [
            each["parameters"] for each in entry.get("triggers", [])
        ]
        assert (one.concurrency_limit or None) == (entry.get("concurrency_limit") or {}).get("limit")

"""Set up a server: work pool, deployments, automations. Safe to run again: existing ones are updated.

    python deployments/set_up.py                                    pool, deployments, crashed-run automation
    python deployments/set_up.py --webhook https://example.org/in   also a POST to that URL when a run fails, or when a
                                                                    comparison finds path agreement below its threshold

PREFECT_API_URL names the server.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import yaml
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events import AutomationCore
from prefect.exceptions import ObjectAlreadyExists

ROOT = Path(__file__).resolve().parent.parent
AUTOMATIONS = Path(__file__).with_name("automations.yaml")
POOL = "clusterpaths"
WEBHOOK_BLOCK = "clusterpaths-webhook"
# JSON bodies of the POST: Prefect renders the expressions in double braces when the automation is triggered.
FAILED = """{"event": {{ event.event | tojson }}, "flow_run": {{ flow_run.name | tojson }},
"message": {{ flow_run.state.message | tojson }}, "url": {{ flow_run | ui_url | tojson }}}"""
DIVERGED = """{"event": {{ event.event | tojson }}, "path_agreement": {{ event.payload.path_agreement }},
"first": {{ event.payload.first | tojson }}, "second": {{ event.payload.second | tojson }}}"""


def main(
    webhook: Annotated[str | None, cyclopts.Parameter(help="URL that receives a POST for each alert")] = None,
) -> None:
    """Create the work pool, the deployments of prefect.yaml, and the automations."""
    if not os.environ.get("PREFECT_API_URL"):
        sys.exit("error: PREFECT_API_URL is not set. Expected the URL of a server, such as http://127.0.0.1:4200/api.")
    with get_client(sync_client=True) as client:
        make_pool(client)
        subprocess.run([sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"], cwd=ROOT, check=True)
        for entry in yaml.safe_load(AUTOMATIONS.read_text())["automations"]:
            make_automation(client, AutomationCore.model_validate(entry))
        if webhook:
            for automation in alarms(webhook):
                make_automation(client, automation)


def make_pool(client: SyncPrefectClient) -> None:
    """Create the process work pool; an existing one is unchanged."""
    try:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    except ObjectAlreadyExists:
        print(f"Work pool {POOL!r} exists")
    else:
        print(f"Created work pool {POOL!r}")


def make_automation(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Create it, or replace the one with the same name."""
    for present in client.read_automations_by_name(automation.name):
        client.delete_automation(present.id)
    client.create_automation(automation)
    print(f"Automation {automation.name!r}")


def alarms(url: str) -> list[AutomationCore]:
    """Two automations that post to a webhook: one for failed or crashed runs, one for diverged paths."""
    block = Webhook(method="POST", url=url, allow_private_urls=True)
    block_id = block.save(WEBHOOK_BLOCK, overwrite=True)
    states = ["prefect.flow-run.Failed", "prefect.flow-run.Crashed"]
    return [
        _alarm("clusterpaths-run-failed", block_id, FAILED, states, "prefect.flow-run.*"),
        _alarm("clusterpaths-paths-diverged", block_id, DIVERGED, ["cluster-paths.diverged"], "cluster-paths.*"),
    ]


def _alarm(name: str, block: Any, body: str, expect: list[str], resource: str) -> AutomationCore:
    trigger = {"type": "event", "posture": "Reactive", "match": {"prefect.resource.id": resource}, "threshold": 1}
    action = {"type": "call-webhook", "block_document_id": str(block), "payload": body}
    return AutomationCore.model_validate(
        {"name": name, "trigger": {**trigger, "expect": expect, "within": 0}, "actions": [action]}
    )


if __name__ == "__main__":
    cyclopts.run(main)

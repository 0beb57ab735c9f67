"""Set up a server: work pool, deployments, automations. Safe to run again: existing ones are updated.

    python deployments/set_up.py                                    pool, deployments, crashed-run automation
    python deployments/set_up.py --webhook https://example.org/in   also a POST to that URL when a run fails, a window drifted,
                                                                    a model is rejected, or a comparison finds path
                                                                    agreement below its threshold

PREFECT_API_URL names the server.
"""

from __future__ import annotations

import contextlib
import itertools
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
from pydantic import BaseModel

from clusterpaths.common import roots
from clusterpaths.common.text import without_credentials
from clusterpaths.config import RunConfig
from clusterpaths.errors import ClusterPathsError
from clusterpaths.monitoring.config import MonitorConfig
from clusterpaths.monitoring.monitor import find_reference
from clusterpaths.running.inputs import require_inputs
from flows.options import ImagesConfig, ReclusterConfig

ROOT = Path(__file__).resolve().parent.parent
AUTOMATIONS = Path(__file__).with_name("automations.yaml")
POOL = "clusterpaths"
WEBHOOK_BLOCK = "clusterpaths-webhook"
# JSON bodies of the POST: Prefect renders the expressions in double braces when the automation is triggered.
FAILED = """{"event": {{ event.event | tojson }}, "flow_run": {{ flow_run.name | tojson }},
"message": {{ flow_run.state.message | tojson }}, "url": {{ flow_run | ui_url | tojson }}}"""
DIVERGED = """{"event": {{ event.event | tojson }}, "path_agreement": {{ event.payload.path_agreement }},
"first": {{ event.payload.first | tojson }}, "second": {{ event.payload.second | tojson }}}"""

DRIFTED = """{"event": {{ event.event | tojson }}, "reference": {{ event.payload.reference | tojson }},
"series": {{ event.payload.series | tojson }}, "window": {{ event.payload.window }},
"first_layer": {{ event.payload.first_layer | tojson }}, "headline": {{ event.payload.headline | tojson }}}"""
REJECTED = """{"event": {{ event.event | tojson }}, "stage": {{ event.payload.stage | tojson }},
"model": {{ event.payload.path | tojson }}, "reason": {{ event.payload.reason | tojson }}}"""


def main(
    webhook: Annotated[str | None, cyclopts.Parameter(help="URL that receives a POST for each alert")] = None,
) -> None:
    """Create the work pool, the deployments of prefect.yaml, and the automations."""
    if not os.environ.get("PREFECT_API_URL"):
        sys.exit("error: PREFECT_API_URL is not set. Expected the URL of a server, such as http://127.0.0.1:4200/api.")
    print(f"Setting up {without_credentials(os.environ['PREFECT_API_URL'])} …", flush=True)
    entries = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    with get_client(sync_client=True) as client:
        pool = make_pool(client)
        deploy()
        automations = [
            AutomationCore.model_validate(entry) for entry in yaml.safe_load(AUTOMATIONS.read_text())["automations"]
        ]
        automations += alarms(webhook) if webhook else []
        for automation in automations:
            make_automation(client, automation)
    print(f"Work pool {POOL} ({pool}), deployments {', '.join(map(name_of, entries))}")
    print(f"Automations {', '.join(automation.name for automation in automations)}")
    for reason, alike in itertools.groupby(((unready(entry), entry) for entry in entries), lambda pair: pair[0]):
        if reason:
            print(f"Not ready: {', '.join(name_of(entry) for _, entry in alike)}. {reason}")
    print(f"Next: prefect worker start --pool {POOL} --type process")
    print("Then, in another terminal: prefect deployment run celeba/sample --watch")


def make_pool(client: SyncPrefectClient) -> str:
    """Create the process work pool; an existing one is unchanged. Returns which of both."""
    try:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    except ObjectAlreadyExists:
        return "there before"
    return "created"


def deploy() -> None:
    """Create or update the deployments of prefect.yaml; what Prefect prints is shown only if that fails."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}\nerror: `prefect deploy --all` failed, as shown above; nothing further was set up.")


def make_automation(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Create it, or replace the one with the same name."""
    for present in client.read_automations_by_name(automation.name):
        client.delete_automation(present.id)
    client.create_automation(automation)


def name_of(entry: dict[str, Any]) -> str:
    """FLOW/NAME of an entry of prefect.yaml."""
    return f"{entry['entrypoint'].rpartition(':')[2]}/{entry['name']}"


def unready(entry: dict[str, Any]) -> str:
    """Why a deployment's run would fail, or download, now: what it reads is not there. Empty where it is.

    Args:
        entry: of prefect.yaml. What a trigger adds, as the model that has arrived, is not looked for.
    """
    parameters = entry["parameters"]
    flow = entry["entrypoint"].rpartition(":")[2]
    try:
        with contextlib.chdir(ROOT):  # where its runs start
            if flow == "recluster":
                ReclusterConfig(**parameters).run_config()
                return ""
            if flow == "monitor":
                return _unready_monitor(MonitorConfig.model_validate(parameters["config"]))
            model: type[BaseModel] = ImagesConfig if flow == "images" else RunConfig
            config = model.model_validate(parameters["config"])
            assert isinstance(config, RunConfig)
            if not entry.get("triggers"):
                require_inputs(config)
            there = config.sample or config.dataset != "celeba" or (roots.data_root() / "celeba").exists()
            return "" if there else f"CelebA is not in {roots.data_root() / 'celeba'}: a run downloads it."
    except ClusterPathsError as error:
        return str(error).split(". ")[0].rstrip(".") + "."


def _unready_monitor(config: MonitorConfig) -> str:
    find_reference(config)
    there = "://" in str(config.data_root) or Path(str(config.data_root)).is_dir()
    return "" if there else f"There is no directory {config.data_root} of new images."


def alarms(url: str) -> list[AutomationCore]:
    """Automations that post to a webhook: for failed runs, diverged paths, windows that drifted, and rejected models."""
    block = Webhook(method="POST", url=url, allow_private_urls=True)
    block_id = block.save(WEBHOOK_BLOCK, overwrite=True)
    states = ["prefect.flow-run.Failed", "prefect.flow-run.Crashed"]
    return [
        _alarm("clusterpaths-run-failed", block_id, FAILED, states, "prefect.flow-run.*"),
        _alarm("clusterpaths-paths-diverged", block_id, DIVERGED, ["cluster-paths.diverged"], "cluster-paths.*"),
        _alarm("clusterpaths-drifted", block_id, DRIFTED, ["cluster-paths.drifted"], "cluster-paths.*"),
        _alarm("clusterpaths-model-rejected", block_id, REJECTED, ["onnx-model.rejected"], "onnx-model.*"),
    ]


def _alarm(name: str, block: Any, body: str, expect: list[str], resource: str) -> AutomationCore:
    trigger = {"type": "event", "posture": "Reactive", "match": {"prefect.resource.id": resource}, "threshold": 1}
    action = {"type": "call-webhook", "block_document_id": str(block), "payload": body}
    return AutomationCore.model_validate(
        {"name": name, "trigger": {**trigger, "expect": expect, "within": 0}, "actions": [action]}
    )


if __name__ == "__main__":
    cyclopts.run(main)

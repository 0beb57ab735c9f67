"""The gate's decision as a Prefect task, and what a run shows and announces of it.

Two kinds of `onnx-model.rejected` exist: with the `stage` "file" in the payload, of a file that is no usable model, which the
watcher announces; with "gate", of a model that a policy rejected.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import Event

from clusterpaths.config import TIME_LIMIT
from clusterpaths.gate.markdown import markdown
from clusterpaths.gate.policy import GateSettings
from clusterpaths.gate.run import Decided, decide_and_accept
from clusterpaths.watching.arrivals import model_name
from tasks.announcing import REJECTED
from tasks.events import deliver, server_url
from tasks.time_limit import in_own_thread

ACCEPTED = "onnx-model.accepted"
GATE = "gate"  # the stage of a payload
_IDS = uuid.UUID("0f0a1c0e-5f0b-4a53-8d3f-2b7d4f0c9e21")  # namespace of the ids of these events
_AGAIN: dict[str, Any] = {"cache_policy": NO_CACHE, "retries": 3, "retry_delay_seconds": [2, 10, 30]}

# a decision is stored beside the set, and an accepted set is found again: a repeated run decides the same
decide = task(name="gate", task_run_name="gate", cache_policy=NO_CACHE, timeout_seconds=TIME_LIMIT)(
    in_own_thread(decide_and_accept)
)


def show_decision(decided: Decided) -> None:
    """Markdown artifact with the verdict and a row for each rule."""
    create_markdown_artifact(markdown(decided.record), key="gate", description=decided.record.headline)


@task(name="announce decision", task_run_name="announce decision", **_AGAIN)
def announce_decision(path: Path, decided: Decided) -> None:
    """Send `onnx-model.accepted` or `onnx-model.rejected`, about the resource that the model's arrival was about."""
    record, moved = decided.record, decided.moved
    for reason in record.reasons:
        get_run_logger().warning(reason)
    _emit(
        ACCEPTED if record.accepted else REJECTED,
        path,
        record.candidate.model.sha256,
        {
            "set": record.candidate.set,
            "reference": record.reference.set,
            "policy": record.policy_source,
            "document": decided.document,
            "comparison": record.comparison,
            "is_accepted_set": bool(moved and moved.done),
            "headline": record.headline,
            "reasons": list(record.reasons),
            "reason": " ".join(record.reasons),
        },
    )


@task(name="announce refusal", task_run_name="announce refusal", **_AGAIN)
def announce_refusal(path: Path, sha256: str, gate: GateSettings, reason: str) -> None:
    """Send `onnx-model.rejected` for a model that could not be run or compared: it has no set."""
    _emit(
        REJECTED,
        path,
        sha256,
        {
            "set": "", "reference": gate.reference, "policy": gate.source, "document": "", "comparison": "",
            "is_accepted_set": False, "headline": f"{path.name} could not be compared with {gate.reference}",
            "reasons": [reason], "reason": reason,
        },
    )  # fmt: skip


def _emit(event: str, path: Path, sha256: str, more: dict[str, Any]) -> None:
    """Send an event; that of the same decision on the same model has always the same id, so a repeated run sends none."""
    name, url = model_name(path), server_url()
    if url is None:
        return
    what = f"{event} {sha256} {more['reference']} {more['set']} {more['document']} {more['reason']}"
    deliver(
        [
            Event(
                id=uuid.uuid5(_IDS, what),
                event=event,
                resource={"prefect.resource.id": f"onnx-model.{name}", "prefect.resource.name": name},
                payload={"stage": GATE, "path": str(path), "name": name, "sha256": sha256, **more},
            )
        ],
        url,
    )

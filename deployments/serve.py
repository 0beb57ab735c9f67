"""The deployments of prefect.yaml in one process, without a work pool: for a laptop.

    prefect server start                              # in one terminal
    PREFECT_API_URL=http://127.0.0.1:4200/api python deployments/serve.py      # in another

Reads prefect.yaml, so that both ways offer the same deployments. Runs until it is stopped; until then its runs can be
retried from the UI.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import cyclopts
import yaml
from prefect import Flow, serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.schedules import construct_schedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.flows import load_flow_from_entrypoint

ROOT = Path(__file__).resolve().parent.parent


def deployments(root: Path = ROOT) -> list[RunnerDeployment]:
    """The deployments of prefect.yaml, ready to be served."""
    entries = yaml.safe_load((root / "prefect.yaml").read_text())["deployments"]
    return [_deployment(entry, root) for entry in entries]


def _deployment(entry: dict[str, Any], root: Path) -> RunnerDeployment:
    file, _, function = entry["entrypoint"].partition(":")
    flow: Flow[..., Any] = load_flow_from_entrypoint(f"{root / file}:{function}")
    deployment = flow.to_deployment(
        name=entry["name"],
        description=entry["description"],
        parameters=entry["parameters"],
        tags=entry["tags"],
        schedules=[construct_schedule(**schedule) for schedule in entry.get("schedules", [])],
        triggers=[DeploymentEventTrigger(**_trigger(trigger)) for trigger in entry.get("triggers", [])],
        concurrency_limit=_limit(entry),
    )
    assert isinstance(deployment, RunnerDeployment)  # a coroutine only inside an event loop
    return deployment


def _limit(entry: dict[str, Any]) -> ConcurrencyLimitConfig | None:
    limit = entry.get("concurrency_limit")
    return ConcurrencyLimitConfig(**limit) if limit else None


def _trigger(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "type"}


def main(limit: Annotated[int, cyclopts.Parameter(help="maximum number of concurrent runs")] = 2) -> None:
    """Serve every deployment of prefect.yaml from this process."""
    serve(*deployments(), limit=limit)


if __name__ == "__main__":
    cyclopts.run(main)

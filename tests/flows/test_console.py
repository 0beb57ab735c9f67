"""What a shell shows of a flow, and that Prefect's server has every record of it."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.runtime import flow_run

from flows.shell import run_flow
from tests.flows.test_command_line import log_to_this_test

pytestmark = pytest.mark.usefixtures("prefect_server")
STATES = "Finished in state Completed()"


def run(capsys: pytest.CaptureFixture[str], **how: Any) -> tuple[str, list[str]]:
    """What a shell shows of a flow that logs a detail and a warning in a task, and what the server has."""
    ids: list[str] = []

    @task
    def working() -> None:
        get_run_logger().info("a detail")
        get_run_logger().warning("take care")

    @flow(name="talking")
    def talking() -> None:
        ids.append(flow_run.id)
        working()

    log_to_this_test()
    capsys.readouterr()
    run_flow(lambda: talking, {}, **how)
    return capsys.readouterr().err, server_log(UUID(ids[0]))


def server_log(run_id: UUID) -> list[str]:
    """Messages of a run, once its last one has arrived."""
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    deadline = time.monotonic() + 30
    with get_client(sync_client=True) as client:
        while True:
            found = [entry.message for entry in client.read_logs(log_filter=wanted)]
            if found.count(STATES) == 2 or time.monotonic() > deadline:
                return found
            time.sleep(0.2)


@pytest.mark.parametrize(
    ("how", "shown"),
    [
        ({}, ["warning: take care"]),
        ({"stages": False}, ["a detail", "warning: take care"]),
        ({"verbose": True}, None),
    ],
    ids=["stages", "messages", "verbose"],
)
def test_the_shell_shows_what_a_person_needs_and_the_server_has_everything(
    how: dict[str, bool], shown: list[str] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    err, stored = run(capsys, **how)
    assert {"a detail", "take care"} <= set(stored)
    assert stored.count(STATES) == 2  # of the task and of the flow
    if shown is None:
        assert "a detail" in err
        assert err.count(STATES) == 2
    else:
        assert err.splitlines() == shown


def test_a_retry_is_shown_with_the_task_and_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    tries: list[int] = []

    @task(name="download", task_run_name="download", retries=1)
    def download() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("the network is down")

    log_to_this_test()
    capsys.readouterr()
    run_flow(lambda: flow(name="fetching")(lambda: download()), {})
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: download: Task run failed")
    assert "the network is down" in line

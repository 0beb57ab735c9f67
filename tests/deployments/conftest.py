"""Real Prefect servers in processes of their own, and what they know of events."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from tests.deployments.site import Site


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def server_environment(api_url: str, home: Path, **more: str) -> dict[str, str]:
    """For processes that talk to that server, and to no other."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "CLUSTERPATHS_"))
    }
    return inherited | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": api_url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PYTHONUNBUFFERED": "1",
        **more,
    }


@contextlib.contextmanager
def running_server(home: Path, port: int, timeout: float = 120.0, **more: str) -> Iterator[str]:
    """The API's address of a server that runs while inside; the database is kept in `home`, `more` is its environment."""
    url = f"http://127.0.0.1:{port}/api"
    home.mkdir(parents=True, exist_ok=True)
    log = home / "server.log"
    environment = server_environment(
        url,
        home,
        PREFECT_SERVER_UI_ENABLED="false",
        PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL="0.2",  # events are seen soon after they are sent
        **more,
    )
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=home, start_new_session=True
        )
    try:
        deadline = time.monotonic() + timeout
        while not _is_healthy(url):
            said = log.read_text(errors="replace")
            assert process.poll() is None, f"the server ended at once: {said}"
            assert time.monotonic() < deadline, f"the server did not start in {timeout:.0f} s: {said}"
            time.sleep(0.2)
        yield url
    finally:
        end_group(process)


def end_group(process: subprocess.Popen[Any], wait: float = 15.0) -> None:
    """End a process that was started with start_new_session, and all that it started."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=wait)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # a child that outlived it


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="session")
def live_server(prefect_server: None) -> str:
    """The API's address of the server that all tests without a worker share."""
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    assert url
    return url


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server of its own with all deployments, their automations and a worker; events of other tests start no runs here."""
    from tests.deployments.postgres import running_postgres
    from tests.deployments.site import furnished

    home = tmp_path_factory.mktemp("site")
    quick = {
        "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
        "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
    }
    with running_postgres(free_port()) as database:
        more = quick | {"PREFECT_API_DATABASE_CONNECTION_URL": database}
        with running_server(home / "server", free_port(), **more) as url, furnished(url, home / "home") as site:
            yield site


@pytest.fixture(scope="session")
def faces(site: Site) -> Path:
    """A folder that holds celeba/ with 300 drawn faces; never to be written to."""
    return site.draw("faces", 300)


def model_events(url: str, folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Short name and payload of each onnx-model event about a file in the folder, oldest first."""
    body = {"filter": {"event": {"prefix": ["onnx-model."]}, "order": "ASC"}, "limit": 50}
    page = httpx.post(f"{url}/events/filter", json=body, timeout=20).raise_for_status().json()
    events = list(page["events"])
    while page.get("next_page"):
        page = httpx.get(page["next_page"], timeout=20).raise_for_status().json()
        events += page["events"]
    for event in events:
        assert event["resource"]["prefect.resource.id"] == f"onnx-model.{event['payload']['name']}"
    return [
        (event["event"].removeprefix("onnx-model."), event["payload"])
        for event in events
        if Path(event["payload"]["path"]).parent == folder
    ]

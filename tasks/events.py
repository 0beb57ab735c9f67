"""Events that must not be lost: sent to the Prefect server, and verified.

Events are sent with POST /events and read back by id before they count as delivered: Prefect's `emit_event` hands them
to a background thread, which drops them silently if the server is unavailable.
"""

from __future__ import annotations

import time

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events import Event
from prefect.settings import PREFECT_API_URL

from clusterpaths.common.text import without_credentials
from clusterpaths.errors import ClusterPathsError

_AT_ONCE = 50  # the server's filter takes no more
_TAKEN_IN_SECONDS = 20.0  # a server stores events every 5 s


class ServerAwayError(ClusterPathsError):
    """The Prefect server does not answer, or did not store an event; a retry can help."""


def server_url() -> str | None:
    """The API of the server that announcements go to; None: none is configured."""
    url: str | None = PREFECT_API_URL.value()
    return url


def deliver(events: list[Event], url: str) -> None:
    """Send the events that the server does not have yet, and wait until it has them all.

    Raises:
        ServerAwayError: it does not answer; stored events are known by id, so a retry sends nothing twice.
    """
    for start in range(0, len(events), _AT_ONCE):
        _deliver(events[start : start + _AT_ONCE], url)


def _deliver(events: list[Event], url: str) -> None:
    try:
        with get_client(sync_client=True) as client:
            missing = _missing(client, events)
            if missing:
                body = [event.model_dump(mode="json") for event in missing]
                client.request("POST", "/events", json=body)  # no client method exists
            deadline = time.monotonic() + _TAKEN_IN_SECONDS
            while missing := _missing(client, missing):
                if time.monotonic() > deadline:
                    raise ServerAwayError(
                        f"The Prefect server at {without_credentials(url)} answered, but did not store {len(missing)} events."
                    )
                time.sleep(0.2)
    except (httpx.HTTPError, OSError) as error:
        raise ServerAwayError(
            without_credentials(
                f"The Prefect server at {url} does not accept events ({type(error).__name__}: {error}). "
            )
            + "Expected a running server there: check PREFECT_API_URL, and that `prefect server start` runs."
        ) from error


def _missing(client: SyncPrefectClient, events: list[Event]) -> list[Event]:
    if not events:
        return []
    body = {"filter": {"id": {"id": [str(event.id) for event in events]}}, "limit": len(events)}
    there = {entry["id"] for entry in client.request("POST", "/events/filter", json=body).json()["events"]}
    return [event for event in events if str(event.id) not in there]

"""Announcing a model to the Prefect server, which starts the deployments that wait for one.

Belongs here: sending events, and verifying that the server stored them. `clusterpaths/watching/arrivals.py` decides
whether a file is a model; deployments/watch_models.py when to look.

Events are sent with POST /events and read back by id before they count as announced: Prefect's `emit_event` hands them
to a background thread, which drops them silently if the server is unavailable.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events import Event
from prefect.settings import PREFECT_API_URL

from clusterpaths.errors import ClusterPathsError, ConfigError
from clusterpaths.watching.announced import AnnouncedModels
from clusterpaths.watching.arrivals import Arrival, Outcome

ARRIVED = "onnx-model.arrived"
REJECTED = "onnx-model.rejected"
_BATCH = 20
_TAKEN_IN_SECONDS = 20.0  # a server stores events every 5 s


class ServerAwayError(ClusterPathsError):
    """The Prefect server does not answer, or did not store an event; a retry can help."""


def server_url() -> str | None:
    """The API of the server that announcements go to; None: none is configured."""
    url: str | None = PREFECT_API_URL.value()
    return url


def announce(outcomes: Sequence[Outcome], known: AnnouncedModels, *, again: bool = False) -> list[Outcome]:
    """Send an event for each outcome that was not announced yet, or, with `again`, for all; returns those sent.

    An arrival becomes `onnx-model.arrived` with path, name and sha256; a rejected file `onnx-model.rejected` with the
    reason as well. Both are about the resource `onnx-model.NAME`.

    Raises:
        ConfigError: no server is configured.
        ServerAwayError: it does not answer; stored events are known by id, so a retry sends nothing twice.
    """
    url = server_url()
    if url is None:
        raise ConfigError(
            "No Prefect server is configured, so the model cannot be announced. Start one with `prefect server start` "
            "and set PREFECT_API_URL, such as PREFECT_API_URL=http://127.0.0.1:4200/api."
        )
    sent: list[Outcome] = []
    with known.locked():
        fresh = list(outcomes) if again else known.unknown(outcomes)
        for start in range(0, len(fresh), _BATCH):
            batch = fresh[start : start + _BATCH]
            _deliver([event_of(one, uuid.uuid4() if again else known.event_id(one)) for one in batch], url)
            known.add(batch)
            sent += batch
    return sent


def event_of(outcome: Outcome, id_: uuid.UUID) -> Event:
    """The event of an outcome."""
    return Event(
        id=id_,
        event=ARRIVED if isinstance(outcome, Arrival) else REJECTED,
        resource={"prefect.resource.id": f"onnx-model.{outcome.name}", "prefect.resource.name": outcome.name},
        payload=outcome.model_dump(exclude={"kind"}),
    )


def _deliver(events: list[Event], url: str) -> None:
    """Send the events that the server does not have yet, and wait until it has them all."""
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
                        f"The Prefect server at {url} answered, but did not store {len(missing)} events."
                    )
                time.sleep(0.2)
    except (httpx.HTTPError, OSError) as error:
        raise ServerAwayError(
            f"The Prefect server at {url} does not accept events ({type(error).__name__}: {error}). "
            "Expected a running server there: check PREFECT_API_URL, and that `prefect server start` runs."
        ) from error


def _missing(client: SyncPrefectClient, events: list[Event]) -> list[Event]:
    if not events:
        return []
    body = {"filter": {"id": {"id": [str(event.id) for event in events]}}, "limit": len(events)}
    there = {entry["id"] for entry in client.request("POST", "/events/filter", json=body).json()["events"]}
    return [event for event in events if str(event.id) not in there]

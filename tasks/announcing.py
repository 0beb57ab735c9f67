"""Telling the Prefect server that a model has arrived, so that the deployments that wait for one start.

Belongs here: events out, and the certainty that they were taken in. Whether a file is a model is
`clusterpaths/watching/arrivals.py`; when to look is deployments/watch_models.py.

Events go by the API's POST /events and are read back by their ids before they count as announced: Prefect's
`emit_event` hands them to a background thread, which gives up silently when the server is away.
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
_TAKEN_IN_SECONDS = 20.0  # a server writes events down every 5 s


class ServerAwayError(ClusterPathsError):
    """The Prefect server does not answer, or did not keep an event; trying again can help."""


def server_url() -> str | None:
    """The API of the server that announcements go to; None: none is configured."""
    url: str | None = PREFECT_API_URL.value()
    return url


def announce(outcomes: Sequence[Outcome], known: AnnouncedModels, *, again: bool = False) -> list[Outcome]:
    """Send an event for each that was not announced yet; those that were sent. `again`: for all.

    An arrival becomes `onnx-model.arrived` with path, name and sha256; a rejected file `onnx-model.rejected` with the
    reason as well. Both are about the resource `onnx-model.NAME`.

    Raises:
        ConfigError: no server is configured.
        ServerAwayError: it does not answer; what it did take in is known to it by id, so trying again sends nothing twice.
    """
    url = server_url()
    if url is None:
        raise ConfigError(
            "No Prefect server is configured, so there is nobody to tell of a model. Start one with `prefect server start` "
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
    """What the server, and the deployments' triggers, get to see."""
    return Event(
        id=id_,
        event=ARRIVED if isinstance(outcome, Arrival) else REJECTED,
        resource={"prefect.resource.id": f"onnx-model.{outcome.name}", "prefect.resource.name": outcome.name},
        payload=outcome.model_dump(exclude={"kind"}),
    )


def _deliver(events: list[Event], url: str) -> None:
    """Send those that the server does not have yet, and return once it has them all."""
    try:
        with get_client(sync_client=True) as client:
            missing = _missing(client, events)
            if missing:
                body = [event.model_dump(mode="json") for event in missing]
                client.request("POST", "/events", json=body)  # Prefect's own list lacks it
            deadline = time.monotonic() + _TAKEN_IN_SECONDS
            while missing := _missing(client, missing):
                if time.monotonic() > deadline:
                    raise ServerAwayError(
                        f"The Prefect server at {url} answered, but did not keep {len(missing)} events."
                    )
                time.sleep(0.2)
    except (httpx.HTTPError, OSError) as error:
        raise ServerAwayError(
            f"The Prefect server at {url} does not take events in ({type(error).__name__}: {error}). "
            "Expected a running server there: look whether PREFECT_API_URL is right and `prefect server start` runs."
        ) from error


def _missing(client: SyncPrefectClient, events: list[Event]) -> list[Event]:
    if not events:
        return []
    body = {"filter": {"id": {"id": [str(event.id) for event in events]}}, "limit": len(events)}
    there = {entry["id"] for entry in client.request("POST", "/events/filter", json=body).json()["events"]}
    return [event for event in events if str(event.id) not in there]

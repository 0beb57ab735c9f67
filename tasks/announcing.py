"""Announcing a model to the Prefect server, which starts the deployments that wait for one.

Belongs here: which event an outcome is. `clusterpaths/watching/arrivals.py` decides whether a file is a model;
deployments/watch_models.py when to look; `events.py` sends.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from prefect.events import Event

from clusterpaths.errors import ConfigError
from clusterpaths.watching.announced import AnnouncedModels
from clusterpaths.watching.arrivals import Arrival, Outcome
from tasks.events import deliver, server_url

ARRIVED = "onnx-model.arrived"
REJECTED = "onnx-model.rejected"
FILE = "file"  # the stage of a payload
_BATCH = 20


def announce(outcomes: Sequence[Outcome], known: AnnouncedModels, *, again: bool = False) -> list[Outcome]:
    """Send an event for each outcome that was not announced yet, or, with `again`, for all; returns those sent.

    An arrival becomes `onnx-model.arrived` with path, name and sha256; a rejected file `onnx-model.rejected` with the
    reason as well, and the stage "file": a gate rejects models by the same event, with the stage "gate" (`tasks/gate.py`). All
    are about the resource `onnx-model.NAME`.

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
            deliver([event_of(one, uuid.uuid4() if again else known.event_id(one)) for one in batch], url)
            known.add(batch)
            sent += batch
    return sent


def event_of(outcome: Outcome, id_: uuid.UUID) -> Event:
    """The event of an outcome."""
    return Event(
        id=id_,
        event=ARRIVED if isinstance(outcome, Arrival) else REJECTED,
        resource={"prefect.resource.id": f"onnx-model.{outcome.name}", "prefect.resource.name": outcome.name},
        payload=outcome.model_dump(exclude={"kind"}) | ({} if isinstance(outcome, Arrival) else {"stage": FILE}),
    )

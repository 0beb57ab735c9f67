"""Events for automations: a window drifted.

Belongs here: which windows are announced, each once: also after a crash between the record of a window and its event.
"""

from __future__ import annotations

import uuid

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.events import Event

from clusterpaths.monitoring.config import MonitorConfig
from clusterpaths.monitoring.monitor import find_reference
from clusterpaths.monitoring.record import WindowRecord
from clusterpaths.monitoring.series import Series
from clusterpaths.monitoring.words import headline
from tasks.events import deliver, server_url

DRIFTED = "cluster-paths.drifted"
_IDS = uuid.UUID("6c1b3f8e-6d0d-4b39-9d0e-6f7f4f3b2a10")  # namespace of the ids of these events


@task(
    name="announce drift",
    task_run_name="announce drift",
    cache_policy=NO_CACHE,
    retries=3,
    retry_delay_seconds=[2, 10, 30],
)
def announce_drift(config: MonitorConfig, windows: tuple[WindowRecord, ...]) -> None:
    """Send an event for each drifted window that has none yet.

    Args:
        config: of the monitor. Of a series, all windows are looked at that were recorded and not announced, also by earlier runs.
        windows: those of this run; used where there is no series.

    Raises:
        ServerAwayError: the server does not accept them; the next run sends them.
    """
    log, url = get_run_logger(), server_url()
    if config.series is None:
        _send([event_of(one) for one in windows if one.drifted], url)
        return
    if url is None:
        log.warning("No Prefect server is configured (PREFECT_API_URL), so no event is sent; a run with one sends them")
        return
    # the reference of this run's windows: another set may have been accepted since
    reference = windows[0].reference.name if windows else config.reference
    series = Series(find_reference(config.model_copy(update={"reference": reference})), config.series)
    before = series.announced()
    recorded = [series.read(number) for number in series.numbers() if number > before]
    drifted = [one for one in recorded if one.drifted]
    for one in drifted:
        log.warning("Window %d (%s to %s): %s", one.number, one.start, one.end, headline(one))
    _send([event_of(one) for one in drifted], url)
    if recorded:
        series.mark_announced(recorded[-1].number)


def event_of(window: WindowRecord) -> Event:
    """The event of a drifted window; the same window has always the same id."""
    reference = window.reference.name
    what = f"{window.reference.fingerprint} {window.series} {window.number} {window.created}"
    return Event(
        id=uuid.uuid5(_IDS, what) if window.series else uuid.uuid4(),
        event=DRIFTED,
        resource={
            "prefect.resource.id": f"cluster-paths.{reference.replace('/', '.')}",
            "prefect.resource.name": reference,
            "cluster-paths.series": window.series,
        },
        payload={
            "reference": reference,
            "name": reference.partition("/")[0],
            "series": window.series,
            "window": window.number,
            "start": window.start,
            "end": window.end,
            "images": window.num_images,
            "source": window.source,
            "p_value": window.verdict.p_value,
            "effect": window.verdict.effect,
            "first_layer": window.verdict.first_layer,
            "new_paths": window.new_paths,
            "headline": headline(window),
        },
    )


def _send(events: list[Event], url: str | None) -> None:
    if events and url is not None:
        deliver(events, url)

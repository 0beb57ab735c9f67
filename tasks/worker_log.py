"""Warnings of Dask workers, shown where the flow runs: a worker hands them to the process that started it.

Belongs here: log records on their way. What of them a shell shows is flows/console.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
_FIELDS = ("name", "levelno", "levelname", "pathname", "task_run_name")
Show = Callable[[logging.LogRecord], object]


def hand_over_warnings(worker: Any, topic: str) -> None:
    """In a worker: send the warnings of its tasks, as events of a topic; those of an earlier run no longer.

    Args:
        worker: a distributed.Worker.
        topic: of this run, as a cluster may serve several.
    """
    handler = _ToTopic(worker, topic)
    for logger in map(logging.getLogger, LOGGERS):
        logger.handlers = [one for one in logger.handlers if not isinstance(one, _ToTopic)]
        logger.addHandler(handler)


def receive_warnings(client: Any, topic: str, show: Show) -> None:
    """Where the flow runs: show what workers send.

    Args:
        client: a distributed.Client.
        topic: as `hand_over_warnings`.
        show: called in a thread of the client.
    """
    client.subscribe_topic(topic, lambda event: show(logging.makeLogRecord(event[1])))


class _ToTopic(logging.Handler):
    def __init__(self, worker: Any, topic: str) -> None:
        super().__init__(logging.WARNING)
        self._worker, self._topic = worker, topic

    def emit(self, record: logging.LogRecord) -> None:
        fields = {name: value for name in _FIELDS if (value := getattr(record, name, None)) is not None}
        self._worker.log_event(self._topic, {**fields, "msg": record.getMessage()})

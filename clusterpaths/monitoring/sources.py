"""Where new images come from: a data set whose images are run here, or the prediction log of a service.

Belongs here: what is new in a source, in order of time. A bucket is read by this machine's mirror of it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clusterpaths.datasets.base import Dataset, ExampleTable
from clusterpaths.datasets.registry import find_source, open_source
from clusterpaths.errors import ConfigError, NoImagesError
from clusterpaths.monitoring.config import MonitorConfig
from clusterpaths.monitoring.observations import Observations, as_time
from clusterpaths.monitoring.prediction_log import log_files, read_log
from clusterpaths.monitoring.route import Done, Router, item_keys, open_router, route_images
from clusterpaths.records import DatasetSpec
from clusterpaths.sets.places import find_model
from clusterpaths.sets.published import PublishedSet
from clusterpaths.storage import open_storage

log = logging.getLogger("clusterpaths.running.monitor")
CHUNK = 2_000  # images that are run before complete windows are recorded
MINUTE = 60_000_000  # microseconds that two clocks may differ
Progress = Callable[[str, int], contextlib.AbstractContextManager[Done]]
"""Shows progress while inside: of an address, and a number of images."""
Piece = tuple[Observations, int | None]
"""New rows, and the time of the next ones; None: there are no more."""


class Source(Protocol):
    """New items of a source; `address` is what the user named."""

    address: str

    def new(self, seen: NDArray[np.uint64], before: int | None) -> Iterator[Piece]:
        """Those that are not `seen` (identities of items), by time; without those from the time `before` on, if that is given.

        Raises:
            DatasetError: the source cannot be read.
        """
        ...

    def read(self, name: str) -> Image.Image:
        """An image by its name.

        Raises:
            OSError: it is not there.
        """
        ...


def no_progress(address: str, images: int) -> contextlib.AbstractContextManager[Done]:  # noqa: ARG001 - as `Progress`
    """Shows nothing."""
    return contextlib.nullcontext(lambda _: None)


def open_new(config: MonitorConfig, published: PublishedSet, progress: Progress = no_progress) -> Source:
    """The source of a configuration.

    Args:
        config: names it.
        published: the set to compare with.
        progress: shows how many images were run.

    Raises:
        ConfigError: windows of time, and images that have no times; or the set's model is not known.
        DatasetError: there is no such directory, file or data set.
        ModelError: another model than the set's.
    """
    if config.logs is not None:
        return LogSource(config.logs, published)
    return ImageSource(config, published, progress)


def _local(address: str) -> Path:
    """The path on this machine, up to date."""
    return open_storage(address).local_tree() if "://" in address else Path(address).expanduser().absolute()


class LogSource:
    """A prediction log."""

    def __init__(self, address: str, published: PublishedSet) -> None:
        self.address, self._set = address, published
        log_files(_local(address))  # a wrong name is reported before anything is run

    def new(self, seen: NDArray[np.uint64], before: int | None) -> Iterator[Piece]:
        """As `Source.new`."""

        def keep(rows: Observations) -> NDArray[np.bool_]:
            _warn_of_the_future(rows.times, self.address)
            return ~np.isin(rows.items, seen) & (True if before is None else rows.times < before)

        yield read_log(log_files(_local(self.address)), self._set, keep), None

    def read(self, name: str) -> Image.Image:
        """A log has no images."""
        raise FileNotFoundError(name)


class ImageSource:
    """The images of a data set, run through the set's model."""

    def __init__(self, config: MonitorConfig, published: PublishedSet, progress: Progress) -> None:
        self.address, self._set, self._workers = str(config.data_root), published, config.workers
        self._progress = progress
        self._config = config
        self._dataset, self._table = _open(config)  # a mistake is reported before anything is run
        timed = config.size is not None and config.size.span
        if timed and self._table is not None and self._table.mtimes is None:
            raise ConfigError(
                f"The images of --dataset {config.dataset} have no times, so they cannot be cut into windows of {config.window}. "
                "Expected a number of images: --window 200."
            )
        self._model = find_model(published, config.model)
        self._router: Router = open_router(published, self._model)

    def new(self, seen: NDArray[np.uint64], before: int | None) -> Iterator[Piece]:
        """As `Source.new`; of images whose files changed since, also those. The directory is listed now."""
        self._dataset, self._table = _open(self._config)
        table = self._table
        if table is None or self._dataset is None:
            return
        times: NDArray[np.int64] = np.zeros(len(table), np.int64) if table.mtimes is None else table.mtimes // 1000
        _warn_of_the_future(times, self.address)
        order = np.argsort(times, kind="stable")
        order = order[~np.isin(item_keys(table)[order], seen)]
        if before is not None:
            order = order[times[order] < before]
        with self._progress(self.address, len(order)) as done:
            for start in range(0, len(order), CHUNK):
                rows = order[start : start + CHUNK]
                following = int(times[order[start + CHUNK]]) if start + CHUNK < len(order) else None
                yield (
                    route_images(self._router, self._set, self._dataset, table.take(rows), self._workers, done),
                    following,
                )

    def read(self, name: str) -> Image.Image:
        """An image of the data set."""
        if self._dataset is None:
            raise FileNotFoundError(name)
        return self._dataset.read_image(name)


def _warn_of_the_future(times: NDArray[np.int64], address: str) -> None:
    now = time.time_ns() // 1000
    ahead = times[times > now + MINUTE]
    if len(ahead):
        log.warning(
            "%s has %s images of a time to come, up to %s: windows of time do not take them before that. Check the clock of the "
            "machine that wrote them.", address, f"{len(ahead):,}", as_time(int(ahead.max())),
        )  # fmt: skip


def _open(config: MonitorConfig) -> tuple[Dataset | None, ExampleTable | None]:
    """The data set as it is now, and its examples; none where the directory is empty."""
    find_source(config.dataset)  # a name that does not exist is reported first
    try:
        dataset = open_source(DatasetSpec(name=config.dataset, root=str(_local(str(config.data_root)))))
        return dataset, dataset.examples()
    except NoImagesError:
        return None, None

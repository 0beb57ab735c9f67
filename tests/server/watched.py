"""A series of windows for tests of what shows them: judged and recorded as the monitor does it, of rows that are made up.

Belongs here: making it. No expectation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clusterpaths.monitoring.judge import Judge
from clusterpaths.monitoring.observations import Observations, Status, empty_observations, join_observations
from clusterpaths.monitoring.series import Series
from clusterpaths.monitoring.windows import SECOND, Window
from clusterpaths.sets.published import PublishedSet

SERIES = "cameras"
QUIET, EMPTY, LEFT_OUT, DRIFTED, LAST = range(1, 6)  # its windows
HOUR = 3600 * SECOND
BEGIN = 495_000 * HOUR
IMAGES = 40


def record_windows(published: PublishedSet, name: str = SERIES) -> Series:
    """Five windows of an hour: quiet, without images, with images left out, drifted in fc1 and after it, and quiet."""
    series = Series(published, name)
    judge = Judge(
        published,
        "/srv/images/gate",
        alpha=0.01,
        seed=0,
        series=name,
        size="1h",
        read=lambda _: Image.new("RGB", (90, 110), "teal"),
    )
    draw = np.random.default_rng(7)
    layers = len(published.layers)
    windows = {
        QUIET: rows_of(published, draw),
        EMPTY: empty_observations(layers),
        LEFT_OUT: join_observations(
            [
                rows_of(published, draw),
                left_out(layers, 3, Status.DUPLICATE),
                left_out(layers, 2, Status.LATE),
                left_out(layers, 1, Status.UNUSABLE),
            ]
        ),
        DRIFTED: drifted(rows_of(published, draw)),
        LAST: rows_of(published, draw),
    }
    with series.lock(0):
        for number, rows in windows.items():
            begin = BEGIN + number * HOUR
            series.append(judge.judge(Window(rows, begin, begin + HOUR), number), rows)
    return series


def rows_of(published: PublishedSet, draw: np.random.Generator) -> Observations:
    """New images that take the paths of random examples."""
    rows = np.sort(draw.choice(len(published.ids), IMAGES, replace=False))
    return _observations(
        published.clusters[rows], published.held_out_scores[rows], published.predictions[rows], Status.ROUTED
    )


def drifted(rows: Observations) -> Observations:
    """The same; in the last two layers all are in cluster 0, on a path that no example took, and the scores are high."""
    clusters = rows.clusters.copy()
    clusters[:, -2:] = 0
    return _observations(clusters, rows.ood_scores + 3, rows.predictions, Status.ROUTED)


def left_out(layers: int, count: int, status: Status) -> Observations:
    """Items that are in no test."""
    return _observations(np.full((count, layers), -1), np.zeros(count), np.full(count, -1), status)


def _observations(
    clusters: NDArray[np.integer], scores: NDArray[np.float64], predictions: NDArray[np.integer], status: Status
) -> Observations:
    n = len(clusters)
    return Observations(
        times=np.arange(n, dtype=np.int64),
        items=np.arange(n, dtype=np.uint64),
        contents=np.arange(n, dtype=np.uint64),
        names=np.array([f"<{i:03d}>.jpg" for i in range(n)], np.object_),
        status=np.full(n, status, np.int8),
        clusters=clusters.astype(np.int16),
        distances=np.ones(clusters.shape, np.float32),
        ood_scores=scores.astype(np.float64),
        predictions=predictions.astype(np.int32),
    )

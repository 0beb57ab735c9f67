"""Observations for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clusterpaths.monitoring.observations import Observations, Status


def observed(
    times: Sequence[int], contents: Sequence[int] | None = None, status: Sequence[int] | None = None
) -> Observations:
    """Rows of two layers at these times, in seconds."""
    n = len(times)
    numbers = np.arange(n) if contents is None else np.array(contents)
    return Observations(
        times=np.array(times, np.int64) * 1_000_000,
        items=np.arange(n, dtype=np.uint64),
        contents=numbers.astype(np.uint64),
        names=np.array([f"{number:04d}.png" for number in range(n)], np.object_),
        status=np.array([Status.ROUTED] * n if status is None else status, np.int8),
        clusters=np.zeros((n, 2), np.int16),
        distances=np.zeros((n, 2), np.float32),
        ood_scores=np.linspace(0, 1, n),
        predictions=np.zeros(n, np.int32),
    )

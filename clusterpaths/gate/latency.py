"""How long the path models of two sets take per image, on this machine.

Belongs here: exporting both for a moment, and timing them in turn, so that whatever else the machine does hits both alike.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from scipy.stats import binom

from clusterpaths.errors import CacheError, ModelError
from clusterpaths.export.path_model import check_set_model, export_path_model
from clusterpaths.gate.policy import LatencyRule
from clusterpaths.gate.record import Measured
from clusterpaths.models.feed import as_input
from clusterpaths.models.products import one_thread_options
from clusterpaths.sets.places import model_of
from clusterpaths.sets.published import PublishedSet

_WARM_UP = 5  # calls that are not counted
Latencies = tuple[Measured | str, Measured | str]


def measure_latency(reference: PublishedSet, candidate: PublishedSet, rule: LatencyRule) -> Latencies:
    """Milliseconds per image of the candidate's path model, and their ratio to the reference's; or why there is none.

    Medians of `rule.repeats` calls in one thread on the CPU, with the distribution-free 95% interval of a median (order
    statistics). The ratio is the median of the ratios of calls that followed each other. The intervals cover the calls of these
    sessions, not how others would run.
    """
    with tempfile.TemporaryDirectory(prefix="clusterpaths-gate-") as folder:
        own = _prepared(candidate, Path(folder) / "candidate.onnx", rule.batch)
        if isinstance(own, str):
            return own, own
        other = _prepared(reference, Path(folder) / "reference.onnx", rule.batch) if rule.ratio is not None else ""
        calls = [own] if isinstance(other, str) else [own, other]
        times = _timed(calls, rule.repeats)
    taken = median_interval(times[0])
    ratio = median_interval(times[0] / times[1]) if len(times) > 1 else str(other) or "not asked for"
    return taken, ratio


def _prepared(published: PublishedSet, target: Path, batch: int) -> tuple[Callable[[], object], int] | str:
    """A call of the set's path model on a batch, and the images of that batch; or why there is none."""
    model = model_of(published.folder, published.record)
    if model is None or not model.is_file():
        return f"the model of {published.name} is not where it was ({model or 'not recorded'})"
    try:
        exported = export_path_model(published, model, target)
    except (ModelError, CacheError) as error:
        return f"{published.name} has no path model: {error}"
    record = check_set_model(published.record, model)
    session = onnxruntime.InferenceSession(exported.path, one_thread_options(), providers=["CPUExecutionProvider"])
    n = exported.batch or batch
    pixels = np.random.default_rng(0).random((n, 3, *published.record.preprocessing.size), np.float32)
    given = {exported.input: as_input(pixels, record.layout, record.input_type)}
    return (lambda: session.run(None, given)), n


def _timed(calls: list[tuple[Callable[[], object], int]], repeats: int) -> NDArray[np.float64]:
    """(calls, repeats) milliseconds per image."""
    for call, _ in calls:
        for _ in range(_WARM_UP):
            call()
    times = np.empty((len(calls), repeats))
    for repeat in range(repeats):
        # Whoever is called first is some percent slower, also of two equal models: they take turns in that.
        for at in range(len(calls))[:: -1 if repeat % 2 else 1]:
            call, n = calls[at]
            began = time.perf_counter()
            call()
            times[at, repeat] = (time.perf_counter() - began) * 1000 / n
    return times


def median_interval(values: NDArray[np.float64]) -> Measured:
    """The median of n values, and its 95% interval from order statistics, which assumes no distribution."""
    ordered, n = np.sort(values), len(values)
    below = int(binom.ppf(0.025, n, 0.5))
    low, high = ordered[max(below - 1, 0)], ordered[min(n - below, n - 1)]
    return Measured(value=float(np.median(ordered)), low=float(low), high=float(high), n=n)

"""Idle sessions of this process: creating one takes longer than a small shard."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from clusterpaths.clustering.assign import FitRecord, assigner_of, release_assigners
from clusterpaths.common.malloc import return_memory
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.models.session import TapSession

_idle: list[tuple[object, TapSession]] = []
_lock = threading.Lock()


@contextlib.contextmanager
def borrow_session(job: ExtractionJob, fits: tuple[FitRecord, ...] = (), *, keep: bool = True) -> Iterator[TapSession]:
    """A session that computes what assignment to these fits needs; with `keep`, it outputs activations too."""
    model = job.model
    key = (model.sha256, model.taps, model.size, model.outputs, model.providers, sorted(job.dtypes.items()), fits, keep)
    with _lock:
        fitting = next((entry for entry in _idle if entry[0] == key), None)
        if fitting:
            _idle.remove(fitting)
    if fitting:
        session = fitting[1]
    else:
        assigners = {fit.layer: assigner_of(job.storage, fit) for fit in fits}
        centroids = {layer: one.compared for layer, one in assigners.items()}
        axes = {layer: one.axes.factors for layer, one in assigners.items() if one.axes}
        session = TapSession(model, job.dtypes, centroids, keep, axes=axes)
    yield session
    with _lock:
        _idle.append((key, session))


def release_sessions() -> None:
    """Free the memory of idle sessions, when all shards are done."""
    with _lock:
        _idle.clear()
    release_assigners()
    return_memory()  # or the next stage's peak would come on top of it

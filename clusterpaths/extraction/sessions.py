"""Sessions of this process: creating one takes longer than a small shard, and each has the weights once more."""

from __future__ import annotations

import threading

from clusterpaths.clustering.assign import FitRecord, assigner_of, release_assigners
from clusterpaths.common.malloc import return_memory
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.models.session import TapSession

_sessions: dict[object, TapSession] = {}
_lock = threading.Lock()


def shared_session(job: ExtractionJob, fits: tuple[FitRecord, ...] = (), *, keep: bool = True) -> TapSession:
    """A session that computes what assignment to these fits needs; with `keep`, it outputs activations too.

    All workers of this process share it.
    """
    model = job.model
    dtypes = tuple(sorted(job.dtypes.items()))
    key = (model.sha256, model.taps, model.size, model.outputs, model.providers, dtypes, fits, keep)
    with _lock:  # of two workers that begin together, one makes it
        if key not in _sessions:
            assigners = {fit.layer: assigner_of(job.storage, fit) for fit in fits}
            centroids = {layer: one.compared for layer, one in assigners.items()}
            axes = {layer: one.axes.factors for layer, one in assigners.items() if one.axes}
            _sessions[key] = TapSession(model, job.dtypes, centroids, keep, axes=axes)
        return _sessions[key]


def release_sessions() -> None:
    """Free the memory of sessions, when all shards are done."""
    with _lock:
        _sessions.clear()
    release_assigners()
    return_memory()  # or the next stage's peak would come on top of it

"""Metrics of the path service, for Prometheus.

Belongs here: names, help and buckets. They are of one process; a scrape adds up services by their labels.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from clusterpaths.export.note import PathModelNote

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
_PERCENT = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 100)
STAGES = ("read", "decode", "queue", "model", "log", "total")


class Metrics:
    """All metrics of one service, in a registry of their own."""

    def __init__(self, note: PathModelNote) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        info = Gauge(
            "clusterpaths_path_model",
            "The path model that is served; always 1.",
            ("set", "fingerprint", "model"),
            registry=registry,
        )
        info.labels(note.set, note.fingerprint, note.model.sha256).set(1)
        self.requests = Counter(
            "clusterpaths_requests", "Requests for predictions, by HTTP status.", ("status",), registry=registry
        )
        self.seconds = Histogram(
            "clusterpaths_stage_seconds",
            "Seconds of a stage: read, decode (of a request), queue, model, log (of a batch), total (of an answered request).",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.stage = {stage: self.seconds.labels(stage).observe for stage in STAGES}
        self.batch = Histogram(
            "clusterpaths_batch_images", "Images of a model run.", buckets=_IMAGES, registry=registry
        )
        self.queue = Gauge("clusterpaths_queue_images", "Decoded images that wait for the model.", registry=registry)
        self.pending = Gauge("clusterpaths_pending_requests", "Requests that are being answered.", registry=registry)
        self.images = Counter("clusterpaths_images", "Images that were answered.", registry=registry)
        self.ood = Histogram(
            "clusterpaths_ood_percentile",
            "Percent of the set's examples, each held out, with a lower OOD score than an answered image.",
            buckets=_PERCENT,
            registry=registry,
        )
        self.unseen = Counter(
            "clusterpaths_unseen_paths", "Answered images whose path no example of the set took.", registry=registry
        )
        self.contrary = Counter(
            "clusterpaths_contrary_paths", "Answered images whose path predicts another class.", registry=registry
        )
        self.log_rows = Counter("clusterpaths_log_rows", "Rows written to the prediction log.", registry=registry)
        self.log_lost = Counter(
            "clusterpaths_log_errors", "Answered or refused images that the log did not take.", registry=registry
        )
        self.log_ok = Gauge("clusterpaths_log_ok", "Whether the log takes rows: 1, or 0.", registry=registry)
        self.log_stuck = Gauge(
            "clusterpaths_log_incomplete_files",
            "Journals and old files that could not be completed or deleted.",
            registry=registry,
        )

    def watch(self, queue: Callable[[], float], pending: Callable[[], float]) -> None:
        """Read these numbers whenever metrics are collected."""
        self.queue.set_function(queue)
        self.pending.set_function(pending)

"""How many labels the model predicts."""

from __future__ import annotations

from clusterpaths.evaluation.record import Measure
from clusterpaths.metrics.intervals import wilson
from clusterpaths.sets.published import PublishedSet


def accuracy(published: PublishedSet) -> Measure | None:
    """Share of the labelled examples whose prediction is the label; None without any, or if they are of other classes."""
    known = (published.labels >= 0) & (published.predictions >= 0)
    n = int(known.sum())
    if not n or not published.record.same_classes:
        return None
    right = int((published.labels == published.predictions)[known].sum())
    low, high = wilson(right, n)
    return Measure(value=right / n, low=low, high=high, n=n)

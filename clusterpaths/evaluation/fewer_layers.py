"""Would paths of fewer layers say more? For sets in which many examples have a path of their own.

Belongs here: shorter paths of the last layers, measured on clusters that the set has anyway; no model is run. Sentences are
`report/markdown.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clusterpaths.metrics.alignment import decision_alignment, majority_baseline, split_fit_eval
from clusterpaths.metrics.paths import count_paths
from clusterpaths.sets.published import PublishedSet

ALONE = 0.05  # share of the examples that are alone on their path, from which shorter paths are measured
ENOUGH = 50  # examples; of fewer, a quick check, shorter paths would say no more
_LIMIT = 20_000  # examples


@dataclass(frozen=True)
class Shorter:
    """Paths of some of a set's last layers.

    Attributes:
        layers: which, in their order.
        paths: occupied ones.
        singletons: paths with one example.
        alignment: decision alignment on examples left out, with the set's own clusters; None without predictions.
        held_out: how many of these have a prediction.
        majority: share of their most frequent decision.
    """

    layers: tuple[str, ...]
    paths: int
    singletons: int
    alignment: float | None
    held_out: int
    majority: float | None


def has_many_singletons(published: PublishedSet) -> bool:
    """Whether a third of the paths, and 5% of at least `ENOUGH` examples, are an example alone on its path."""
    counts = published.paths.counts
    alone = int((counts == 1).sum())
    return published.num_examples >= ENOUGH and alone * 3 >= len(counts) and alone >= ALONE * published.num_examples


def shorter_paths(published: PublishedSet) -> tuple[Shorter, ...]:
    """All layers, then one layer fewer at a time, from the first on; the last entry is the last layer alone.

    A fifth of the examples, drawn at random with the set's seed, is left out when paths learn their decision. Clusters know no
    decisions, so they are the set's own, though the examples left out may have been among those that they were fitted on.
    """
    n, layers = published.num_examples, published.layers
    fit, held_out = split_fit_eval(n, seed=published.record.seed)
    fit, held_out = fit[:_LIMIT], held_out[:_LIMIT]
    decisions = published.predictions
    found = []
    for first in range(len(layers)):
        clusters = published.clusters[:, first:]
        counts = count_paths(clusters).counts
        aligned = decision_alignment(clusters[fit], decisions[fit], clusters[held_out], decisions[held_out])
        known = decisions[held_out] >= 0
        always = majority_baseline(decisions[fit], len(held_out)) == decisions[held_out]
        found.append(
            Shorter(
                layers=tuple(layers[first:]),
                paths=len(counts),
                singletons=int((counts == 1).sum()),
                alignment=aligned.daf,
                held_out=int(known.sum()),
                majority=float(np.mean(always[known])) if known.any() else None,
            )
        )
    return tuple(found)

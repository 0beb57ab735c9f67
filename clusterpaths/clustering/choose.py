"""Choosing k, the distance and the layers: a sweep over sketches of a sample of rows.

Belongs here: the grid, the scores, and the rule that picks. Sketches are `seeding.py`, decision alignment is
`metrics/alignment.py`. The sentences about the result belong to its record: `choice.py`.

Each layer's sample is clustered three times for every k and distance, each time without another fifth of the rows.
Scores come from the held-out rows: each row is scored at most once, by clusters fitted without it. Sources:
decision alignment is that of Kroeger and Bindschaedler (arXiv 2510.06541); choosing k by how much clusterings of
different parts of the data agree is Ben-Hur, Elisseeff and Guyon (A Stability Based Method, 2002); taking the
simplest setting that is as good as the best but for chance is the one-standard-error rule of Breiman et al. (CART,
1984), here with the 95% interval; the simplified silhouette is Vendramin, Campello and Hruschka's (2010).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.fit_sample import SAMPLE_ROWS
from clusterpaths.clustering.choice import Choice, Interval, LayerSet, SweepPoint, advice, sentence
from clusterpaths.clustering.reading import Rows
from clusterpaths.clustering.seeding import count_distinct, draw_sample, sketch
from clusterpaths.common.threads import ignore_warnings, one_thread
from clusterpaths.errors import ConfigError
from clusterpaths.metrics.agreement import adjusted_rand
from clusterpaths.metrics.alignment import decision_alignment
from clusterpaths.metrics.checks import Ints
from clusterpaths.metrics.intervals import wilson
from clusterpaths.metrics.paths import count_paths, largest_class
from clusterpaths.records import Distance

GRID = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30)
DISTANCES: tuple[Distance, ...] = ("cosine", "euclidean")  # the default first: it is taken where both are equally good
FEWEST_EXAMPLES = 20
STABLE = 0.8  # adjusted Rand index between seeds from which clusters count as stable, where there are no decisions
NEARLY = 0.95  # of the largest silhouette: as good
_FOLDS, _SEEDS = 5, 3
_COMPONENTS = 64


@dataclass(frozen=True)
class _Fits:
    """One setting of one layer: labels (seeds, s) int16 of all sampled rows, by each seed's clustering."""

    labels: NDArray[np.int16]
    silhouette: float


class _HeldOutScorer:
    """Scores labels on the held-out rows.

    Attributes:
        fits: (seeds, s) bool, the rows that a seed's clustering is fitted on; the others are held out, each at most once.
        classes: (s,) predictions, -1 for none; or None where there are no decisions.
    """

    def __init__(self, sample: NDArray[np.int64], predictions: Ints | None, rng: np.random.Generator) -> None:
        fold = rng.permutation(len(sample)) % _FOLDS
        self.fits: NDArray[np.bool_] = np.arange(_SEEDS)[:, None] != fold[None]
        classes = None if predictions is None else predictions[sample].astype(np.int64)
        self.classes = classes if classes is not None and len(np.unique(classes[classes >= 0])) > 1 else None
        self.one_class = classes is not None and len(np.unique(classes[classes >= 0])) == 1
        judged = ~self.fits.all(axis=0)
        self.judged = 0 if self.classes is None else int((judged & (self.classes >= 0)).sum())
        if self.judged == 0:
            self.classes = None

    def daf(self, paths: NDArray[np.int16]) -> tuple[float | None, Interval | None]:
        """Decision alignment of `paths` (seeds, s, L), each row evaluated with the seed that held it out."""
        if self.classes is None:
            return None, None
        right = 0
        for fit, one in zip(self.fits, paths, strict=True):
            found = decision_alignment(one[fit], self.classes[fit], one[~fit], self.classes[~fit])
            right += int(((found.predicted == self.classes[~fit]) & (self.classes[~fit] >= 0)).sum())
        return right / self.judged, wilson(right, self.judged)

    def baseline(self) -> tuple[float | None, Interval | None]:
        """As `daf`, of always the most frequent class."""
        if self.classes is None or (largest := largest_class(self.classes)) is None:
            return None, None
        share = largest[1]
        return share, wilson(round(share * self.judged), self.judged)


def choose(
    rows_by_layer: Mapping[str, Rows],
    predictions: Ints | None,
    *,
    k: int | Literal["auto"] | Mapping[str, int | None] = "auto",
    distance: Distance | Literal["auto"] = "auto",
    seed: int = 0,
) -> Choice:
    """Pick k of each layer and the distance; the sweep is in the record.

    Of a layer's values of k the smallest is taken whose decision alignment is within the 95% interval of the best.
    Of two distances, each with its own k, cosine is taken unless the complete paths of Euclidean clusters are aligned
    better beyond the interval. A layer that is not better than the most frequent class, interval against interval,
    takes the smallest k; so do, weakest first, layers whose many clusters scatter complete paths until those are aligned
    worse than paths through fewer layers. Without decisions, the largest k is taken of those that are stable and have
    nearly the best silhouette.

    Args:
        rows_by_layer: layers in order, all of the same n examples.
        predictions: (n,) the model's own classes, -1 for none; None for a model without class scores.
        k: a number for a layer, or None to choose it, where it is a mapping.
        distance: to choose only k, or neither.
        seed: the same seed gives the same choice.

    Raises:
        ConfigError: too few examples to choose by, or layers of different length.
    """
    lengths = {layer: len(rows) for layer, rows in rows_by_layer.items()}
    n = max(lengths.values(), default=0)
    if n < FEWEST_EXAMPLES:
        raise ConfigError(
            f"Choosing k or the distance needs at least {FEWEST_EXAMPLES} examples, got {n} instead. "
            "Give numbers, such as --k 5 --distance cosine, or more images."
        )
    if len(set(lengths.values())) > 1 or (predictions is not None and len(predictions) != n):
        of = "none" if predictions is None else f"{len(predictions)}"
        raise ConfigError(f"Every layer should have one row per prediction, got {lengths} and {of} predictions.")
    asked = dict(k) if isinstance(k, Mapping) else dict.fromkeys(rows_by_layer, None if k == "auto" else k)
    sample = draw_sample(n, SAMPLE_ROWS, np.random.default_rng(seed))
    scorer = _HeldOutScorer(sample, predictions, np.random.default_rng([seed, 1]))
    baseline, baseline_interval = scorer.baseline()

    fits: dict[tuple[str, Distance, int], _Fits] = {}
    points: list[SweepPoint] = []
    with one_thread():
        for at, (layer, rows) in enumerate(rows_by_layer.items()):
            sketches = sketch(rows, sample, "euclidean", np.random.default_rng([seed, 2, at]), gaussian=True)
            for name in DISTANCES if distance == "auto" else (distance,):
                scaled = _unit(sketches) if name == "cosine" else sketches
                directed = np.asarray(scaled.any(axis=1)) | (name != "cosine")
                compact = _compact(scaled)
                for number in _grid(asked[layer], count_distinct(scaled, GRID[-1]), len(sample)):
                    one = _fit(scaled, compact, directed, number, scorer.fits, seed)
                    fits[layer, name, number] = one
                    daf, interval = scorer.daf(one.labels[:, :, None])
                    points.append(
                        SweepPoint(
                            layer=layer,
                            distance=name,
                            k=number,
                            daf=daf,
                            interval=interval,
                            occupied=round(float(np.mean([len(np.unique(row)) for row in one.labels]))),
                            stability=_stability(one.labels),
                            silhouette=one.silhouette,
                        )
                    )

    names = tuple(dict.fromkeys(point.distance for point in points))
    plans = {
        name: _plan([p for p in points if p.distance == name], tuple(rows_by_layer), fits, scorer, baseline_interval)
        for name in names
    }
    best = _pick_distance({name: plan.sets[-1] for name, plan in plans.items()})
    plan = plans[best]
    advised = _advise(plan.sets)
    record = Choice(
        sentence="",
        advice="",
        scored_by="decisions" if scorer.classes is not None else "stability",
        distance=best,
        k_per_layer={layer: point.k for layer, point in plan.chosen.items()},
        seed=seed,
        sampled=len(sample),
        judged=scorer.judged,
        baseline=baseline,
        baseline_interval=baseline_interval,
        carries_nothing=plan.nothing,
        cut=plan.cut,
        points=tuple(p.model_copy(update={"chosen": p is plan.chosen[p.layer]}) for p in points),
        layer_sets=tuple(
            one.model_copy(update={"advised": one is advised}) for each in plans.values() for one in each.sets
        ),
    )
    words = {"sentence": sentence(record, asked, distance, scorer.one_class), "advice": advice(advised)}
    return record.model_copy(update=words)


@dataclass(frozen=True)
class _Plan:
    """What one distance would choose."""

    chosen: dict[str, SweepPoint]
    sets: list[LayerSet]
    nothing: tuple[str, ...]
    cut: tuple[str, ...]


def _plan(
    points: Sequence[SweepPoint],
    layers: tuple[str, ...],
    fits: Mapping[tuple[str, Distance, int], _Fits],
    scorer: _HeldOutScorer,
    baseline: Interval | None,
) -> _Plan:
    """The plateau rule in each layer; then, weakest layer first, the smallest k while complete paths are too scattered."""
    by_layer = {layer: [point for point in points if point.layer == layer] for layer in layers}
    chosen = {layer: _pick(by_layer[layer], baseline) for layer in layers}

    def of(subset: tuple[str, ...]) -> LayerSet:
        taken = [chosen[layer] for layer in subset]
        return _score_set(subset, taken[0].distance, [fits[p.layer, p.distance, p.k] for p in taken], scorer)

    sets = [of(subset) for subset in layer_sets(layers)]
    cut = []
    for layer in sorted(layers, key=lambda layer: _score(chosen[layer])):
        if baseline is None or _score(sets[-1]) >= _low(max(sets, key=_score)):
            break
        before = chosen[layer]
        if before is by_layer[layer][0]:
            continue
        chosen[layer] = by_layer[layer][0]
        if _score(of(layers)) < _low(sets[-1]):  # it is not this layer that scatters them
            chosen[layer] = before
            continue
        cut.append(layer)
        sets = [of(subset) for subset in layer_sets(layers)]
    nothing = tuple(layer for layer in layers if _carries_nothing(by_layer[layer], baseline))
    return _Plan(chosen, sets, nothing, tuple(layer for layer in layers if layer in cut))


def layer_sets(layers: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Single layers, the last two, the last three …, all: in that order, `layers` last."""
    suffixes = [layers[-count:] for count in range(2, len(layers))]
    singles: list[tuple[str, ...]] = [(layer,) for layer in layers]
    return [*singles, *suffixes, layers] if len(layers) > 1 else [layers]


def _grid(asked: int | None, distinct: int, sampled: int) -> tuple[int, ...]:
    """Numbers of clusters to try: not more than there are distinct rows, or held-out rows; 1 for a dead layer."""
    if asked is not None:
        return (asked,)
    if distinct < GRID[0]:
        return (1,)
    return tuple(k for k in GRID if k <= min(distinct, sampled // _FOLDS))


def _unit(sketches: NDArray[np.float32]) -> NDArray[np.float32]:
    """At unit length; rows of zeros stay. Projection keeps angles, so this comes to the same as scaling first."""
    norms = np.sqrt(np.einsum("ij,ij->i", sketches, sketches))[:, None]
    return (sketches / np.where(norms > 0, norms, 1)).astype(np.float32)


def _compact(sketches: NDArray[np.float32]) -> NDArray[np.float64]:
    """The leading 64 principal components of (s, d) sketches: enough for k-means of a few clusters, at half the time.

    Ding and He, K-means Clustering via Principal Component Analysis (2004). float64, as scikit-learn converts float32
    repeatedly where it draws seeds.
    """
    centred = sketches.astype(np.float64)
    centred -= centred.mean(axis=0)
    if sketches.shape[1] <= _COMPONENTS:
        return centred
    _, directions = np.linalg.eigh(centred.T @ centred)  # by rising variance
    compact: NDArray[np.float64] = centred @ directions[:, -_COMPONENTS:]
    return compact


def _fit(
    sketches: NDArray[np.float32],
    compact: NDArray[np.float64],
    directed: NDArray[np.bool_],
    k: int,
    fits: NDArray[np.bool_],
    seed: int,
) -> _Fits:
    """Cluster (s, d) sketches once per seed; rows that are not `directed` go into cluster 0, as in `kmeans.py`.

    A fold may lack some of the distinct rows: then it has fewer clusters, as rounding would decide between two equal ones.
    """
    from sklearn.cluster import KMeans  # takes half a second, which a dry run need not wait for
    from sklearn.exceptions import ConvergenceWarning

    labels = np.zeros((len(fits), len(sketches)), np.int16)
    silhouettes = []
    for number, fit in enumerate(fits):
        seen = fit & directed
        if not seen.any():
            continue
        with ignore_warnings(ConvergenceWarning):  # rows may be equal up to rounding
            found = count_distinct(sketches[seen], k)
            model = KMeans(found, n_init=1, random_state=seed + number).fit(compact[seen])
        gaps = model.transform(compact)  # (s, k)
        labels[number, directed] = gaps.argmin(axis=1)[directed]
        if gaps.shape[1] > 1 and (~fit & directed).any():
            own, other = np.partition(gaps[~fit & directed], 1, axis=1)[:, :2].T
            silhouettes.append(float((1 - own / np.where(other > 0, other, 1)).mean()))
    return _Fits(labels, float(np.mean(silhouettes)) if silhouettes else 0.0)


def _stability(codes: NDArray[np.int16] | NDArray[np.int64]) -> float:
    """Mean adjusted Rand index between any two of (seeds, s) labellings."""
    return float(np.mean([adjusted_rand(a, b) for a, b in combinations(codes, 2)]))


def _score_set(layers: tuple[str, ...], distance: Distance, fits: Sequence[_Fits], scorer: _HeldOutScorer) -> LayerSet:
    paths = np.stack([one.labels for one in fits], axis=2)  # (seeds, s, L)
    counted = [count_paths(one) for one in paths]
    daf, interval = scorer.daf(paths)
    return LayerSet(
        layers=layers,
        distance=distance,
        daf=daf,
        interval=interval,
        paths=round(float(np.mean([len(one.counts) for one in counted]))),
        stability=_stability(np.stack([one.of_example for one in counted])),
    )


def _pick(points: Sequence[SweepPoint], baseline: Interval | None) -> SweepPoint:
    """The plateau rule, for one layer and distance; points in order of k."""
    if baseline is None:
        stable = [point for point in points if point.stability >= STABLE]
        apart = max((point.silhouette for point in stable), default=0) * NEARLY
        return next((point for point in reversed(stable) if point.silhouette >= apart), points[0])
    if _carries_nothing(points, baseline):
        return points[0]
    low = _low(max(points, key=_score))
    return next(point for point in points if _score(point) >= low)


def _carries_nothing(points: Sequence[SweepPoint], baseline: Interval | None) -> bool:
    """Whether even the best is no better than the baseline, or, without decisions, none is stable.

    Intervals have to be apart: the best of some thirty trials is above the baseline's interval by chance.
    """
    if baseline is None:
        return all(point.stability < STABLE or point.k == 1 for point in points)
    return _low(max(points, key=_score)) <= baseline[1]


def _score(one: SweepPoint | LayerSet) -> float:
    return one.stability if one.daf is None else one.daf


def _low(one: SweepPoint | LayerSet) -> float:
    """The threshold for equally good: the lower end of the interval; without decisions slightly less stable."""
    return one.stability - 0.05 if one.interval is None else one.interval[0]


def _pick_distance(by_distance: Mapping[Distance, LayerSet]) -> Distance:
    """The distance by the paths through all layers: the first within the interval of the best."""
    low = _low(max(by_distance.values(), key=_score))
    return next(name for name, one in by_distance.items() if _score(one) >= low)


def _advise(sets: Sequence[LayerSet]) -> LayerSet | None:
    """The fewest paths of the sets of layers within the interval of the best; None without decisions, or for all."""
    low = _low(max(sets, key=_score))
    best = min((one for one in sets if _score(one) >= low), key=lambda one: (one.paths, -_score(one)))
    return None if best.daf is None or best is sets[-1] else best

"""How faithful cluster paths are to the model: pure functions on arrays.

Belongs here: decision alignment and its baselines, complexity, path agreement, out-of-distribution scores, intervals.
Which examples they are measured on is `evaluate.py`; counting paths and purity are `metrics.py`.

The measures follow Kroeger and Bindschaedler, Cluster Paths (arXiv 2510.06541): path complexity, weighted-path purity,
decision-alignment faithfulness, path agreement. A docstring says where we had to decide. A class of -1 means that none
is known; arrays that do not fit together, or ids below that, are a ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from clusterpaths.metrics.intervals import wilson
from clusterpaths.metrics.paths import Ints, count_paths, largest_class

Floats = NDArray[np.floating[Any]]

RESAMPLES = 1000  # of the bootstrap
NEIGHBOURS = 10  # of the deep k-NN
FEW = 5  # fit examples that a cluster needs for statistics of its own
_BLOCK_CELLS = 1 << 22  # of a distance matrix, at a time


def split_fit_eval(n: int, share: float = 0.2, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions 0 … n - 1 split at random into those to fit and those kept aside; both ascending.

    `share` of them, rounded, are kept aside; from n = 2 on at least one on either side.
    """
    kept = int(np.clip(round(n * share), min(1, n - 1) if n > 1 else 0, max(n - 1, 0)))
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[kept:]), np.sort(order[:kept])


@dataclass(frozen=True)
class DecisionAlignment:
    """How often a path says what the model decides.

    Attributes:
        daf: share of eval examples (of a known class) whose path's majority class is their own; None where there are
            none, or nothing was fitted.
        coverage: share of them on a path that was seen in fit; None likewise.
        daf_seen: daf of those alone; None where there are none.
        predicted: (m,) int64, the class that each eval example's path stands for; -1 where nothing was fitted.
        seen: (m,) bool, whether the path was seen in fit.
    """

    daf: float | None
    coverage: float | None
    daf_seen: float | None
    predicted: NDArray[np.int64]
    seen: NDArray[np.bool_]


def decision_alignment(fit_paths: Ints, fit_classes: Ints, eval_paths: Ints, eval_classes: Ints) -> DecisionAlignment:
    """Decision-alignment faithfulness (arXiv 2510.06541): does the path tell the model's decision?

    A path stands for the most frequent class of the fit examples on it. For a path that no fit example takes, the
    seen paths at the smallest Hamming distance vote, each for the class that it stands for, with as many votes as it
    has fit examples. (The paper leaves unseen paths open; this is our choice.) Ties, in a path as in a vote, go to
    the lowest class. Examples of class -1 are left out, in fit and of the shares; `predicted` is given for all.

    Args:
        fit_paths: (n, L) cluster ids >= 0.
        fit_classes: (n,) the model's own predictions, -1 for none.
        eval_paths: (m, L).
        eval_classes: (m,).

    Raises:
        ValueError: shapes that do not fit, ids or classes below those.
    """
    _check_classes("fit_paths", fit_paths, "fit_classes", fit_classes)
    _check_classes("eval_paths", eval_paths, "eval_classes", eval_classes)
    _check_alike("fit_paths", fit_paths, "eval_paths", eval_paths)
    known = fit_classes >= 0
    m = len(eval_paths)
    if not known.any():
        return DecisionAlignment(None, None, None, np.full(m, -1, np.int64), np.zeros(m, np.bool_))
    both = count_paths(np.concatenate([fit_paths[known], eval_paths]))
    n = int(known.sum())
    stands_for, votes = _majority(both.of_example[:n], fit_classes[known].astype(np.int64), len(both.counts))
    wanted = np.unique(both.of_example[n:])
    unseen = wanted[votes[wanted] == 0]
    stands_for[unseen] = _vote(both.paths[unseen], both.paths[votes > 0], stands_for[votes > 0], votes[votes > 0])
    predicted, seen = stands_for[both.of_example[n:]], votes[both.of_example[n:]] > 0
    counted = eval_classes >= 0
    right = predicted == eval_classes
    return DecisionAlignment(_mean(right[counted]), _mean(seen[counted]), _mean(right[counted & seen]), predicted, seen)


@dataclass(frozen=True)
class PathComplexity:
    """How many paths there are.

    Attributes:
        occupied: paths with at least one example.
        covering: how many of the most frequent ones hold at least 95% of the examples.
        entropy: of the distribution over paths, in bits.
    """

    occupied: int
    covering: int
    entropy: float


def path_complexity(paths: Ints) -> PathComplexity:
    """Occupied paths, those that cover 95%, and the entropy in bits (Shannon 1948), of (n, L) paths.

    All three say how much there is to read; the last two are ours, since a long tail of rare paths hardly costs a reader.
    """
    _check_paths("paths", paths)
    counts = count_paths(paths).counts
    if not len(counts):
        return PathComplexity(0, 0, 0.0)
    n = int(counts.sum())
    covering = int(np.searchsorted(np.cumsum(counts) * 20, n * 19)) + 1  # in integers: no rounding at the border
    shares = counts / n
    return PathComplexity(len(counts), covering, float(abs((shares * np.log2(shares)).sum())))


def kept_paths(first: Ints, second: Ints) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """For two (n, L) arrays of the same examples: whether the whole path is kept, and the share of layers; both (n,).

    The mean of the first is the strict path agreement (one moved layer is a changed path), that of the second the mild.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"Both should be (n, L) of the same examples, got {first.shape} and {second.shape} instead.")
    same = first == second
    return same.all(axis=1), same.mean(axis=1)


def pure(groups: Ints, classes: Ints) -> NDArray[np.bool_]:
    """For each of the examples with a known class, whether it is its group's most frequent one, the lowest on a tie.

    The mean is `metrics.weighted_purity`, the paper's weighted-path purity; the single values are there to be drawn
    again. Measured on the examples that were clustered, as there; a path of a single example is pure.
    """
    _check_classes("groups", groups, "classes", classes)
    known = classes >= 0
    of, own = groups[known].astype(np.int64), classes[known].astype(np.int64)
    if not len(of):
        return np.empty(0, np.bool_)
    right: NDArray[np.bool_] = _majority(of, own, int(of.max()) + 1)[0][of] == own
    return right


def majority_baseline(fit_classes: Ints, m: int) -> NDArray[np.int64]:
    """Always the most frequent class of fit (the lowest on a tie; -1 where none is known), m times."""
    largest = largest_class(fit_classes)
    return np.full(m, -1 if largest is None else largest[0], np.int64)


def nearest_neighbours(
    fit: Floats, queries: Floats, k: int = NEIGHBOURS
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Positions (m, k) of the k nearest of (n, d) rows to each of (m, d) queries, nearest first, and distances (m, k).

    Rows are scaled to unit length first, so distances are Euclidean ones on the sphere (as in Sun et al. 2022). With
    fewer than k rows, all of them. A row of zeros stays where it is. Equal distances: the lower position first.
    """
    _check_alike("fit", fit, "queries", queries)
    if k < 1 or not len(fit):
        raise ValueError(f"k and the number of rows should be >= 1, got {k} and {len(fit)} instead.")
    k = min(k, len(fit))
    rows, wanted = _unit(fit), _unit(queries)
    lengths = np.einsum("ij,ij->i", rows, rows)
    positions = np.empty((len(queries), k), np.int64)
    distances = np.empty((len(queries), k))
    step = max(1, _BLOCK_CELLS // max(len(fit), 1))
    for start in range(0, len(wanted), step):
        block = wanted[start : start + step]
        squared = lengths - 2 * block @ rows.T + np.einsum("ij,ij->i", block, block)[:, None]
        some = np.sort(np.argpartition(squared, k - 1, axis=1)[:, :k], axis=1)
        values = np.take_along_axis(squared, some, axis=1)
        order = np.argsort(values, axis=1, kind="stable")
        positions[start : start + step] = np.take_along_axis(some, order, axis=1)
        distances[start : start + step] = np.sqrt(np.maximum(np.take_along_axis(values, order, axis=1), 0))
    return positions, distances


def neighbours_vote(positions: NDArray[np.int64], fit_classes: Ints) -> NDArray[np.int64]:
    """The deep k-NN baseline: the most frequent class among (m, k) neighbours, the lowest on a tie; (m,).

    The idea is Papernot and McDaniel's (arXiv 1803.04765), on the last layer alone. Classes must be known (>= 0).
    """
    m, k = positions.shape
    if len(fit_classes) and fit_classes.min() < 0:
        raise ValueError(f"Classes should be >= 0, got {fit_classes.min()} instead. Leave out examples without one.")
    voters = np.repeat(np.arange(m), k)
    return _majority(voters, fit_classes[positions].astype(np.int64).ravel(), m)[0]


def path_rarity(fit_paths: Ints, paths: Ints) -> NDArray[np.float64]:
    """-log of each path's smoothed frequency in fit, in nats; (m,) of (m, L).

    Add-one smoothing (Laplace) over the p occupied paths and one more that stands for all unseen ones:
    (count + 1) / (n + p + 1).
    """
    _check_paths("fit_paths", fit_paths)
    _check_paths("paths", paths)
    _check_alike("fit_paths", fit_paths, "paths", paths)
    both = count_paths(np.concatenate([fit_paths, paths]))
    n = len(fit_paths)
    counts = np.bincount(both.of_example[:n], minlength=len(both.counts))
    rarity: NDArray[np.float64] = -np.log((counts[both.of_example[n:]] + 1) / (n + (counts > 0).sum() + 1))
    return rarity


def standardised_distance(
    fit_clusters: Ints, fit_distances: Floats, clusters: Ints, distances: Floats
) -> NDArray[np.float64]:
    """How far examples lie from their centroids for members of these clusters: higher is stranger; (m,).

    Mean over layers of (distance - mean) / standard deviation, both of the fit examples in the same cluster. A cluster
    with fewer than 5 of them, or with no spread, takes its layer's; a layer without spread says nothing and counts 0.

    Args:
        fit_clusters: (n, L).
        fit_distances: (n, L), to the own centroid.
        clusters: (m, L).
        distances: (m, L).

    Raises:
        ValueError: shapes that do not fit, or nothing to fit.
    """
    if not len(fit_clusters):
        raise ValueError("There should be at least one example to fit, got none.")
    for name, ids, far in (("fit", fit_clusters, fit_distances), ("scored", clusters, distances)):
        _check_paths(f"{name} clusters", ids)
        if ids.shape != far.shape:
            raise ValueError(f"The {name} distances should be {ids.shape} as their clusters, got {far.shape} instead.")
    _check_alike("fit clusters", fit_clusters, "clusters", clusters)
    score = np.zeros(len(clusters))
    for layer in range(fit_clusters.shape[1]):
        of, fit = fit_clusters[:, layer].astype(np.int64), fit_distances[:, layer].astype(np.float64)
        own = clusters[:, layer].astype(np.int64)
        k = int(max(of.max(), own.max(initial=0))) + 1
        sizes = np.bincount(of, minlength=k)
        means = np.bincount(of, fit, k) / np.maximum(sizes, 1)
        spreads = np.sqrt(np.bincount(of, (fit - means[of]) ** 2, k) / np.maximum(sizes, 1))
        if not fit.std() > 1e-9:
            continue
        usual = (sizes >= FEW) & (spreads > 1e-6 * fit.std())
        means, spreads = np.where(usual, means, fit.mean()), np.where(usual, spreads, fit.std())
        score += (distances[:, layer] - means[own]) / spreads[own]
    result: NDArray[np.float64] = score / fit_clusters.shape[1]
    return result


def has_class_scores(outputs: Floats) -> bool:
    """Whether (m, n) outputs of a model can be class scores, of which the largest is the decision.

    One number an example is a regression. Rows that all have length 1 are an embedding on the sphere, but for
    probabilities, which may be all 0 and 1. An embedding of any length cannot be told from class scores: its "decision"
    is the index of its largest unit.
    """
    values = outputs.astype(np.float64)
    if not len(values) or values.shape[1] < 2:
        return False
    return _probabilities(values) or not np.allclose(np.linalg.norm(values, axis=1), 1, atol=1e-3)


def decision_scores(logits: Floats) -> dict[str, NDArray[np.float64]]:
    """Scores of (m, classes) class scores, higher is stranger; each (m,).

    "max softmax" is minus the largest probability (Hendrycks and Gimpel, arXiv 1610.02136), "energy" minus the log of the
    summed exponentials (Liu et al., arXiv 2010.03759). Where the model puts out probabilities there is no energy.
    """
    values = logits.astype(np.float64)
    if _probabilities(values):
        return {"max softmax": -values.max(axis=1)}
    top = values.max(axis=1)
    log_sum = top + np.log(np.exp(values - top[:, None]).sum(axis=1))
    return {"max softmax": -np.exp(top - log_sum), "energy": -log_sum}


def auroc(own: Floats, others: Floats) -> float:
    """Area under the ROC curve: how often another image has a higher score than an own example, ties half."""
    return float(roc_auc_score(*_labelled(own, others)))


def fpr95(own: Floats, others: Floats) -> float:
    """Share of other images that pass as own where the threshold lets 95% of own examples pass (ODIN, Liang 2018).

    Own examples are the positives, a lower score is more like one.
    """
    is_other, scores = _labelled(own, others)
    false, true, _ = roc_curve(1 - is_other, -scores, drop_intermediate=False)
    return float(false[np.argmax(true >= 0.95)])


def bootstrap_mean(values: Floats | NDArray[np.bool_], seed: int) -> tuple[float, float]:
    """95% interval of a mean: the percentile bootstrap (Efron, Annals of Statistics 7, 1979) with 1,000 drawings.

    Drawn as counts of the different values, which is the same and quick where they are few. Shares of exactly 0 or 1
    would get an interval of no width; they get the score interval (`intervals.wilson`) instead.
    """
    if not len(values):
        raise ValueError("A mean needs at least one value, got none.")
    different, counts = np.unique(values.astype(np.float64), return_counts=True)
    n = int(counts.sum())
    if len(different) == 1 and different[0] in (0, 1):
        return wilson(n * int(different[0]), n)
    means = np.random.default_rng(seed).multinomial(n, counts / n, size=RESAMPLES) @ different / n
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def bootstrap_detection(own: Floats, others: Floats, seed: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """95% intervals of `auroc` and of `fpr95`, by the percentile bootstrap; either side is drawn for itself."""
    rng = np.random.default_rng(seed)
    different, place = np.unique(np.concatenate([own, others]), return_inverse=True)
    areas, rates = np.empty(RESAMPLES), np.empty(RESAMPLES)
    for draw in range(RESAMPLES):
        a = np.bincount(place[rng.integers(len(own), size=len(own))], minlength=len(different))
        picked = place[len(own) + rng.integers(len(others), size=len(others))]
        b = np.bincount(picked, minlength=len(different))
        areas[draw], rates[draw] = _from_counts(a, b)
    (low, high), (low_rate, high_rate) = np.percentile(areas, [2.5, 97.5]), np.percentile(rates, [2.5, 97.5])
    return (float(low), float(high)), (float(low_rate), float(high_rate))


def _from_counts(own: NDArray[np.int64], others: NDArray[np.int64]) -> tuple[float, float]:
    """AUROC and FPR at 95% TPR out of how many of either side have each score, ascending."""
    passed, wrongly = np.cumsum(own), np.cumsum(others)
    area = float((others * (passed - own / 2)).sum() / (passed[-1] * wrongly[-1]))
    return area, float(wrongly[np.argmax(passed >= 0.95 * passed[-1])] / wrongly[-1])


def _labelled(own: Floats, others: Floats) -> tuple[NDArray[np.int64], Floats]:
    if not len(own) or not len(others):
        raise ValueError(f"Scores of own and of other images are needed, got {len(own)} and {len(others)}.")
    return np.repeat([0, 1], [len(own), len(others)]), np.concatenate([own, others])


def _check_paths(name: str, paths: Ints) -> None:
    if paths.ndim != 2 or paths.dtype.kind not in "iu":
        raise ValueError(f"{name} should be (n, L) integers, got {paths.shape} {paths.dtype} instead.")
    if paths.size and paths.min() < 0:
        raise ValueError(f"{name} should hold ids >= 0, got {paths.min()} instead.")


def _check_classes(of: str, paths: Ints, name: str, classes: Ints) -> None:
    """Paths may be groups (n,) here."""
    _check_paths(of, paths if paths.ndim == 2 else paths[:, None])
    if classes.shape != (len(paths),):
        raise ValueError(f"{name} should be one a row of {of}, so ({len(paths)},), got {classes.shape} instead.")
    if classes.dtype.kind not in "iu":
        raise ValueError(f"{name} should be integers, got {classes.dtype} instead.")
    if len(classes) and classes.min() < -1:
        raise ValueError(f"{name} should be >= 0, or -1 for none, got {classes.min()} instead.")


def _check_alike(name: str, first: NDArray[Any], other: str, second: NDArray[Any]) -> None:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"{name} and {other} should be equally wide, got {first.shape} and {second.shape} instead.")


def _probabilities(values: NDArray[np.float64]) -> bool:
    return bool((values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3))


def _unit(rows: Floats) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def _mean(values: NDArray[np.bool_]) -> float | None:
    return float(values.mean()) if len(values) else None


def _majority(
    paths: NDArray[np.int64], classes: NDArray[np.int64], p: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The most frequent class of each of p paths, the lowest on a tie, -1 for none; and examples on each; both (p,)."""
    width = int(classes.max()) + 1
    pairs, sizes = np.unique(paths * width + classes, return_counts=True)  # paths x classes may not fit in memory
    order = np.lexsort((-(pairs % width), sizes, pairs // width))  # the best of each path comes last
    stands_for = np.full(p, -1, np.int64)
    stands_for[pairs[order] // width] = pairs[order] % width
    return stands_for, np.bincount(paths, minlength=p).astype(np.int64)


def _vote(
    unseen: NDArray[np.int64], seen: NDArray[np.int64], stands_for: NDArray[np.int64], votes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The class that the nearest of (s, L) seen paths give to each of (u, L) unseen ones: (u,)."""
    result = np.empty(len(unseen), np.int64)
    step = max(1, _BLOCK_CELLS // max(len(seen), 1))
    for start in range(0, len(unseen), step):
        block = unseen[start : start + step]
        distance = np.zeros((len(block), len(seen)), np.int16)
        for mine, theirs in zip(block.T, seen.T, strict=True):
            distance += mine[:, None] != theirs
        nearest = distance == distance.min(axis=1, keepdims=True)
        for row, voting in enumerate(nearest):
            result[start + row] = np.bincount(stands_for[voting], weights=votes[voting]).argmax()
    return result

"""Counts and purity of cluster paths. Pure functions on integer arrays.

Belongs here: counts, complexity and purity of paths, or of any other groups of examples. What paths predict of the model's
decisions is `alignment.py`, how far two sets of paths agree `agreement.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clusterpaths.metrics.checks import Ints, require_classes, require_groups, require_paths

FEW_EXAMPLES = 5  # of fewer, a most frequent class says nothing: shown as counts, and never as a finding


@dataclass(frozen=True)
class PathCounts:
    """The occupied cluster paths, most frequent first; equally frequent ones in ascending order.

    Attributes:
        paths: (p, layers) int64, each occupied path once.
        counts: (p,) int64, examples on each; sums to n.
        of_example: (n,) int64, which of the p paths each example takes.
    """

    paths: NDArray[np.int64]
    counts: NDArray[np.int64]
    of_example: NDArray[np.int64]


def count_paths(clusters: Ints) -> PathCounts:
    """Count the cluster paths of n examples; `clusters` is (n, layers), ids >= 0.

    Works layer by layer on ranks, so that k ** layers may exceed 64 bits.
    """
    n, n_layers = clusters.shape
    if n == 0:
        none = np.empty(0, dtype=np.int64)
        return PathCounts(np.empty((0, n_layers), dtype=np.int64), none, none)
    code = np.zeros(n, dtype=np.int64)  # rank of the path so far; ranks preserve the lexicographic order
    for column in clusters.T:
        step = column.astype(np.int64)
        code = np.unique(code * (step.max() + 1) + step, return_inverse=True)[1]
    _, first, counts = np.unique(code, return_index=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")  # (p,)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return PathCounts(clusters[first[order]].astype(np.int64), counts[order].astype(np.int64), rank[code])


@dataclass(frozen=True)
class PathComplexity:
    """How many paths there are.

    Attributes:
        occupied: paths with at least one example.
        covering: how many of the most frequent ones cover at least 95% of the examples.
        entropy: of the distribution over paths, in bits.
    """

    occupied: int
    covering: int
    entropy: float


def path_complexity(paths: Ints) -> PathComplexity:
    """Path complexity (arXiv 2510.06541) of (n, L) paths: those occupied, those that cover 95%, the entropy in bits.

    The paper counts occupied paths. The other two are additions: a long tail of rare paths is hardly harder to read.

    Raises:
        ValueError: no matrix of ids >= 0.
    """
    require_paths("paths", paths)
    counts = count_paths(paths).counts
    if not len(counts):
        return PathComplexity(0, 0, 0.0)
    n = int(counts.sum())
    covering = int(np.searchsorted(np.cumsum(counts) * 20, n * 19)) + 1  # in integers: no rounding at the border
    shares = counts / n
    return PathComplexity(len(counts), covering, float(abs((shares * np.log2(shares)).sum())))


class Majorities(NamedTuple):
    """The classes of g groups, each (g,): the most frequent one (-1: none known), how often, and of how many known."""

    best: NDArray[np.int64]
    counts: NDArray[np.int64]
    known: NDArray[np.int64]


def majority_classes(groups: Ints, classes: Ints, n_groups: int) -> Majorities:
    """The most frequent known class of each group, the lower one on a tie.

    Groups x classes may not fit in memory, so only pairs that occur are counted.

    Args:
        groups: (n,) ids from 0 to n_groups - 1.
        classes: (n,), -1 where not known.
        n_groups: g, groups without an example too.
    """
    is_known = classes >= 0
    n_classes = int(classes.max(initial=-1)) + 1
    best, count = np.full(n_groups, -1, np.int64), np.zeros(n_groups, np.int64)
    known = np.bincount(groups[is_known], minlength=n_groups).astype(np.int64)
    if n_classes:
        code = groups[is_known].astype(np.int64) * n_classes + classes[is_known]
        if n_groups * n_classes <= 1 << 20:
            every = np.bincount(code, minlength=n_groups * n_classes)
            pairs = np.flatnonzero(every)
            sizes = every[pairs]
        else:
            pairs, sizes = np.unique(code, return_counts=True)
        order = np.lexsort((-pairs, sizes))  # the last one written wins: most frequent, then lowest
        best[pairs[order] // n_classes] = pairs[order] % n_classes
        count[pairs[order] // n_classes] = sizes[order]
    return Majorities(best, count, known)


def in_majority(groups: Ints, classes: Ints) -> NDArray[np.bool_]:
    """For each example with a known class, whether it has its group's most frequent one, the lowest on a tie.

    Args:
        groups: (n,) ids >= 0.
        classes: (n,), -1 for none.

    Returns:
        (m,) for the m examples with a class. The mean is the purity; the single values are for a bootstrap.

    Raises:
        ValueError: shapes that do not match, ids or classes below those.
    """
    require_groups("groups", groups)
    require_classes("classes", classes, "groups", len(groups))
    known = classes >= 0
    members, own = groups[known], classes[known]
    if not len(own):
        return np.empty(0, np.bool_)
    result: NDArray[np.bool_] = majority_classes(members, own, int(members.max()) + 1).best[members] == own
    return result


def weighted_purity(groups: Ints, classes: Ints) -> float | None:
    """Share of examples with a known class that have their group's most frequent one; None where there are none.

    With cluster paths as groups this is the weighted-path purity of arXiv 2510.06541, measured, as there, on the
    examples that were clustered: a group of a single example is pure.
    """
    values = in_majority(groups, classes)
    return float(values.mean()) if len(values) else None


class Purity(NamedTuple):
    """Of a grouping of examples: the value, and what it is by chance; see `weighted_purity` and `chance_purity`."""

    value: float
    chance: float


def purity(groups: Ints, classes: Ints) -> Purity | None:
    """`weighted_purity` beside `chance_purity`; None where no class is known."""
    value, chance = weighted_purity(groups, classes), chance_purity(groups, classes)
    return None if value is None or chance is None else Purity(value, chance)


def chance_purity(groups: Ints, classes: Ints, seed: int = 0) -> float | None:
    """Purity of the same groups by chance: the mean of `weighted_purity` over random permutations of the classes.

    Small groups are nearly pure whatever their examples are: of 100 examples on 62 paths with two equally frequent classes,
    88%. So a purity says something only beside this number (the permutation model of Vinh, Epps and Bailey, JMLR 2010).

    Args:
        groups: (n,) ids >= 0.
        classes: (n,), -1 for none.
        seed: of the permutations. There are 100; of many examples fewer, at least 3, which suffice: the standard deviation
            of one permutation's purity falls with the square root of n.
    """
    known = classes >= 0
    members, own = groups[known], classes[known]
    if not len(own):
        return None
    draw = np.random.default_rng(seed)
    times = min(100, max(3, 100_000 // len(own)))
    return float(np.mean([weighted_purity(members, draw.permutation(own)) for _ in range(times)]))


def largest_class(classes: Ints) -> tuple[int, float] | None:
    """The most frequent class and its share of the examples with a known class; the lower index on a tie."""
    known = classes[classes >= 0]
    if not len(known):
        return None
    counts = np.bincount(known)
    return int(counts.argmax()), float(counts.max() / len(known))

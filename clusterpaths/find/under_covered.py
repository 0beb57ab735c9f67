"""Under-covered regions: kinds of images of which the set has few, so that the model had little to learn from.

Belongs here: which regions, and their order. What they have in common is `explore/lift.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterpaths.errors import NotFoundError
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.lift import lifts
from clusterpaths.find.coordinates import WORKERS, coordinates
from clusterpaths.find.record import UNDER_COVERED, Region, UnderCovered
from clusterpaths.metrics.alignment import SUFFIX_EXAMPLES
from clusterpaths.metrics.checks import Ints
from clusterpaths.metrics.intervals import wilson
from clusterpaths.metrics.paths import count_paths

NEIGHBOURS = 10  # the k of the k-th nearest neighbour
SPARSEST = 0.1  # share of the set that is called sparse
FALSE_DISCOVERIES = 0.05  # rate of regions that are listed by chance
SHOWN = 8  # exemplars of a region
_LIFTS = 6
_REFERENCE = 20_000  # examples among which neighbours are looked for: bounds time, and density needs no more
Rows = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SparseRegion:
    """Examples that share a suffix of the path."""

    path: str
    rows: Rows  # farthest from their neighbours first
    sparse: int
    interval: tuple[float, float]


def find_under_covered(index: SetIndex, layer: str = "") -> tuple[SparseRegion, ...]:
    """The regions of a set by a layer, the last one by default, computed once; see `sparse_regions`.

    By an earlier layer, regions are those of the path up to that layer.

    Raises:
        NotFoundError: the set has no such layer, or no maps.
    """
    at = layer_at(index, layer)
    paths = index.clusters[:, : at + 1]
    return index.once((UNDER_COVERED, at), lambda: sparse_regions(paths, _distances(index, at)))


def layer_at(index: SetIndex, layer: str) -> int:
    """The number of a layer; of the last one without a name. Raises: NotFoundError: the set has no such layer."""
    return index.layer_index(layer) if layer else len(index.layers) - 1


def under_covered_page(index: SetIndex, *, layer: str = "", limit: int = 50, offset: int = 0) -> UnderCovered:
    """A piece of the list. Raises: NotFoundError: as `find_under_covered`."""
    at = layer_at(index, layer)
    regions, distances = find_under_covered(index, layer), _distances(index, at)
    is_last = at == len(index.layers) - 1
    typical = float(np.median(distances)) if regions else 0.0
    known = index.right >= 0
    among = f", among a random sample of {_REFERENCE:,} examples" if len(index) > _REFERENCE else ""
    return UnderCovered(
        total=len(regions),
        limit=limit,
        offset=offset,
        layer=index.layers[at],
        error_share=float((index.right[known] == 0).mean()) if known.any() else None,
        note=(
            f"Groups of examples that share the last clusters of their path{'' if is_last else f' up to {index.layers[at]}'}, "
            f"and of which clearly more than {SPARSEST:.0%} lie in the sparsest {SPARSEST:.0%} of the set: far from their "
            f"{NEIGHBOURS}th nearest neighbour in {'the last layer' if is_last else index.layers[at]}{among}."
        ),
        entries=tuple(_record(index, region, distances, typical) for region in regions[offset : offset + limit]),
    )


def neighbour_distances(points: NDArray[np.float32], k: int = NEIGHBOURS, seed: int = 0) -> Floats:
    """(n,) distance of each of (n, d) points to its k-th nearest other one: the larger, the lower the density.

    The density estimate of Loftsgarden and Quesenberry (A Nonparametric Estimate of a Multivariate Density Function, Annals of
    Mathematical Statistics 36, 1965); of a network's layer, as Sun et al. use it (Out-of-Distribution Detection with Deep
    Nearest Neighbors, ICML 2022). Beyond 20,000 points, neighbours are those among a random sample of that many.
    """
    from scipy.spatial import cKDTree

    n = len(points)
    reference = np.arange(n) if n <= _REFERENCE else np.sort(np.random.default_rng(seed).permutation(n)[:_REFERENCE])
    k = min(k, len(reference) - 1)
    if k < 1:
        return np.zeros(n)
    found = cKDTree(points[reference]).query(points, k=k + 1, workers=WORKERS)[0]  # (n, k + 1)
    is_reference = np.zeros(n, np.bool_)
    is_reference[reference] = True
    distances: Floats = np.where(is_reference, found[:, k], found[:, k - 1])  # a reference finds itself first
    return distances


def sparse_regions(paths: Ints, distances: Floats, least: int = SUFFIX_EXAMPLES) -> tuple[SparseRegion, ...]:
    """Regions in which more examples are sparse than in the set, the surest first; none within another.

    A region is a suffix of the cluster path with at least `least` examples: later layers are nearer to the decision. It is
    under-covered if it has more sparse examples than the set (binomial test; of all suffixes, a false discovery rate of 5%:
    Benjamini and Hochberg, Controlling the False Discovery Rate, JRSS B 57, 1995). So it is a combination with too few
    examples, as the uncovered patterns of Asudeh, Jin and Jagadish (Assessing and Remedying Coverage for a Given Dataset, ICDE
    2019), but by density instead of a count: a frequent kind may vary little. Of regions that contain each other, the one with
    the higher lower end of the interval of its share is listed.

    Args:
        paths: (n, L) cluster ids.
        distances: (n,) to the k-th neighbour.
        least: examples.
    """
    n, n_layers = paths.shape
    if not n:
        return ()
    sparse = distances > np.quantile(distances, 1 - SPARSEST)
    base = float(sparse.mean())
    candidates: list[_Candidate] = []
    groups_of: list[NDArray[np.int64]] = []
    for length in range(1, n_layers + 1):
        counted = count_paths(paths[:, -length:])
        groups_of.append(counted.of_example)
        having = np.bincount(counted.of_example, weights=sparse, minlength=len(counted.counts)).astype(np.int64)
        for group in np.flatnonzero(counted.counts >= least).tolist():
            count, several = int(counted.counts[group]), int(having[group])
            candidates.append(_Candidate(length, tuple(counted.paths[group].tolist()), group, count, several))
    taken: set[tuple[int, ...]] = set()
    inner: set[tuple[int, ...]] = set()  # all suffixes of those taken
    found = []
    for one in sorted(_clear(candidates, base), key=lambda one: (-one.interval[0], one.length, one.steps)):
        own = list(_suffixes(one.steps))
        if one.steps in inner or any(suffix in taken for suffix in own):
            continue
        taken.add(one.steps)
        inner.update(own)
        rows = np.flatnonzero(groups_of[one.length - 1] == one.group)
        rows = rows[np.argsort(-distances[rows], kind="stable")]
        path = "-".join(["*"] * (n_layers - one.length) + [str(step) for step in one.steps])
        found.append(SparseRegion(path, rows, one.sparse, one.interval))
    return tuple(found)


@dataclass(frozen=True)
class _Candidate:
    length: int
    steps: tuple[int, ...]
    group: int
    count: int
    sparse: int

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.sparse, self.count)


def _clear(candidates: list[_Candidate], base: float) -> list[_Candidate]:
    """Those with more sparse examples than chance gives them."""
    from scipy.stats import binom, false_discovery_control

    if not candidates or not 0 < base < 1:
        return []
    sparse, counts = (np.array([getattr(one, name) for one in candidates]) for name in ("sparse", "count"))
    adjusted = false_discovery_control(binom.sf(sparse - 1, counts, base))
    return [one for one, p in zip(candidates, adjusted.tolist(), strict=True) if p <= FALSE_DISCOVERIES]


def _suffixes(steps: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return (steps[start:] for start in range(len(steps)))


def _distances(index: SetIndex, layer: int) -> Floats:
    """(n,) in a layer. Raises: NotFoundError: the set has no maps."""
    maps = index.maps
    if maps is None:
        raise NotFoundError(
            f"{index.name} was published before there were maps, so under-covered regions cannot be found. Run again to add them."
        )
    found: Floats = index.once(("sparsity", layer), lambda: neighbour_distances(coordinates(maps, index.layers[layer])))
    return found


def _record(index: SetIndex, region: SparseRegion, distances: Floats, typical: float) -> Region:
    rows = region.rows
    right = index.right[rows]
    known, errors = int((right >= 0).sum()), int((right == 0).sum())
    return Region(
        path=region.path,
        count=len(rows),
        share=len(rows) / len(index),
        sparse=region.sparse,
        sparse_share=region.sparse / len(rows),
        sparse_interval=region.interval,
        distance=float(np.median(distances[rows])) / typical if typical > 0 else 0.0,
        errors=errors if known else None,
        known=known,
        error_share=errors / known if known else None,
        error_interval=wilson(errors, known) if known else None,
        lifts=tuple(one for one in lifts(index, rows) if one.clear and (one.lift is None or one.lift > 1))[:_LIFTS],
        exemplars=index.examples(rows[:SHOWN]),
    )

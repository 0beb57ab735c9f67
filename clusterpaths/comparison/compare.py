"""What changed from one set to another: two runs of one model, or two models on the same images.

Belongs here: creating the record. `record.py` defines it, `sets/join.py` joins examples, `metrics/agreement.py` computes
the metrics, `report/comparison.py` renders it.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from clusterpaths.comparison.joint_classes import join_classes
from clusterpaths.comparison.record import (
    ClusterMatch,
    Comparison,
    DecisionCount,
    Decisions,
    ExampleChange,
    LayerComparison,
    Migration,
    PathCount,
    Side,
)
from clusterpaths.config import IMAGES, CacheRoot
from clusterpaths.errors import CacheError, ConfigError
from clusterpaths.evaluation.accuracy import accuracy
from clusterpaths.evaluation.record import read_evaluation
from clusterpaths.explore.index import class_shares
from clusterpaths.metrics import agreement
from clusterpaths.metrics.agreement import adjusted_rand, match_clusters, shared_information
from clusterpaths.metrics.intervals import wilson
from clusterpaths.metrics.ood import overall_distance
from clusterpaths.metrics.paths import PathCounts, count_paths, majority_classes
from clusterpaths.records import Record
from clusterpaths.sets.join import join_examples
from clusterpaths.sets.published import PublishedSet

TOP = 12
ALERT_BELOW = 0.8
EXAMPLES_OF_A_CHANGE = 8


class CompareConfig(Record):
    """What changed from one set to another: of one model, or of two models on the same images."""

    first: str = Field(description="the set before: NAME/set_NN of the results directory, or NAME for its newest set")
    second: str = Field(description="the set after, in the same form; the comparison is written into its directory")
    cache_root: CacheRoot | None = Field(
        None, description="results directory, with one directory per name [activation_cache]"
    )
    data_root: Annotated[Path | None, IMAGES] = Field(
        None, description="directory of the data set, for images on the page [that of the second set]"
    )
    alert_below: float = Field(
        ALERT_BELOW, ge=0, le=1, description="path agreement under which the event cluster-paths.diverged is raised"
    )
    top: int = Field(
        TOP, ge=1, description="how many changed examples, changed predictions and largest paths are listed"
    )


def compare_sets(first: PublishedSet, second: PublishedSet, *, top: int = TOP) -> Comparison:
    """Compare two sets, joined on the content of their images.

    Args:
        first: the set before.
        second: the set after, of the same model or another one.
        top: how many changed examples, changed predictions and largest paths are listed.

    Raises:
        CacheError: a set cannot be read, or the sets have no layer in common.
        DatasetError: not the same images, as `sets.join.join_examples`.
        ConfigError: top below 1.
    """
    if top < 1:
        raise ConfigError(f"top should be >= 1, got {top} instead.")
    layers = [layer for layer in first.layers if layer in second.layers]
    if not layers:
        raise CacheError(
            f"{first.name} and {second.name} have no layer in common: {', '.join(first.layers)} and "
            f"{', '.join(second.layers)}. Expected sets that share at least one layer by name; cluster the same "
            "layers in both, with --layers."
        )
    return _Comparing(first, second, layers).comparison(top)


def _side(published: PublishedSet) -> Side:
    known = published.record.model_dump(include=set(Side.model_fields) - {"name"})
    for source, purity in published.purities.items():
        known |= {f"purity_{source}": purity.value, f"chance_{source}": purity.chance}
    counts = published.paths.counts
    known |= {"paths": len(counts), "singletons": int((counts == 1).sum()), "accuracy": accuracy(published)}
    if evaluation := read_evaluation(published):
        known |= {
            f"purity_{source}_interval": (one.low, one.high)
            for source, one in (
                ("labels", evaluation.purity_labels),
                ("predictions", evaluation.purity_predictions),
            )
            if one
        }
        known |= {
            "alignment": evaluation.alignment.daf if evaluation.alignment else None,
            "path_agreement": {one.name: one.paths for one in evaluation.perturbations},
            "ood": {
                kind.name: one.auroc for kind in evaluation.strangers for one in kind.scores if one.score == "paths"
            },
        }
    return Side(name=published.name, **known)


class _Majorities:
    """Classes of one set for colours: predictions where there are any, else labels, as the explorer has them."""

    def __init__(self, published: PublishedSet) -> None:
        predicted = bool((published.predictions >= 0).any())
        self._set, self._classes = published, published.predictions if predicted else published.labels
        self._name = published.class_name if predicted else published.label_name

    def classes(self) -> tuple[str, ...]:
        """Names, most frequent first."""
        return tuple(one.name for one in class_shares(self._classes, self._name))

    def of_layer(self, layer: str) -> tuple[str | None, ...]:
        """The most frequent class of each cluster."""
        at = self._set.layers.index(layer)
        best = majority_classes(self._set.clusters[:, at], self._classes, self._set.k[at]).best
        return tuple(None if one < 0 else self._name(one) for one in best.tolist())


class _Comparing:
    """The common examples and layers of two sets; n examples, L layers."""

    def __init__(self, a: PublishedSet, b: PublishedSet, layers: list[str]) -> None:
        at_a, at_b = join_examples(a, b)
        self.a, self.b, self.layers, self.at_a, self.at_b = a, b, layers, at_a, at_b
        columns_a, columns_b = (np.array([side.layers.index(layer) for layer in layers]) for side in (a, b))
        self.paths_a = a.clusters[np.ix_(at_a, columns_a)].astype(np.int64)  # (n, L)
        self.paths_b = b.clusters[np.ix_(at_b, columns_b)].astype(np.int64)  # (n, L)
        distances_a = overall_distance(a.distances[np.ix_(at_a, columns_a)])
        distances_b = overall_distance(b.distances[np.ix_(at_b, columns_b)])
        self.distances: NDArray[np.float64] = np.add(distances_a, distances_b)  # (n,)
        self.k_a, self.k_b = ([side.record.k_per_layer[layer] for layer in layers] for side in (a, b))
        self.matches = [
            match_clusters(self.paths_a[:, i], self.paths_b[:, i], self.k_a[i], self.k_b[i]) for i in range(len(layers))
        ]
        self.majorities = _Majorities(a), _Majorities(b)
        self.unchanged, self.renamed = agreement.matched_agreement(self.paths_a, self.paths_b, self.matches)
        self.classes = join_classes(
            a.record,
            b.record,
            a.predictions[at_a],
            b.predictions[at_b],
            b.labels[at_b],  # the later set has at least as many labels
        )

    def comparison(self, top: int) -> Comparison:
        n, n_layers = self.unchanged.shape
        changed = (~self.unchanged).sum(axis=1)
        same = int((changed == 0).sum())
        ids = self.a.ids[self.at_a]
        return Comparison(
            first=_side(self.a),
            second=_side(self.b),
            same_model=self.a.record.model.sha256 == self.b.record.model.sha256,
            num_examples=n,
            only_first=len(self.a.ids) - n,
            only_second=len(self.b.ids) - n,
            layers=tuple(self.layer(i) for i in range(n_layers)),
            layers_only_first=tuple(x for x in self.a.layers if x not in self.layers),
            layers_only_second=tuple(x for x in self.b.layers if x not in self.layers),
            path_agreement=same / n,
            path_agreement_interval=wilson(same, n),
            paths_kept=same,
            layers_kept=float(self.unchanged.mean()),
            changed_layers=tuple(np.bincount(changed, minlength=n_layers + 1).tolist()),
            path_adjusted_rand=adjusted_rand(
                count_paths(self.paths_a).of_example, count_paths(self.paths_b).of_example
            ),
            moved=self.examples(agreement.most_moved(changed, self.distances, ids, top)),
            classes=self.majorities[0].classes(),
            class_names=self.classes.names,
            label_names=self.classes.label_names,
            decisions=self.decisions(top),
            migration=self.migration(top),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )

    def layer(self, i: int) -> LayerComparison:
        shared = agreement.contingency(self.paths_a[:, i], self.paths_b[:, i], self.k_a[i], self.k_b[i])
        sizes_a, sizes_b = shared.sum(axis=1).tolist(), shared.sum(axis=0).tolist()
        second_of = {int(first): second for second, first in enumerate(self.matches[i]) if first >= 0}
        pairs: list[tuple[int | None, int | None]] = [(first, second_of.get(first)) for first in range(self.k_a[i])]
        pairs += [(None, second) for second, first in enumerate(self.matches[i]) if first < 0]
        matches = tuple(
            ClusterMatch(
                first=x,
                second=y,
                shared=0 if x is None or y is None else int(shared[x, y]),
                size_first=0 if x is None else sizes_a[x],
                size_second=0 if y is None else sizes_b[y],
            )
            for x, y in pairs
        )
        same, n = int(self.unchanged[:, i].sum()), len(self.unchanged)
        return LayerComparison(
            layer=self.layers[i],
            shared_information=shared_information(self.paths_a[:, i], self.paths_b[:, i]),
            adjusted_rand=adjusted_rand(self.paths_a[:, i], self.paths_b[:, i]),
            agreement=same / n,
            agreement_interval=wilson(same, n),
            matches=matches,
            majority_first=self.majorities[0].of_layer(self.layers[i]),
            majority_second=self.majorities[1].of_layer(self.layers[i]),
        )

    def examples(self, rows: NDArray[np.int64]) -> tuple[ExampleChange, ...]:
        files = self.b.files.take(pa.array(self.at_b[rows])).to_pylist()  # the later names
        return tuple(
            ExampleChange(
                id=int(self.a.ids[self.at_a[row]]),
                file=file or "",
                layers_changed=int((~self.unchanged[row]).sum()),
                path_first=tuple(self.paths_a[row].tolist()),
                path_second=tuple(self.paths_b[row].tolist()),
                path_renamed=tuple(self.renamed[row].tolist()),
                label=int(self.classes.labels[row]),
                prediction_first=int(self.classes.first[row]),
                prediction_second=int(self.classes.second[row]),
            )
            for row, file in zip(rows.tolist(), files, strict=True)
        )

    def decisions(self, top: int) -> Decisions | None:
        x, y, labels = self.classes.first, self.classes.second, self.classes.labels
        known = (x >= 0) & (y >= 0)
        n = int(known.sum())
        if not n:
            return None
        pairs, counts = np.unique(np.stack([x[known], y[known]], axis=1), axis=0, return_counts=True)
        order = np.lexsort((-counts, pairs[:, 0] == pairs[:, 1]))
        listed = []
        for place, at in enumerate(order.tolist()):
            first, second = pairs[at].tolist()
            shown = np.flatnonzero((x == first) & (y == second))[:EXAMPLES_OF_A_CHANGE] if place < top else ()
            examples = self.examples(np.asarray(shown, np.int64)) if first != second else ()
            listed.append(DecisionCount(first=first, second=second, count=int(counts[at]), examples=examples))
        changed = int((x != y)[known].sum())
        labelled = (
            known & (labels >= 0) & (not self.classes.label_names)
        )  # indices of different classes are not comparable
        return Decisions(
            num_examples=n,
            changed=changed,
            changed_interval=wilson(changed, n),
            num_labelled=int(labelled.sum()),
            right_first=int((x == labels)[labelled].sum()),
            right_second=int((y == labels)[labelled].sum()),
            counts=tuple(listed),
        )

    def migration(self, top: int) -> Migration:
        found = agreement.migrations(self.paths_a, self.paths_b, top)
        return Migration(
            first=_largest(found.first, top, None),
            second=_largest(found.second, top, self.matches),
            counts=tuple(tuple(row) for row in found.counts.tolist()),
        )


def _largest(paths: PathCounts, top: int, matches: list[NDArray[np.int64]] | None) -> tuple[PathCount, ...]:
    return tuple(
        PathCount(
            path=tuple(path),
            renamed=tuple(path if matches is None else [int(m[c]) for m, c in zip(matches, path, strict=True)]),
            count=count,
        )
        for path, count in zip(paths.paths[:top].tolist(), paths.counts[:top].tolist(), strict=True)
    )

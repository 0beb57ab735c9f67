"""One set in memory: its columns, and cached lookups.

Belongs here: rows by id, cluster and path, and sort orders. The other modules of this package build records;
`sets/published.py` and `sets/external.py` read the set.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clusterpaths.common.lru import LRUCache
from clusterpaths.errors import NotFoundError
from clusterpaths.explore.records import ClassShare, ExampleRow, SetSummary
from clusterpaths.metrics.ood import DistanceScale
from clusterpaths.metrics.paths import Majorities, PathCounts, majority_classes
from clusterpaths.sets.cached_examples import TopScores
from clusterpaths.sets.external import ExternalSet
from clusterpaths.sets.maps import Maps
from clusterpaths.sets.published import PublishedSet

Rows = NDArray[np.int64]
T = TypeVar("T")
TOP_SCORES = 10
_ANSWERS = 64  # of clusters and paths
_ANSWER = 240_000  # bytes that one takes at most, in records


class SetIndex:
    """n examples, L layers, p occupied paths. Rows are positions in the order of ids. Immutable and thread-safe."""

    def __init__(self, source: PublishedSet | ExternalSet, summary: SetSummary | None = None) -> None:
        """Reads everything of `source` but the attributes.

        Raises:
            CacheError: its files are missing, corrupted or inconsistent.
        """
        self.source, self.record, self.folder = source, source.record, source.folder
        self.summary = summary or summarise_set(source)
        self.layers, self.k = source.layers, source.k
        self.ids, self.clusters, self.distances = source.ids, source.clusters, source.distances
        self.labels, self.predictions = source.labels, source.predictions
        self.splits, self.split_names = source.splits, source.split_names  # (n,) index into the names, -1: not known
        self.files = source.files  # pyarrow.Array, or None
        self.keys = source.keys if isinstance(source, ExternalSet) else None  # pyarrow.Array: as paths.json has them
        self.same_classes, self.class_name, self.label_name = source.same_classes, source.class_name, source.label_name
        self.paths: PathCounts = source.paths
        self.scale: DistanceScale | None = None
        self.standardised: NDArray[np.float32] | None = None  # (n, L)
        self.ood: NDArray[np.float64] | None = None  # (n,)
        self.overall: NDArray[np.float64] | None = None  # (n,) distance in all layers together
        if isinstance(source, PublishedSet) and len(self.ids):
            self.scale = source.distance_scale
            self.standardised, self.ood = source.scores.standardised, source.scores.ood
            self.overall = source.overall_distances
        self._once: LRUCache[Any] = LRUCache(float("inf"))
        self._answers: LRUCache[Any] = LRUCache(_ANSWERS)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def name(self) -> str:
        return f"{self.summary.model}/{self.summary.set}"

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, including those computed later, and of cached answers."""
        n, n_layers = self.clusters.shape
        arrays = n * (104 + 38 * n_layers + len(self.attribute_names) + 8 * TOP_SCORES) + self.paths.paths.nbytes * 4
        keys = 0 if self.keys is None else self.keys.nbytes
        return int(arrays + keys + _ANSWERS * _ANSWER)

    # Names -------------------------------------------------------------------------------------------------------

    def layer_index(self, name: str) -> int:
        """Raises: NotFoundError."""
        if name not in self.layers:
            raise NotFoundError(f"{self.name} has no layer {name[:80]!r}. It has {', '.join(self.layers)}.")
        return self.layers.index(name)

    def require_cluster(self, layer: int, cluster: int) -> None:
        """Raises: NotFoundError."""
        if not 0 <= cluster < self.k[layer]:
            raise NotFoundError(
                f"{self.name} has no cluster {cluster} in layer {self.layers[layer]}. It has 0 to {self.k[layer] - 1}."
            )

    # Rows --------------------------------------------------------------------------------------------------------

    def row_of(self, example: int) -> int:
        """Raises: NotFoundError."""
        row = int(np.searchsorted(self.ids, example)) if abs(example) < 1 << 62 else len(self)
        if row == len(self) or self.ids[row] != example:
            between = f", from {self.ids[0]} to {self.ids[-1]}" if len(self) else ""
            raise NotFoundError(f"{self.name} has no example {example}. It has {len(self):,}{between}.")
        return row

    def members(self, layer: int, cluster: int) -> Rows:
        """Rows of a cluster, nearest to the centroid first, ties by id; by id where the set has no distances."""
        self.require_cluster(layer, cluster)
        order = self.order(("layer", layer), lambda: self._by_cluster(layer))
        ends = np.cumsum(self.sizes[layer])
        return order[ends[cluster] - self.sizes[layer][cluster] : ends[cluster]]

    def on_path(self, position: int) -> Rows:
        """Rows on the path at this position of `paths`, nearest in all layers together first, ties by id."""
        order = self.order("path", self._by_path)
        return order[self._path_starts[position] : self._path_starts[position + 1]]

    def path_rank(self, path: tuple[int, ...]) -> int:
        """The position in `paths` (0: most frequent).

        Raises:
            NotFoundError: no example took it.
        """
        position = self._path_positions.get(np.array(path, np.int64).tobytes()) if len(path) == len(self.k) else None
        if position is None:
            shown = "-".join(map(str, path[:100]))
            raise NotFoundError(
                f"No example of {self.name} took the path {shown}. {len(self.paths.counts):,} paths are occupied."
            )
        return position

    def file(self, row: int) -> str:
        """Empty where the set has no images."""
        return "" if self.files is None else str(self.files[row].as_py() or "")

    def order(self, key: Hashable, make: Callable[[], Rows]) -> Rows:
        """All n rows in an order; stored as int32 if that is enough."""
        return self.once(("order", key), lambda: make().astype(np.int32 if len(self) < 1 << 31 else np.int64))

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Computed at first use, by one thread, and cached as long as the index."""
        found: T = self._once.get(key, make)
        return found

    def has(self, key: Hashable) -> bool:
        """Whether `once` has computed this."""
        return key in self._once

    def answer(self, key: Hashable, make: Callable[[], T]) -> T:
        """The answer to a question, computed once; only the last ones are cached."""
        found: T = self._answers.get(key, make)
        return found

    def examples(
        self, rows: NDArray[np.integer], distances: NDArray[np.floating] | None = None
    ) -> tuple[ExampleRow, ...]:
        """These rows as records; `distances` has one value per row."""
        at = np.asarray(rows, np.int64)
        files = [""] * len(at) if self.files is None else self.files.take(pa.array(at)).to_pylist()
        rights = self.right[at].tolist()
        return tuple(
            ExampleRow(
                id=example,
                file=file or "",
                split=self.split_names[split] if split >= 0 else "",
                label=self.label_name(label) if label >= 0 else None,
                prediction=self.class_name(prediction) if prediction >= 0 else None,
                right=bool(right) if right >= 0 else None,
                path=tuple(path),
                path_count=count,
                ood_score=ood,
                distance=distance,
            )
            for example, file, split, label, prediction, right, path, count, ood, distance in zip(
                self.ids[at].tolist(),
                files,
                self.splits[at].tolist(),
                self.labels[at].tolist(),
                self.predictions[at].tolist(),
                rights,
                self.clusters[at].tolist(),
                self.paths.counts[self.paths.of_example[at]].tolist(),
                [None] * len(at) if self.ood is None else self.ood[at].tolist(),
                [None] * len(at) if distances is None else distances.tolist(),
                strict=True,
            )
        )

    # Computed once ---------------------------------------------------------------------------------------------

    @cached_property
    def sizes(self) -> tuple[NDArray[np.int64], ...]:
        """Examples in each cluster: (k,) for each layer."""
        return tuple(np.bincount(self.clusters[:, i], minlength=k) for i, k in enumerate(self.k))

    @cached_property
    def right(self) -> NDArray[np.int8]:
        """(n,) 1 if the prediction is correct, 0 if not, -1 if not known."""
        known = (self.labels >= 0) & (self.predictions >= 0) & self.same_classes
        return np.where(known, self.labels == self.predictions, -1).astype(np.int8)

    @cached_property
    def attributes(self) -> dict[str, NDArray[np.int8]]:
        """Attribute -> (n,) 1, -1, 0 not known: a row of `attribute_values`."""
        return dict(zip(self.attribute_names, self.attribute_values, strict=True))

    @property
    def attribute_names(self) -> tuple[str, ...]:
        return self._attributes[0]

    @property
    def attribute_values(self) -> NDArray[np.int8]:
        """(attributes, n)."""
        return self._attributes[1]

    @cached_property
    def _attributes(self) -> tuple[tuple[str, ...], NDArray[np.int8]]:
        """Raises: CacheError: the cache has a table of its examples that cannot be read."""
        found = self.source.read_attributes()
        values = np.stack(list(found.values())) if found else np.empty((0, len(self.ids)), np.int8)
        return tuple(found), values

    @cached_property
    def attribute_totals(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many examples have each attribute, and of how many that is known: (attributes,) each."""
        return (self.attribute_values == 1).sum(axis=1), (self.attribute_values != 0).sum(axis=1)

    def ood_percentile(self, score: float) -> float | None:
        """Percent of the examples whose score is lower, each held out (`PublishedSet.held_out_ood`); None without distances."""
        if self.ood is None or not isinstance(self.source, PublishedSet):
            return None
        return 100 * int(np.searchsorted(self.source.held_out_ood, score)) / len(self)

    def layers_shared(self, path: NDArray[np.integer]) -> NDArray[np.int16]:
        """(p,) number of layers in which each occupied path equals this one, (L,)."""
        shared = np.zeros(len(self.paths.counts), np.int16)
        for column, cluster in zip(self._path_columns, path.tolist(), strict=True):
            shared += column == cluster
        return shared

    def competition_rank(self, count: int) -> int:
        """1 + how many paths are more frequent than `count`."""
        return 1 + int(np.searchsorted(self._falling_counts, -count))

    @cached_property
    def path_predictions(self) -> Majorities:
        return majority_classes(self.paths.of_example, self.predictions, len(self.paths.counts))

    @cached_property
    def path_labels(self) -> Majorities:
        return majority_classes(self.paths.of_example, self.labels, len(self.paths.counts))

    def top_scores(self, row: int) -> tuple[ClassShare, ...]:
        """The most probable classes of one example; none without class scores."""
        found = self.all_top_scores()
        if found is None:
            return ()
        record = self.source.record
        name = record.output_name if record else self.class_name
        pairs = zip(found[0][row].tolist(), found[1][row].tolist(), strict=True)
        return tuple(
            ClassShare(index=index, name=name(index), count=0, share=share) for index, share in pairs if index >= 0
        )

    def all_top_scores(self) -> TopScores | None:
        """Of every example, classes and probabilities; read at first use, which takes seconds for a large set."""
        source = self.source
        if isinstance(source, ExternalSet):
            return None
        if not source.record.meaning.is_multi_label and not (self.predictions >= 0).any():
            return None
        return self.once("scores", lambda: source.read_top_scores(TOP_SCORES))

    @property
    def confidence(self) -> NDArray[np.float32] | None:
        """(n,) probability of the predicted class, NaN where not known; None without class scores or predictions.

        Raises:
            CacheError: the cache's class scores are there and cannot be read.
        """
        return self.once("confidence", self._confidence)

    def _confidence(self) -> NDArray[np.float32] | None:
        found = self.all_top_scores()
        if found is None or not (self.predictions >= 0).any():
            return None
        classes, shares = found
        own = (classes == self.predictions[:, None]) & (classes >= 0)
        return np.where(own.any(axis=1), np.where(own, shares, 0).sum(axis=1), np.nan).astype(np.float32)

    def map_points(self, layer: int) -> NDArray[np.float32]:
        """(n, 2) a layer's map; read at first use.

        Raises:
            NotFoundError: the set has no maps.
            CacheError: they cannot be read.
        """
        return self.once(("map", layer), lambda: self.require_maps().points(self.layers[layer]))

    @cached_property
    def maps(self) -> Maps | None:
        """Where the examples lie in each layer; None in sets from before there were maps, and of other programs."""
        return self.source.maps if isinstance(self.source, PublishedSet) else None

    def require_maps(self) -> Maps:
        """Raises: NotFoundError."""
        if self.maps is None:
            raise NotFoundError(
                f"{self.name} has no maps of its layers: it was published before there were maps, or by another program. "
                "Run the flow again to add them."
            )
        return self.maps

    @cached_property
    def _path_columns(self) -> NDArray[np.int16]:
        return np.ascontiguousarray(self.paths.paths.T, np.int16)  # (L, p)

    @cached_property
    def _falling_counts(self) -> NDArray[np.int64]:
        return -self.paths.counts

    @cached_property
    def _path_starts(self) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(self.paths.counts)])

    @cached_property
    def _path_positions(self) -> dict[bytes, int]:
        return {path.tobytes(): position for position, path in enumerate(self.paths.paths)}

    def _by_cluster(self, layer: int) -> Rows:
        own = self.clusters[:, layer]
        if self.distances is None:
            return np.argsort(own, kind="stable")
        return np.lexsort((self.distances[:, layer], own))  # stable: ties stay by id

    def _by_path(self) -> Rows:
        if self.overall is None:
            return np.argsort(self.paths.of_example, kind="stable")
        return np.lexsort((self.overall, self.paths.of_example))


def summarise_set(source: PublishedSet | ExternalSet, version: str = "") -> SetSummary:
    """Summary of a set; `version` changes when it is replaced."""
    record = source.record
    return SetSummary(
        model=source.cache.name,
        set=source.path.name,
        num_examples=source.num_examples,
        layers=source.layers,
        k_per_layer=dict(zip(source.layers, source.k, strict=True)),
        distance=record.distance if record else None,
        dataset=record.dataset if record else "",
        data_set_title=record.data_set_title if record else "",
        model_file=record.model.file if record else "",
        created=record.created if record else "",
        version=version,
    )


def class_shares(classes: NDArray[np.integer], name: Callable[[int], str]) -> tuple[ClassShare, ...]:
    """The known classes among these (n,), most frequent first, then the lower index."""
    known = classes.compress(classes >= 0)
    if not len(known):
        return ()
    counts = np.bincount(known)
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    return tuple(
        ClassShare(index=index, name=name(index), count=count, share=count / len(known))
        for index, count in zip(order.tolist(), counts[order].tolist(), strict=True)
    )


def majority(found: Majorities, group: int, name: Callable[[int], str]) -> ClassShare | None:
    """One group's most frequent class."""
    index = int(found.best[group])
    if index < 0:
        return None
    count = int(found.counts[group])
    return ClassShare(index=index, name=name(index), count=count, share=count / int(found.known[group]))


def right_share(index: SetIndex, rows: NDArray[np.integer]) -> ClassShare | None:
    """Share of correct predictions among these rows; None if none is known."""
    right = index.right[rows]
    known, count = int((right >= 0).sum()), int((right == 1).sum())
    return ClassShare(index=1, name="right", count=count, share=count / known) if known else None

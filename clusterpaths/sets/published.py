"""The published set: one class for all readers; parts are read at first use and cached.

Belongs here: set.json, paths.parquet and centroids.npz, from disk to checked arrays, and shared derived values. Queries
are in `explore/`, sets of other programs in `external.py`, writing in `publish.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydantic
from numpy.typing import NDArray

from clusterpaths.cache.fit_sample import draw_ids, fit_size
from clusterpaths.cache.manifest import read_manifest
from clusterpaths.common.corrupted import reading, what_does_not_fit
from clusterpaths.errors import CacheError
from clusterpaths.metrics.alignment import UnseenRule, choose_unseen_rule
from clusterpaths.metrics.ood import DistanceScale, held_out_scores, overall_distance, scale_distances
from clusterpaths.metrics.paths import PathCounts, Purity, count_paths, purity
from clusterpaths.records import CacheDtype, SetRecord
from clusterpaths.sets.attributes import ATTRIBUTES, read_own_attributes
from clusterpaths.sets.cached_examples import TopScores, read_stored_attributes, read_top_scores
from clusterpaths.sets.columns import Classes, Columns, read_columns
from clusterpaths.sets.conveniences import Conveniences
from clusterpaths.sets.directory import CENTROIDS, PATHS, RECORD, SetDirectory
from clusterpaths.sets.maps import AXES, MAPS, POINTS, Maps
from clusterpaths.storage import StorageLike


@dataclass(frozen=True)
class Scores:
    """How far each of n examples lies from the centroids on its path."""

    standardised: NDArray[np.float32]  # (n, L) spreads above the mean of the cluster's examples
    ood: NDArray[np.float64]  # (n,) their mean over layers: the OOD score


class PublishedSet(Conveniences, SetDirectory):
    """A set that ClusterPaths published; n examples, L layers.

    Thread-safe. It is pickled as its address and its record, without arrays: it is passed between tasks and machines.
    """

    def __init__(self, folder: StorageLike, record: SetRecord, columns: Columns | None = None) -> None:
        """`columns`: those of paths.parquet, if available; else they are read at first use."""
        super().__init__(folder)
        self.record = record
        if columns:
            self.__dict__["columns"] = columns  # where a cached property stores its value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublishedSet) and (self.folder, self.record) == (other.folder, other.record)

    def __hash__(self) -> int:
        return hash((self.folder, self.record.fingerprint))

    def __repr__(self) -> str:
        return f"PublishedSet({self.folder})"

    def __reduce__(self) -> tuple[Any, ...]:
        return PublishedSet, (self.folder.address, self.record)

    @property
    def layers(self) -> tuple[str, ...]:
        return self.record.layers

    @property
    def k(self) -> tuple[int, ...]:
        """Clusters of each layer."""
        return tuple(self.record.k_per_layer[layer] for layer in self.record.layers)

    @property
    def num_examples(self) -> int:
        return self.record.num_examples

    @property
    def same_classes(self) -> bool:
        """See `SetRecord.same_classes`."""
        return self.record.same_classes

    def class_name(self, index: int) -> str:
        """A prediction's class."""
        return self.record.class_name(index)

    def label_name(self, index: int) -> str:
        """A label's class."""
        return self.record.label_name(index)

    # paths.parquet -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check that paths.parquet exists and matches the record; its values are not read.

        Raises:
            CacheError: its files are missing, corrupted or inconsistent.
        """
        if unknown := [layer for layer in self.layers if layer not in self.record.k_per_layer]:
            raise CacheError(f"{self.path / RECORD} has no k for {', '.join(unknown)}. Publish the set again.")
        path = self.file(PATHS)
        try:
            with reading():
                rows = pq.read_metadata(path).num_rows
        except (OSError, ValueError) as error:
            raise CacheError(
                f"{path} cannot be read: {error}. Expected the paths of a set; publish it again."
            ) from error
        self._require_rows(rows)

    @cached_property
    def columns(self) -> Columns:
        """All of paths.parquet that every reader needs.

        Raises:
            CacheError: the file is missing, lacks a column, or does not match the record.
        """
        found = read_columns(self.file(PATHS), self.layers)
        self._require_fitting(found)
        return found

    @property
    def ids(self) -> NDArray[np.int64]:
        """(n,) ascending."""
        return self.columns.ids

    @property
    def labels(self) -> Classes:
        """(n,), -1: none."""
        return self.columns.labels

    @property
    def predictions(self) -> Classes:
        """(n,), -1: none."""
        return self.columns.predictions

    @property
    def clusters(self) -> NDArray[np.int16]:
        """(n, L) the cluster paths."""
        return self.columns.clusters

    @property
    def distances(self) -> NDArray[np.float32]:
        """(n, L) to the own centroid."""
        return self.columns.distances

    @property
    def files(self) -> Any:
        """pyarrow.Array of n strings; not converted to Python strings."""
        return self.columns.files

    @cached_property
    def contents(self) -> NDArray[np.uint64] | None:
        """(n,) digests of what the examples' files held; None in sets from before they were recorded.

        Raises:
            CacheError: paths.parquet cannot be read.
        """
        path = self.file(PATHS)
        try:
            with reading(), pq.ParquetFile(path) as file:
                table = file.read(columns=["digest"])
                if "digest" not in table.column_names or table["digest"].null_count:
                    return None
                found: NDArray[np.uint64] = table["digest"].cast(pa.uint64()).to_numpy()
        except (OSError, ValueError) as error:
            raise CacheError(f"{path} cannot be read: {error}. Publish the set again.") from error
        return found

    @property
    def splits(self) -> NDArray[np.int16]:
        """(n,) index into split_names, -1: not known."""
        return self.columns.splits

    @property
    def split_names(self) -> tuple[str, ...]:
        return self.columns.split_names

    def _require_rows(self, rows: int) -> None:
        if rows != self.record.num_examples:
            raise CacheError(
                f"{self.path / PATHS} has {rows:,} examples; set.json says {self.record.num_examples:,}. They do not "
                "match; publish the set again."
            )

    def _require_fitting(self, columns: Columns) -> None:
        path = self.path / PATHS
        for column, layer in zip(columns.clusters.T, self.layers, strict=True):
            k = self.record.k_per_layer.get(layer, 0)
            if len(column) and not (column.min() >= 0 and column.max() < k):
                raise CacheError(
                    f"{path} has cluster ids {column.min()} to {column.max()} in layer {layer}; "
                    f"set.json says k={k}, so 0 to {k - 1} were expected. Publish the set again."
                )
        if (str(columns.ids.dtype), str(columns.distances.dtype)) != ("int64", "float32"):
            raise CacheError(
                f"{path} has ids of {columns.ids.dtype} and distances of {columns.distances.dtype}. Expected int64 and "
                "float32, without gaps; publish the set again."
            )
        if len(columns.ids) > 1 and not (np.diff(columns.ids) > 0).all():
            raise CacheError(f"{path} has ids that do not ascend. Expected each once; publish the set again.")
        self._require_rows(len(columns.ids))

    # Derived ------------------------------------------------------------------------------------------------

    @cached_property
    def paths(self) -> PathCounts:
        """The occupied paths, most frequent first."""
        return count_paths(self.clusters)

    @cached_property
    def purities(self) -> dict[str, Purity]:
        """Path purity with "labels" and with "predictions", beside chance; without one of which no class is known."""
        record = self.record
        recorded = {
            "labels": (record.purity_labels, record.chance_labels, self.labels),
            "predictions": (record.purity_predictions, record.chance_predictions, self.predictions),
        }
        found = {
            name: Purity(value, chance)
            if value is not None and chance is not None
            else purity(self.paths.of_example, classes)  # of sets from before chance was recorded
            for name, (value, chance, classes) in recorded.items()
        }
        return {name: one for name, one in found.items() if one}

    @cached_property
    def distance_scale(self) -> DistanceScale:
        """How far examples of each cluster lie from its centroid; n > 0."""
        return scale_distances(self.clusters, self.distances, self.k)

    @cached_property
    def scores(self) -> Scores:
        """The OOD score of the set's own examples; n > 0."""
        exact = self.distance_scale.standardise(self.clusters, self.distances)
        return Scores(exact.astype(np.float32), exact.mean(axis=1))

    @cached_property
    def fitted(self) -> NDArray[np.bool_]:
        """(n, L) whether the layer's centroids were fitted on the example."""
        fitted = np.ones(self.clusters.shape, np.bool_)
        if self.record.config.get("fit") != "all":
            for i, k in enumerate(self.k):
                fitted[:, i] = np.isin(self.ids, draw_ids(self.ids, fit_size(k)), assume_unique=True)
        return fitted

    @cached_property
    def held_out_scores(self) -> NDArray[np.float64]:
        """(n,) the OOD scores that the examples would have if each were held out; n > 0."""
        return held_out_scores(self.clusters, self.distances, self.k, self.record.distance, self.fitted)

    @cached_property
    def held_out_ood(self) -> NDArray[np.float64]:
        """(n,) `held_out_scores`, ascending."""
        return np.sort(self.held_out_scores)

    @cached_property
    def unseen_rule(self) -> UnseenRule:
        """How a path that no example took predicts the decision: what is right more often in cross-validation."""
        return choose_unseen_rule(self.clusters, self.predictions)

    @cached_property
    def overall_distances(self) -> NDArray[np.float64]:
        """(n,) over all layers."""
        return overall_distance(self.distances)

    # Large, so not cached ---------------------------------------------

    def read_centroids(self) -> dict[str, NDArray[np.float32]]:
        """Layer -> (k, width) float32.

        Raises:
            CacheError: centroids.npz cannot be read, or does not match the record.
        """
        path = self.file(CENTROIDS)
        try:
            with path.open("rb") as opened, reading(), np.load(opened) as file:
                found = {layer: np.asarray(file[layer], np.float32) for layer in self.layers}
        except (OSError, ValueError) as error:
            raise CacheError(
                f"{path} cannot be read: {error}. Expected the set's centroids; publish the set again."
            ) from error
        for layer, rows in found.items():
            if rows.ndim != 2 or len(rows) != self.record.k_per_layer[layer]:
                raise CacheError(
                    f"{path} has centroids of shape {rows.shape} in layer {layer}; set.json says k="
                    f"{self.record.k_per_layer[layer]}. They do not match; publish the set again."
                )
        return found

    def read_attributes(self) -> dict[str, NDArray[np.int8]]:
        """Attribute -> (n,): 1, -1, 0 not known; empty where there was none when the set was made.

        Of a set from before sets had their own: those that were stored in the cache with its activations.

        Raises:
            CacheError: they are there and cannot be read.
        """
        if not self.record.attributes:
            return {}
        own = self.file(ATTRIBUTES)
        if own.is_file():
            return read_own_attributes(own, self.num_examples)
        return read_stored_attributes(self.cache, self.ids)

    @property
    def maps(self) -> Maps | None:
        """Where the examples lie in each layer; None in sets from before there were maps."""
        path, points = self.file(MAPS), self.file(POINTS)
        return Maps(path, self.layers, self.num_examples, points) if path.is_file() else None

    def require_maps(self) -> Maps:
        """Raises: CacheError: the set has no maps."""
        maps = self.maps
        if maps is None:
            raise CacheError(
                f"{self.path} was published before there were maps. Run again with the same options to add them."
            )
        return maps

    @property
    def has_maps(self) -> bool:
        """Whether it has maps, with their axes, that can be read: all of them are. Points by UMAP are not: `sets/points.py`."""
        path = self.file(MAPS)
        if not path.is_file():
            return False
        try:
            Maps(path, self.layers, self.num_examples).check()
            # opened here: numpy leaves what is no archive open
            with self.file(AXES).open("rb") as opened, reading(), np.load(opened) as file:
                for name in file.files:
                    file[name]
        except (CacheError, OSError, ValueError):
            return False
        return True

    def read_top_scores(self, top: int) -> TopScores | None:
        """The most probable classes of each example; None where the cache has no scores, or those of another model.

        Raises:
            CacheError: the cache's examples.parquet is there and cannot be read.
        """
        if not self.is_of_cache():
            return None
        return read_top_scores(self.cache, self.ids, top, self.record.outputs)

    def is_of_cache(self) -> bool:
        """Whether the cache still is of the model and preprocessing that the set was made with.

        Not after --refresh with others. Without a manifest there is nothing that speaks against it.
        """
        try:
            manifest = read_manifest(self.folder.resolve().parent)
        except CacheError:
            return False
        if manifest is None:
            return True
        unnamed = (one.preprocessing.model_copy(update={"name": ""}) for one in (manifest, self.record))
        return manifest.model.sha256 == self.record.model.sha256 and next(unnamed) == next(unnamed)

    def stored_dtypes(self) -> tuple[dict[str, CacheDtype], list[str]]:
        """dtype of each layer in the set's cache, and a warning if it is no longer known (then float32)."""
        record, manifest = self.record, read_manifest(self.folder.resolve().parent)
        if (
            manifest is None
            or manifest.model.sha256 != record.model.sha256
            or set(record.layers) - set(manifest.layers)
        ):
            return dict.fromkeys(record.layers, "float32"), [
                f"The cache that {record.set} was made of no longer exists, so activations are not rounded as in the "
                "cache: an image between two centroids may be assigned to the other one."
            ]
        return {layer: manifest.layers[layer].dtype for layer in record.layers}, []


def open_set(folder: StorageLike) -> PublishedSet:
    """A set's directory; only its record is read at once.

    Raises:
        CacheError: it has no valid record.
    """
    document = SetDirectory(folder).file(RECORD)
    try:
        return PublishedSet(folder, SetRecord.model_validate_json(document.read_bytes()))
    except FileNotFoundError as error:
        raise CacheError(
            f"{document} does not exist. Expected the directory of a published set, with set.json and paths.parquet."
        ) from error
    except pydantic.ValidationError as error:
        raise CacheError(
            f"{document} is not the record of a set: {what_does_not_fit(error)} ({error.error_count()} problems in all). "
            "Expected a set of this version of the program; publish the set again."
        ) from error

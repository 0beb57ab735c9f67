"""`ClusterPaths`: cluster paths of activations that are arrays, as a scikit-learn estimator.

Belongs here: scikit-learn's conventions. The numerics are those of the pipeline (`kmeans.py`, `assign.py`), and so are the
results on the same rows, in the same precision, with the same seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from clusterpaths.cache.fit_sample import FIT_ROWS, draw_ids, fit_size
from clusterpaths.cache.rows import block_rows
from clusterpaths.clustering import kmeans
from clusterpaths.clustering.arrays import (
    SINGLE,
    ArrayRows,
    ArrivingSample,
    check_classes,
    check_ids,
    check_layers,
    read_block,
    select_layers,
)
from clusterpaths.clustering.assign import Assigner
from clusterpaths.clustering.choose import FEWEST_EXAMPLES, choose
from clusterpaths.clustering.reading import Rows
from clusterpaths.common.text import did_you_mean
from clusterpaths.config import AUTO, MAX_K
from clusterpaths.errors import ArraysError
from clusterpaths.metrics.paths import count_paths, purity
from clusterpaths.records import Distance

_STATE = ("_arriving", "_centroids", "_next_id")  # of a fit, beside the public attributes


class ClusterPaths(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """k-means of each layer's activations; an example's cluster in every layer is its cluster path.

        paths = cp.ClusterPaths(n_clusters=5).fit_predict({"layer3": X3, "avgpool": X4})   # (n, 2) integers

    X is a dict of layer names to arrays (n, …) of the same n examples, in the order of the layers; or one array, as a
    single layer. Arrays may be memory-mapped: they are read in blocks.

    Args:
        n_clusters: per layer; a dict of layers to numbers; or "auto", chosen by decision alignment where `fit` is given
            predictions, and by stability where not.
        distance: "cosine" (spherical k-means, Dhillon and Modha 2001), "euclidean", or "auto".
        fit_on: "sample": a layer is fitted on a uniform sample of 800 examples per cluster, at least 4,096, as in the
            pipeline; "all": on all.
        random_state: an integer gives the same result every time; the pipeline's seed.

    Attributes:
        layers_ (tuple[str, ...]): names of the layers.
        cluster_centers_ (dict[str, NDArray[float32]]): layer -> (k, width) float32; for cosine of unit length.
        n_clusters_ (dict[str, int]): layer -> k.
        distance_ (str): "cosine" or "euclidean".
        labels_ (NDArray[int16]): (n, layers), the cluster paths of the examples given to `fit`.
        distances_ (NDArray[float32]): (n, layers), to the own centroid: 1 - cosine, or Euclidean.
        purity_ (Purity | None): with predictions: path purity, and its value by chance (`clusterpaths.metrics.paths.Purity`);
            else None.
        n_features_in_ (int): values per example where X is one matrix.
    """

    def __init__(
        self,
        n_clusters: int | Mapping[str, int] | Literal["auto"] = 5,
        *,
        distance: Distance | Literal["auto"] = "cosine",
        fit_on: Literal["sample", "all"] = "sample",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.distance = distance
        self.fit_on = fit_on
        self.random_state = random_state

    # Fitting -------------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, *, predictions: Any = None, ids: Any = None) -> Self:  # noqa: ARG002
        """Fit every layer, and assign all examples.

        Args:
            X: dict of layer names to arrays (n, …), or one array.
            y: ignored; scikit-learn's convention.
            predictions: (n,) class indices that the model predicts, -1 for none.
            ids: (n,) ascending ids of the examples, by which the sample is drawn: those of a published set, for the same
                sample. Counted from 0 if left out.

        Raises:
            ArraysError: (a ValueError) X, predictions or a parameter is not as described.
        """
        arrays = self._begin(X)
        n = len(arrays[self.layers_[0]])
        numbers = check_ids(ids, n)
        classes = None if predictions is None else check_classes(predictions, n)
        self.n_clusters_, self.distance_ = self._choose(arrays, numbers, classes)
        rows = {}
        for layer, values in arrays.items():
            own = numbers if self.fit_on == "all" else draw_ids(numbers, fit_size(self.n_clusters_[layer]))
            rows[layer] = ArrayRows(layer, values, np.searchsorted(numbers, own))
        self._centroids: dict[str, NDArray[np.float32]] | None = self._fit_layers(rows)
        self.labels_, self.distances_ = self._assign(arrays)
        self.purity_ = None if classes is None else purity(count_paths(self.labels_).of_example, classes)
        return self

    def partial_fit(self, X: Any, y: Any = None, *, ids: Any = None) -> Self:  # noqa: ARG002
        """Take the next batch of examples; each example once.

        Only the sample that a layer is fitted on is stored. Layers are fitted on it when a result is first needed, to the
        same centroids as by `fit` with all examples at once. There are no `labels_` then: call `predict` per batch. After
        `fit`, it starts anew.

        Args:
            X: as in `fit`, of the batch.
            y: ignored.
            ids: (n,) ascending ids of the examples of this batch; counted on if left out.

        Raises:
            ArraysError: as in `fit`; or the settings need all examples at once.
        """
        first = not hasattr(self, "_arriving")
        arrays = self._begin(X) if first else self._given(X)
        if first:
            asked = self._asked_k()
            if self.fit_on == "all" or self.distance == "auto" or None in asked.values():
                raise ArraysError(
                    f"partial_fit stores a sample of the examples only, got fit_on={self.fit_on!r}, distance="
                    f"{self.distance!r}, n_clusters={self.n_clusters!r}. Expected 'sample', a distance and numbers; or use "
                    "fit, which reads memory-mapped arrays in blocks."
                )
            self.n_clusters_ = {layer: k for layer, k in asked.items() if k}
            self.distance_ = self.distance
            self._arriving = {layer: ArrivingSample(fit_size(k)) for layer, k in self.n_clusters_.items()}
            self._next_id = 0
        numbers = check_ids(ids, len(arrays[self.layers_[0]]), self._next_id)
        for layer, values in arrays.items():
            self._arriving[layer].require_new(numbers)  # before any layer takes the batch: all do, or none
            read_block(layer, values)
        for layer, values in arrays.items():
            self._arriving[layer].add(layer, numbers, values)
        self._next_id = max(self._next_id, int(numbers[-1]) + 1)
        self._centroids = None
        return self

    def fit_predict(self, X: Any, y: Any = None, *, predictions: Any = None, ids: Any = None) -> NDArray[np.int16]:
        """`fit`, and the cluster paths (n, layers)."""
        labels: NDArray[np.int16] = self.fit(X, y, predictions=predictions, ids=ids).labels_
        return labels

    def _fit_layers(self, rows: Mapping[str, Rows]) -> dict[str, NDArray[np.float32]]:
        seed, found = self._seed(), {}
        for layer, own in rows.items():
            k = self.n_clusters_[layer]
            if len(own) < k:
                raise ArraysError(
                    f"n_samples={len(own)} should be at least n_clusters={k} (layer {layer}). Give more examples, or ask for "
                    "fewer clusters."
                )
            found[layer] = kmeans.fit(own, k, self.distance_, seed).centroids
        return found

    # Results -------------------------------------------------------------------------------------------------------

    def predict(self, X: Any) -> NDArray[np.int16]:
        """The cluster paths (n, layers) of examples: in every layer the nearest centroid.

        Raises:
            ArraysError: X lacks a layer, or is not as described in `fit`.
            sklearn.exceptions.NotFittedError: before `fit`.
        """
        check_is_fitted(self)
        return self._assign(self._given(X))[0]

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Distances (n, sum of k) to all centroids, layer by layer: 1 - cosine, or Euclidean. Raises as `predict`."""
        check_is_fitted(self)
        found = []
        for layer, values in self._given(X).items():
            one = Assigner(self.cluster_centers_[layer], self.distance_)
            found.append(np.concatenate([one.distances(one.products(block)) for block in _blocks(layer, values)]))
        return np.concatenate(found, axis=1)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:  # noqa: ARG002
        """Names of the columns of `transform`: conv3_0, conv3_1 …"""
        check_is_fitted(self)
        return np.array([f"{layer}_{j}" for layer in self.layers_ for j in range(self.n_clusters_[layer])], object)

    @property
    def cluster_centers_(self) -> dict[str, NDArray[np.float32]]:
        """Layer -> (k, width) float32; after `partial_fit`, fitted at the first use."""
        check_is_fitted(self)
        if self._centroids is None:
            self._centroids = self._fit_layers({layer: own.rows(layer) for layer, own in self._arriving.items()})
        return self._centroids

    def _assign(self, arrays: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        """Labels and distances, (n, layers) each."""
        labels, distances = [], []
        for layer, values in arrays.items():
            one = Assigner(self.cluster_centers_[layer], self.distance_)
            found = one.assign([one.products(block) for block in _blocks(layer, values)])
            labels.append(found.labels)
            distances.append(found.distances)
        return np.stack(labels, axis=1), np.stack(distances, axis=1)

    # X and parameters ----------------------------------------------------------------------------------------------

    def _begin(self, X: Any) -> dict[str, NDArray[Any]]:
        """The arrays of X. Their layers are those of the fit that begins; an earlier one is forgotten."""
        _require_one_of("distance", self.distance, ("cosine", "euclidean", AUTO))
        _require_one_of("fit_on", self.fit_on, ("sample", "all"))
        arrays = check_layers(X)
        for name in [name for name in vars(self) if name.endswith("_") or name in _STATE]:
            delattr(self, name)
        self.layers_ = tuple(arrays)
        self._shapes = {layer: values.shape[1:] for layer, values in arrays.items()}
        self._check_names(X, arrays, reset=True)
        return arrays

    def _given(self, X: Any) -> dict[str, NDArray[Any]]:
        """The arrays of X, in the layers that were fitted."""
        arrays = select_layers(check_layers(X), self._shapes)
        self._check_names(X, arrays, reset=False)
        return arrays

    def _check_names(self, X: Any, arrays: Mapping[str, NDArray[Any]], *, reset: bool) -> None:
        """scikit-learn's own checks of one matrix: names of columns, and their number."""
        if not isinstance(X, Mapping) and arrays[SINGLE].ndim == 2:
            validate_data(self, X, reset=reset, skip_check_array=True)

    def _asked_k(self) -> dict[str, int | None]:
        """k of each layer, None to choose it."""
        given = self.n_clusters
        if isinstance(given, Mapping):
            for layer in given:
                if layer not in self.layers_:
                    raise ArraysError(
                        f"n_clusters names the layer {layer!r}, which X does not have.{did_you_mean(str(layer), self.layers_)} "
                        f"Expected {', '.join(self.layers_)}."
                    )
            if missing := [layer for layer in self.layers_ if layer not in given]:
                raise ArraysError(
                    f"n_clusters has no number for {', '.join(missing)}. Give one for every layer of X, or one for all."
                )
        found = dict(given) if isinstance(given, Mapping) else dict.fromkeys(self.layers_, given)
        for layer, k in found.items():
            number = isinstance(k, (int, np.integer)) and not isinstance(k, bool)
            if not (number and 1 <= int(k) <= MAX_K) and not (isinstance(k, str) and k == AUTO):
                raise ArraysError(
                    f"n_clusters should be an integer from 1 to {MAX_K}, or 'auto', got {k!r} instead (layer {layer})."
                )
        return {layer: None if isinstance(found[layer], str) else int(found[layer]) for layer in self.layers_}

    def _choose(
        self, arrays: Mapping[str, NDArray[Any]], ids: NDArray[np.int64], classes: NDArray[np.int64] | None
    ) -> tuple[dict[str, int], Distance]:
        """k of each layer and the distance: those that were given, or chosen as the pipeline chooses them."""
        asked = self._asked_k()
        known = {layer: k for layer, k in asked.items() if k is not None}
        if self.distance != "auto" and len(known) == len(asked):
            return known, self.distance
        at = np.searchsorted(ids, draw_ids(ids, FIT_ROWS))
        rows = {layer: ArrayRows(layer, values, at) for layer, values in arrays.items()}
        if len(at) < FEWEST_EXAMPLES:
            raise ArraysError(
                f"'auto' needs at least {FEWEST_EXAMPLES} examples to choose by, got {len(at)}. Give numbers, and a distance."
            )
        predictions = None if classes is None else classes[at]
        choice = choose(rows, predictions, k=asked, distance=self.distance, seed=self._seed())
        return choice.k_per_layer, choice.distance

    def _seed(self) -> int:
        given = self.random_state
        if isinstance(given, (int, np.integer)) and given >= 0:
            return int(given)
        return int(check_random_state(given).randint(2**31 - 1))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_centroids")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.dict = True
        tags.transformer_tags.preserves_dtype = []  # distances are float32
        return tags


def _blocks(layer: str, values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Rows (m, width) float16 or float32 of an array (n, …): as a cache stores them."""
    step = block_rows(int(np.prod(values.shape[1:])))
    for start in range(0, len(values), step):
        yield read_block(layer, values[start : start + step])


def _require_one_of(name: str, given: Any, expected: tuple[str, ...]) -> None:
    if given not in expected:
        raise ArraysError(f"{name} should be one of {', '.join(map(repr, expected))}, got {given!r} instead.")

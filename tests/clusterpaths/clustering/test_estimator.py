"""`ClusterPaths`: scikit-learn's conventions, and the pipeline's results."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import clusterpaths as cp
from clusterpaths.cache import fit_sample
from clusterpaths.config import RunConfig
from clusterpaths.errors import ArraysError
from tests.clusterpaths.conftest import read_rows, run_stages

NOT_FOR_US = {"check_dtype_object": "arrays of objects are refused: they hide rows of different lengths, and texts"}


def blobs(n: int = 90, width: int = 6, k: int = 3, seed: int = 0) -> NDArray[np.float32]:
    """Rows around k centres, in turn."""
    rng = np.random.default_rng(seed)
    centres = 10 * rng.standard_normal((k, width))
    return (centres[np.arange(n) % k] + 0.1 * rng.standard_normal((n, width))).astype(np.float32)


@pytest.fixture
def layers() -> dict[str, NDArray[np.float32]]:
    return {"conv": blobs(width=24).reshape(90, 2, 3, 4), "fc": blobs(seed=1)}


@pytest.fixture
def small_sample(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fit_sample, "FIT_ROWS", 20)
    monkeypatch.setattr(fit_sample, "FIT_ROWS_PER_CLUSTER", 5)
    return


@parametrize_with_checks([cp.ClusterPaths(n_clusters=3)], expected_failed_checks=lambda _: NOT_FOR_US)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_finds_an_estimator_of_one_array(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.mark.usefixtures("small_sample")
@pytest.mark.parametrize("cache_dtype", ["float16", "float32"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_the_same_rows_and_seed_give_the_pipelines_result(
    configure: Callable[..., RunConfig], cache_dtype: Any, distance: Any
) -> None:
    done = run_stages(configure(cache_dtype=cache_dtype, distance=distance, seed=4))
    X = {layer: read_rows(done, layer).astype(cache_dtype) for layer in done.published.layers}
    found = cp.ClusterPaths(n_clusters=3, distance=distance, random_state=4).fit(X, ids=done.ids)
    np.testing.assert_array_equal(found.labels_, done.published.clusters)
    np.testing.assert_array_equal(found.distances_, done.published.distances)
    for layer, centroids in done.published.read_centroids().items():
        np.testing.assert_array_equal(found.cluster_centers_[layer], centroids)


def test_auto_chooses_what_the_pipeline_chooses(configure: Callable[..., RunConfig]) -> None:
    done = run_stages(configure(k="auto", distance="auto"))
    X = {layer: read_rows(done, layer).astype(np.float16) for layer in done.published.layers}
    found = cp.ClusterPaths("auto", distance="auto").fit(X, ids=done.ids, predictions=done.published.predictions)
    assert (found.n_clusters_, found.distance_) == (done.published.record.k_per_layer, done.published.record.distance)
    np.testing.assert_array_equal(found.labels_, done.published.clusters)


@pytest.mark.usefixtures("small_sample")
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_batches_give_the_centroids_of_all_rows_at_once(layers: dict[str, NDArray[np.float32]], batch: int) -> None:
    at_once = cp.ClusterPaths(n_clusters={"conv": 3, "fc": 6}).fit(layers)
    found = cp.ClusterPaths(n_clusters={"conv": 3, "fc": 6})
    for start in range(0, 90, batch):
        found.partial_fit({layer: values[start : start + batch] for layer, values in layers.items()})
    for layer, centroids in at_once.cluster_centers_.items():
        np.testing.assert_array_equal(found.cluster_centers_[layer], centroids)
    np.testing.assert_array_equal(found.predict(layers), at_once.labels_)
    assert not hasattr(found, "labels_")


@pytest.mark.usefixtures("small_sample")
def test_batches_store_no_more_than_the_sample(layers: dict[str, NDArray[np.float32]]) -> None:
    found = cp.ClusterPaths(n_clusters=3)
    for start in range(0, 90, 30):
        found.partial_fit({layer: values[start : start + 30] for layer, values in layers.items()})
    assert [len(sample.rows(layer)) for layer, sample in found._arriving.items()] == [20, 20]
    assert [len(sample._rows) for sample in found._arriving.values()] == [20, 20]


def test_batches_go_on_after_a_result_was_used(layers: dict[str, NDArray[np.float32]]) -> None:
    found = cp.ClusterPaths(n_clusters=3).partial_fit({layer: values[:40] for layer, values in layers.items()})
    found.predict(layers)
    found.partial_fit({layer: values[40:] for layer, values in layers.items()})
    np.testing.assert_array_equal(found.predict(layers), cp.ClusterPaths(n_clusters=3).fit_predict(layers))


def test_batches_of_float16_and_float32_lose_nothing(layers: dict[str, NDArray[np.float32]]) -> None:
    found = cp.ClusterPaths(n_clusters=3)
    first = layers["fc"][:40].astype(np.float16)
    found.partial_fit({"fc": first}).partial_fit({"fc": layers["fc"][40:]})
    at_once = cp.ClusterPaths(n_clusters=3).fit({"fc": np.concatenate([first.astype(np.float32), layers["fc"][40:]])})
    np.testing.assert_array_equal(found.cluster_centers_["fc"], at_once.cluster_centers_["fc"])


def test_an_example_is_taken_once(layers: dict[str, NDArray[np.float32]]) -> None:
    found = cp.ClusterPaths(n_clusters=3).partial_fit(layers, ids=np.arange(90))
    with pytest.raises(ArraysError, match="Example 89 was in an earlier batch"):
        found.partial_fit({layer: values[:2] for layer, values in layers.items()}, ids=[89, 90])


def test_a_batch_that_cannot_be_used_is_taken_by_no_layer(layers: dict[str, NDArray[np.float32]]) -> None:
    found = cp.ClusterPaths(n_clusters=3).partial_fit({layer: values[:40] for layer, values in layers.items()})
    rest = {layer: values[40:].copy() for layer, values in layers.items()}
    broken = {**rest, "fc": np.full_like(rest["fc"], np.nan)}
    with pytest.raises(ArraysError, match="fc contains NaN"):
        found.partial_fit(broken)
    found.partial_fit(rest)
    np.testing.assert_array_equal(found.predict(layers), cp.ClusterPaths(n_clusters=3).fit_predict(layers))


def test_paths_are_examples_by_layers_and_distances_are_to_all_centroids(
    layers: dict[str, NDArray[np.float32]],
) -> None:
    found = cp.ClusterPaths(n_clusters={"conv": 3, "fc": 4}, distance="euclidean")
    paths = found.fit_predict(layers)
    assert paths.shape == (90, 2)
    assert np.issubdtype(paths.dtype, np.integer)
    for column in paths.T[:1]:  # the three blobs
        assert len({tuple(column[at::3]) for at in range(3)}) == 3
        assert all(len(set(column[at::3])) == 1 for at in range(3))
    distances = found.transform(layers)
    assert distances.shape == (90, 7)
    assert list(found.get_feature_names_out()) == ["conv_0", "conv_1", "conv_2", "fc_0", "fc_1", "fc_2", "fc_3"]
    by_hand = np.linalg.norm(layers["fc"][:, None] - found.cluster_centers_["fc"][None], axis=2)
    np.testing.assert_allclose(distances[:, 3:], by_hand, atol=2e-3)
    np.testing.assert_array_equal(distances[:, 3:].argmin(axis=1), paths[:, 1])
    np.testing.assert_allclose(distances[:, 3:].min(axis=1), found.distances_[:, 1])


def test_predictions_give_the_purity_of_the_paths(layers: dict[str, NDArray[np.float32]]) -> None:
    found = cp.ClusterPaths(n_clusters=3).fit(layers, predictions=np.arange(90) % 3)
    assert found.purity_.value == 1
    assert 0.3 < found.purity_.chance < 0.6
    assert cp.ClusterPaths(n_clusters=3).fit(layers).purity_ is None


def test_auto_chooses_as_many_clusters_as_the_predictions_need(layers: dict[str, NDArray[np.float32]]) -> None:
    found = cp.ClusterPaths(n_clusters="auto", distance="auto").fit(layers, predictions=np.arange(90) % 3)
    assert found.n_clusters_ == {"conv": 3, "fc": 3}
    assert found.distance_ == "cosine"


def test_parameters_clone_repr_and_pickle(layers: dict[str, NDArray[np.float32]]) -> None:
    made = cp.ClusterPaths(n_clusters=4, distance="euclidean", random_state=7)
    assert made.get_params() == {"n_clusters": 4, "distance": "euclidean", "fit_on": "sample", "random_state": 7}
    assert repr(made) == "ClusterPaths(distance='euclidean', n_clusters=4, random_state=7)"
    assert clone(made.set_params(n_clusters=2)).n_clusters == 2
    fitted = made.fit(layers)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(layers), fitted.labels_)


def test_it_is_the_first_step_of_a_pipeline(layers: dict[str, NDArray[np.float32]]) -> None:
    pipe = make_pipeline(cp.ClusterPaths(n_clusters=3), GaussianNB())
    assert pipe.fit(layers, np.arange(90) % 3).score(layers, np.arange(90) % 3) == 1


def test_arrays_on_disk_are_read_in_blocks(layers: dict[str, NDArray[np.float32]], tmp_path: Path) -> None:
    np.save(tmp_path / "fc.npy", layers["fc"])
    mapped = np.load(tmp_path / "fc.npy", mmap_mode="r")
    found = cp.ClusterPaths(n_clusters=3, fit_on="all").fit({"fc": mapped})
    np.testing.assert_array_equal(found.labels_, cp.ClusterPaths(n_clusters=3).fit_predict({"fc": layers["fc"]}))


def test_other_layers_are_ignored_and_the_order_is_that_of_the_fit(layers: dict[str, NDArray[np.float32]]) -> None:
    found = cp.ClusterPaths(n_clusters=3).fit(layers)
    shuffled = {"new": layers["fc"], "fc": layers["fc"], "conv": layers["conv"]}
    np.testing.assert_array_equal(found.predict(shuffled), found.labels_)


def test_nothing_is_predicted_before_a_fit(layers: dict[str, NDArray[np.float32]]) -> None:
    with pytest.raises(NotFittedError):
        cp.ClusterPaths().predict(layers)


X = blobs(30)
BAD: dict[str, tuple[Any, str]] = {
    "differing lengths": ({"a": X, "b": X[:20]}, r"differ in length: a 30, b 20"),
    "NaN": ({"a": np.where(np.arange(30)[:, None] == 3, np.nan, X)}, r"a contains NaN in 1 of 30"),
    "infinity": (np.where(np.arange(30)[:, None] == 3, np.inf, X), r"contains infinity"),
    "beyond float32": (X.astype(np.float64) * 1e39, r"too large for float32"),
    "objects": ({"a": X.astype(object)}, r"a has the dtype object\. Expected real numbers"),
    "ragged": ({"a": [[1.0, 2.0], [3.0]]}, r"a cannot be read as an array"),
    "texts": ({"a": np.array([["x", "y"]])}, r"a has the dtype <U1"),
    "one dimension": ({"a": X[:, 0]}, r"a has the shape \(30,\)\. Expected 2 or more dimensions"),
    "no layers": ({}, r"dict of layer names to arrays"),
    "layers by number": ({1: X}, r"dict of layer names to arrays, got the keys \[1\]"),
    "no examples": ({"a": X[:0]}, r"a has 0 sample"),
    "too few examples": (X[:2], r"n_samples=2 should be at least n_clusters=3"),
}


@pytest.mark.parametrize("bad", BAD)
def test_arrays_that_cannot_be_clustered_are_refused_in_one_paragraph(bad: str) -> None:
    given, expected = BAD[bad]
    with pytest.raises(ArraysError, match=expected) as caught:
        cp.ClusterPaths(n_clusters=3).fit(given)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"n_clusters": 0}, "n_clusters should be an integer from 1 to 32767, or 'auto', got 0 instead"),
        ({"n_clusters": True}, "got True instead"),
        ({"n_clusters": {"conv": 3, "fc2": 2}}, r"names the layer 'fc2', which X does not have\. Nearest: fc\."),
        ({"n_clusters": {"conv": 3}}, "no number for fc"),
        ({"distance": "cosin"}, "distance should be one of 'cosine', 'euclidean', 'auto', got 'cosin' instead"),
        ({"fit_on": "some"}, "fit_on should be one of"),
    ],
)
def test_parameters_out_of_range_are_refused(
    layers: dict[str, NDArray[np.float32]], options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ArraysError, match=expected):
        cp.ClusterPaths(**options).fit(layers)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"predictions": [0, 1]}, r"shape \(90,\), got \(2,\)"),
        ({"predictions": np.zeros((90, 5))}, r"argmax"),
        ({"predictions": np.zeros(90)}, r"class indices: integers"),
        ({"ids": np.zeros(90, int)}, r"ids should be 90 ascending integers"),
    ],
)
def test_what_goes_with_the_arrays_is_checked(
    layers: dict[str, NDArray[np.float32]], given: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ArraysError, match=expected):
        cp.ClusterPaths().fit(layers, **given)


def test_a_missing_layer_is_named_with_the_nearest(layers: dict[str, NDArray[np.float32]]) -> None:
    found = cp.ClusterPaths(n_clusters=3).fit(layers)
    with pytest.raises(ArraysError, match=r"no layer 'conv', .* it has conv1, fc\. Nearest: conv1\."):
        found.predict({"conv1": layers["conv"], "fc": layers["fc"]})
    with pytest.raises(ArraysError, match=r"conv has examples of shape \(3, 4\), .* fitted on \(2, 3, 4\)"):
        found.predict({"conv": layers["conv"][:, 0], "fc": layers["fc"]})


@pytest.mark.parametrize("options", [{"fit_on": "all"}, {"n_clusters": "auto"}, {"distance": "auto"}])
def test_batches_need_settings_that_do_not_need_all_examples(
    layers: dict[str, NDArray[np.float32]], options: dict[str, Any]
) -> None:
    with pytest.raises(ArraysError, match="partial_fit stores a sample"):
        cp.ClusterPaths(**options).partial_fit(layers)

"""Principal axes of a layer: judged by scikit-learn's PCA on complete rows, and by exact distances."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from clusterpaths.clustering import kmeans
from clusterpaths.clustering.assign import Assigner
from clusterpaths.clustering.principal import DIMENSIONS, Axes, find_directions
from clusterpaths.records import Distance
from tests.clusterpaths.clustering.test_kmeans import ArrayRows

DISTANCES: tuple[Distance, ...] = ("cosine", "euclidean")


def layer(count: int, width: int, seed: int = 0, offset: float = 2.0) -> NDArray[np.float32]:
    """Rows of 24 directions of falling variance, noise, and a mean far from 0, as behind a ReLU."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((width, min(width, 24))))[0].T
    falling = 30 * 0.8 ** np.arange(len(basis))
    rows = (rng.standard_normal((count, len(basis))) * falling) @ basis + 0.02 * rng.standard_normal((count, width))
    return (rows + offset * rng.random(width)).astype(np.float32)


def axes_of(rows: NDArray[np.float32], distance: Distance, k: int = 3) -> Axes:
    return kmeans.fit(ArrayRows(rows, 61), min(k, len(rows)), distance, 0).axes


def coordinates(rows: NDArray[np.float32], distance: Distance, k: int = 3) -> NDArray[np.float32]:
    fitted = kmeans.fit(ArrayRows(rows, 61), min(k, len(rows)), distance, 0)
    one = Assigner(fitted.centroids, distance, fitted.axes)
    return one.coordinates(one.products(rows))


def scaled(rows: NDArray[np.float32], distance: Distance) -> NDArray[np.float64]:
    exact = rows.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    return exact / np.where(lengths > 0, lengths, 1) if distance == "cosine" else exact


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("width", [30, 256, 257, 4099])
def test_components_are_those_of_pca_up_to_sign(width: int, distance: Distance) -> None:
    rows = layer(400, width)
    exact = scaled(rows, distance)
    judge = PCA(DIMENSIONS, svd_solver="full").fit(exact)
    expected = judge.transform(exact)
    found = coordinates(rows, distance)[:, :-1].astype(np.float64)
    largest = np.abs(expected).max()
    for own, other in zip(found.T, expected.T, strict=True):
        sign = np.sign(own @ other)
        np.testing.assert_allclose(own, sign * other, atol=4e-3 * largest)
    axes = axes_of(rows, distance)
    np.testing.assert_allclose(axes.explained, judge.explained_variance_ratio_, rtol=5e-3)
    angles = np.linalg.svd(axes.directions.astype(np.float64) @ judge.components_.T)[1]
    assert angles.min() > 0.999  # cosines of the angles between the two subspaces


@pytest.mark.parametrize("distance", DISTANCES)
def test_residuals_are_what_components_leave_of_the_distance_from_the_mean(distance: Distance) -> None:
    rows = layer(300, 1000)
    exact = scaled(rows, distance)
    from_mean = np.square(exact - exact.mean(axis=0)).sum(axis=1)
    found = coordinates(rows, distance).astype(np.float64)
    np.testing.assert_allclose(np.square(found).sum(axis=1), from_mean, rtol=1e-2)
    assert (found[:, -1] > 0).all()


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("width", [40, 3000])
def test_the_same_rows_give_the_same_bits_and_the_largest_loading_is_positive(width: int, distance: Distance) -> None:
    rows = layer(200, width)
    one, other = axes_of(rows, distance), axes_of(rows, distance)
    assert one.digest == other.digest
    for direction in one.directions.astype(np.float64):
        sizes = np.abs(direction)
        assert direction[np.flatnonzero(sizes >= 0.98 * sizes.max())[0]] > 0 or direction[sizes.argmax()] > 0


def test_between_loadings_of_equal_size_rounding_decides_no_sign() -> None:
    """Rows along (1, -1): which of the two loadings is larger is rounding."""
    along = np.linspace(-1, 1, 50)
    for nudge in (0.0, 1e-6, -1e-6):
        rows = np.stack([along * (1 + nudge), -along], axis=1).astype(np.float32)
        assert np.sign(find_directions(rows).rows[0]).tolist() == [1, -1]
        assert np.sign(find_directions(-rows).rows[0]).tolist() == [1, -1]


def test_another_number_of_clusters_leaves_the_axes_alone() -> None:
    rows = layer(300, 2000)
    one, other = axes_of(rows, "cosine", k=2), axes_of(rows, "cosine", k=9)
    np.testing.assert_array_equal(one.directions, other.directions)
    np.testing.assert_array_equal(one.explained.round(4), other.explained.round(4))


RNG = np.random.default_rng(3)
ODD: dict[str, NDArray[np.float32]] = {
    "dead": np.zeros((20, 300), np.float32),
    "constant": np.full((20, 300), 7.3, np.float32),
    "narrow and constant": np.full((20, 3), 7.3, np.float32),
    "one value": RNG.random((50, 1)).astype(np.float32),
    "one row": RNG.random((1, 400)).astype(np.float32),
    "two rows": RNG.random((2, 400)).astype(np.float32),
    "fewer rows than axes": RNG.random((9, 50)).astype(np.float32),
    "some rows of zeros": RNG.random((40, 500)).astype(np.float32) * (np.arange(40) % 4 > 0)[:, None],
    "large": (RNG.random((40, 300)) * 1e15).astype(np.float32),
    "tiny": (RNG.random((40, 300)) * 1e-15).astype(np.float32),
    "a large constant part": (RNG.random((60, 300)) + 1e4).astype(np.float32),
}


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", ODD)
def test_odd_layers_have_finite_coordinates_of_the_same_shape(name: str, distance: Distance) -> None:
    rows = ODD[name]
    found = coordinates(rows, distance, k=1 if len(np.unique(rows, axis=0)) == 1 else 2)
    assert (found.shape, found.dtype) == ((len(rows), DIMENSIONS + 1), np.float32)
    assert np.isfinite(found).all()
    axes = axes_of(rows, distance, k=1)
    assert np.isfinite(axes.directions).all()
    assert 0 <= axes.explained.sum() <= 1 + 1e-6
    rank = min(len(rows) - 1, rows.shape[1], DIMENSIONS)
    assert not axes.directions[rank:].any()
    assert not found[:, rank:-1].any()
    if "constant" in name.split()[-1] or name == "dead":
        assert not found[:, :-1].any()


@pytest.mark.parametrize("name", ["fewer rows than axes", "large", "a large constant part"])
def test_distances_are_right_where_a_layer_is_narrow_large_or_far_from_0(name: str) -> None:
    rows = ODD[name]
    exact = rows.astype(np.float64)
    exact -= exact.mean(axis=0)
    found = coordinates(rows, "euclidean", k=2).astype(np.float64)
    from_mean = np.linalg.norm(exact, axis=1)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), from_mean, rtol=2e-2)


def test_a_row_of_zeros_lies_where_the_origin_of_cosine_is() -> None:
    """All of them at one place, at the mean's length from the mean."""
    rows = ODD["some rows of zeros"]
    found = coordinates(rows, "cosine")
    zeros = found[~rows.any(axis=1)]
    assert len(zeros) == 10
    assert (zeros == zeros[0]).all()
    mean = scaled(rows, "cosine").mean(axis=0)
    assert np.linalg.norm(zeros[0].astype(np.float64)) == pytest.approx(np.linalg.norm(mean), rel=1e-3)

"""What is decided does not hang on the last bits, which another processor's matrix products have otherwise.

Here every matrix product of a block of rows is off by some units in the last place, another number for each value. So that
a green run on one processor means something for the others. Cases are without near ties, of which rounding may make
either (docs/reproducibility.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clusterpaths.cache.fit_sample import fit_size
from clusterpaths.cache.rows import LayerRows
from clusterpaths.clustering import seeding
from clusterpaths.clustering.choose import choose
from clusterpaths.clustering.fit import fit_layer
from clusterpaths.clustering.identity import identify_fits
from clusterpaths.clustering.kmeans import first_alike
from clusterpaths.clustering.reading import Where
from clusterpaths.clustering.seeding import count_distinct, sketch
from clusterpaths.common.threads import one_thread
from clusterpaths.config import RunConfig
from clusterpaths.records import Distance
from tests.clusterpaths.clustering.fitting import Clustering, cluster_rows
from tests.clusterpaths.clustering.test_kmeans import DISTANCES, ArrayRows, blobs, with_dead_rows
from tests.clusterpaths.conftest import run_extraction

# Of float32's epsilon: up to so much of a product, and of the product of the lengths. Between four of OpenBLAS's kernels it
# was at most 7 of the former, for rows of positive values, and 0.5 of the latter on average, 10 to 65,536 values a row.
UNITS, OF_LENGTHS = 8, 0.5
TIMES = 5  # each with other last bits


class Disturbed(np.ndarray[Any, Any]):
    """An array whose matrix products are off in their last bits."""

    rng = np.random.default_rng(0)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        inputs = tuple(_plain(one) for one in inputs)
        if out is not None:
            kwargs["out"] = tuple(_plain(one) for one in out)
        result = getattr(ufunc, method)(*inputs, **kwargs)
        if ufunc is np.matmul:
            a, b = inputs
            lengths = np.sqrt(np.einsum("ij,ij->i", a, a))[:, None] * np.sqrt(np.einsum("ij,ij->j", b, b))
            off = self.rng.integers(-UNITS, UNITS, result.shape, endpoint=True) * result
            off = off + self.rng.uniform(-OF_LENGTHS, OF_LENGTHS, result.shape) * lengths
            return (result + np.finfo(result.dtype).eps * off).astype(result.dtype)
        return result if out is None else out[0]


def _plain(one: Any) -> Any:
    return one.view(np.ndarray) if isinstance(one, Disturbed) else one


class DisturbedRows(ArrayRows):
    """`ArrayRows` whose blocks are `Disturbed`."""

    def blocks(self, positions: NDArray[np.int64] | None = None) -> Iterator[tuple[Where, NDArray[np.float32]]]:
        for where, block in super().blocks(positions):
            yield where, block.view(Disturbed)


def kinds(different: int, width: int, n: int = 203) -> NDArray[np.float32]:
    rng = np.random.default_rng(width)
    return rng.standard_normal((different, width)).astype(np.float32)[rng.integers(different, size=n)]


def in_two_batches(width: int) -> NDArray[np.float32]:
    """Three kinds, of which every second row was rounded in another way."""
    rows = kinds(3, width)
    rows[::2] *= 1 + np.float32(1e-7) * np.random.default_rng(1).integers(-4, 5, (len(rows[::2]), width))
    return rows


def multiples(width: int) -> NDArray[np.float32]:
    return kinds(3, width) * np.random.default_rng(2).integers(1, 4, (203, 1)).astype(np.float32)


def missed_by_the_sample() -> NDArray[np.float32]:
    """Two kinds and a single row of a third, which lies outside the sample of seed 0."""
    rows = np.zeros((5000, 4), np.float32)
    rows[::2, 0], rows[1::2, 1] = 1, 1
    drawn = seeding.draw_sample(5000, fit_size(3), np.random.default_rng(0))
    rows[np.setdiff1d(np.arange(5000), drawn)[7]] = [0.5, 0, 3, 0]
    return rows


EVERY = np.arange(203)
CASES: dict[str, tuple[ArrayRows, int]] = {
    "blobs": (ArrayRows(blobs(300, 5, 12, spread=0.05)), 5),
    "wide blobs": (ArrayRows(blobs(300, 5, 700, spread=0.05)), 5),
    "one kind": (ArrayRows(kinds(1, 1000)), 7),
    "one narrow kind": (ArrayRows(kinds(1, 3)), 7),
    "three kinds": (ArrayRows(kinds(3, 1000)), 7),
    "three kinds, k=2": (ArrayRows(kinds(3, 1000)), 2),
    "three narrow kinds": (ArrayRows(kinds(3, 7)), 7),
    "three very wide kinds": (ArrayRows(kinds(3, 20_000, 30), 16), 5),
    "three kinds far from 0": (ArrayRows(kinds(3, 500) + 5), 7),
    "three kinds in two batches": (ArrayRows(in_two_batches(1000)), 7),
    "multiples": (ArrayRows(multiples(1000)), 12),
    "rows of zeros": (ArrayRows(with_dead_rows()[0]), 3),
    "only zeros": (ArrayRows(np.zeros((50, 20))), 4),
    "a cluster for each row": (ArrayRows(np.random.default_rng(0).standard_normal((9, 6))), 9),
    "a kind that the sample misses": (ArrayRows(missed_by_the_sample(), 512), 3),
}


def decided(found: Clustering) -> tuple[Any, ...]:
    """The discrete part, clusters by their first row: which number they have is k-means++'s draw."""
    _, first = np.unique(found.labels, return_index=True)
    alike = [first[np.searchsorted(np.unique(found.labels), label)] for label in found.labels.tolist()]
    empty = len(found.centroids) - len(first)
    return found.distinct, found.zero_rows, found.passes, empty, alike


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("case", CASES)
def test_clusters_do_not_hang_on_the_last_bits(distance: Distance, case: str) -> None:
    rows, k = CASES[case]
    expected = decided(cluster_rows(rows, k, distance, 0))
    disturbed = DisturbedRows(rows.values, rows.block_rows)
    for _ in range(TIMES):
        assert decided(cluster_rows(disturbed, k, distance, 0)) == expected


def test_products_are_disturbed_and_nothing_else_is() -> None:
    """Else the tests here would say nothing."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 30, 30)).astype(np.float32)
    off = np.abs(a.view(Disturbed) @ b - a @ b)
    assert (off > 0).mean() > 0.5
    assert off.max() < 1e-4
    assert (np.abs(b @ a.view(Disturbed) - b @ a) > 0).mean() > 0.5
    kept = a.copy().view(Disturbed)
    kept *= 2
    assert isinstance(kept, Disturbed)
    np.testing.assert_array_equal(kept, a * 2)


@pytest.mark.parametrize("distance", DISTANCES)
def test_equal_rows_have_equal_sketches_and_components(distance: Distance) -> None:
    values = kinds(3, 1000)
    values[values < 0] = 0
    values[::3][values[::3] == 0] = -0.0  # the same number
    rows = DisturbedRows(values, 64)
    sketches = sketch(rows, EVERY, distance, np.random.default_rng(0))
    assert len(np.unique(sketches, axis=0)) == 3
    assert len(np.unique(sketch(rows, EVERY, distance, np.random.default_rng(0), gaussian=True), axis=0)) == 3
    assert len(np.unique(seeding._components(rows, EVERY, distance, sketches, 64).coordinates, axis=0)) == 3


@pytest.mark.parametrize("shift", np.linspace(0, 1e-4, 7))
def test_no_border_runs_between_rows_that_differ_by_rounding(shift: float) -> None:
    """A grid has one for some of these shifts."""
    rng = np.random.default_rng(0)
    one = (rng.standard_normal(256) + shift).astype(np.float32)
    rounded = one * (1 + np.float32(1.2e-7) * rng.integers(-4, 5, (50, 256)).astype(np.float32))
    assert count_distinct(rounded, 10) == 1
    assert count_distinct(np.concatenate([rounded, rounded + np.float32(1e-3)]), 10) == 2


@pytest.mark.parametrize(("lengths", "cosine", "euclidean"), [((1, 2, 4), 1, 3), ((1, 3, 7), 1, 3), ((1, 1, 1), 1, 1)])
def test_multiples_are_one_row_for_cosine_and_several_for_euclidean(
    lengths: tuple[float, ...], cosine: int, euclidean: int
) -> None:
    row = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    rows = ArrayRows(np.outer(np.tile(lengths, 20), row))
    assert cluster_rows(rows, 5, "cosine", 0).distinct == cosine
    assert cluster_rows(rows, 5, "euclidean", 0).distinct == euclidean


def test_centroids_are_found_alike_or_not() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 50)).astype(np.float32)
    centroids = np.stack([a, b, a * np.float32(1 + 2e-7), a + np.float32(1e-3), b])
    for _ in range(TIMES):
        assert first_alike(centroids.view(Disturbed)).tolist() == [0, 1, 0, 3, 1]


def test_of_two_partitions_that_are_equally_good_the_first_found_is_taken() -> None:
    """Corners of a square: left and right are as good as up and down, to the last bit of an inertia."""
    rng = np.random.default_rng(0)
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    flat = (corners[:, None] * (1 + 0.05 * rng.standard_normal((128, 1)))).reshape(-1, 2)
    sketches = (flat @ np.linalg.qr(rng.standard_normal((64, 2)))[0].T).astype(np.float32)
    seeds = range(4)
    with one_thread():
        expected = [seeding._best_labels(sketches, 2, seed) for seed in seeds]
        for _ in range(TIMES):
            off = rng.integers(-UNITS, UNITS, sketches.shape, endpoint=True).astype(np.float32)
            other = sketches * (1 + np.finfo(np.float32).eps * off)
            for seed in seeds:
                np.testing.assert_array_equal(seeding._best_labels(other, 2, seed), expected[seed])


def test_what_is_chosen_does_not_hang_on_the_last_bits() -> None:
    blob = np.random.default_rng(0).integers(4, size=200)
    directions = np.linalg.qr(np.random.default_rng(1).standard_normal((300, 4)))[0].T * 3
    values = directions[blob] + 0.1 * np.random.default_rng(2).standard_normal((200, 300))
    for predictions in (blob, None):
        expected = choose({"a": ArrayRows(values)}, predictions)
        assert expected.k_per_layer == {"a": 4}
        found = choose({"a": DisturbedRows(values)}, predictions)
        assert (found.k_per_layer, found.distance) == (expected.k_per_layer, expected.distance)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_fold_without_one_of_the_kinds_does_not_part_equal_rows(distance: Distance) -> None:
    """The third kind is a single row, which some of the folds of these seeds leave out."""
    kind = np.zeros(200, int)
    kind[1::2], kind[77] = 1, 2
    values = np.random.default_rng(3).standard_normal((3, 600))[kind]
    for seed in range(5):
        (point,) = choose({"a": DisturbedRows(values)}, None, k=3, distance=distance, seed=seed).points
        assert point.stability > 0.98  # where it was left out, that one row goes with either of the others


@pytest.mark.parametrize("distance", DISTANCES)
def test_one_pass_is_enough_where_every_row_lies_at_its_centroid(
    configure: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, distance: Distance
) -> None:
    """What is left of the inertia is rounding, and so is what another pass would gain."""
    blocks = LayerRows.blocks

    def few_kinds(rows: LayerRows, positions: NDArray[np.int64] | None = None) -> Iterator[tuple[Where, Any]]:
        for where, _ in blocks(rows, positions):
            two = np.random.default_rng(rows.width).standard_normal((2, rows.width)).astype(np.float32)
            yield where, two[rows.ids[where] % 2].view(Disturbed)

    monkeypatch.setattr(LayerRows, "blocks", few_kinds)
    done = run_extraction(configure(distance=distance))
    for layer in ("conv2", "fc1"):
        record = fit_layer(done.record, identify_fits(done.config, done.model, done.record), layer)
        assert record.passes == 1
        assert record.distinct == 2

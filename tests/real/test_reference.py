"""Whole runs on 2,000 real images and real models, where CLUSTERPATHS_SHARED points to them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from scipy.linalg.blas import ssyrk
from sklearn.cluster import KMeans

from clusterpaths.config import RunConfig
from clusterpaths.datasets.celeba import open_celeba
from clusterpaths.models.check import check_model, instrument_model
from clusterpaths.models.session import TapSession
from clusterpaths.preprocessing.prepare import normalise, resize, resolve_preprocessing
from tests.runs import (
    SHAPES,
    Run,
    assert_contract,
    assert_same_documents,
    nearest,
    paths_of,
    published,
    rows_of,
    run_pipeline,
)

SHARED = Path(os.environ.get("CLUSTERPATHS_SHARED", ""))
INSTRUMENTED = SHARED / "models" / "CelebA_CNN_instrumented.onnx"
WIDTHS = {layer: int(np.prod(shape)) for layer, shape in SHAPES.items()}
pytestmark = pytest.mark.skipif("CLUSTERPATHS_SHARED" not in os.environ, reason="CLUSTERPATHS_SHARED is not set")


def succeed(**options: Any) -> Run:
    """Without the stages that try the model on images of their own: batches are counted."""
    return run_pipeline(RunConfig(**{"evaluate": False, "check_preprocessing": False} | options))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"model": INSTRUMENTED, "data_root": SHARED, "cache_root": tmp_path_factory.mktemp("real")}


@pytest.fixture(scope="module")
def default(real: dict[str, Any]) -> Run:
    """ImageNet preprocessing, cosine, npy, two workers."""
    return succeed(**real, workers=2)


@pytest.fixture(scope="module")
def euclidean(default: Run, real: dict[str, Any]) -> Run:
    """The next set of the same cache."""
    return succeed(**real, workers=2, distance="euclidean")


@pytest.fixture(scope="module")
def zarr(real: dict[str, Any]) -> Run:
    """As `default`, but zarr, one worker, and other batches."""
    return succeed(**real, name="zarr", cache_format="zarr", workers=1, batch_size=50, shard_size=300)


@pytest.fixture(scope="module")
def unit(real: dict[str, Any]) -> Run:
    """The preprocessing that the reference was made with."""
    return succeed(**real, name="unit", preprocessing="unit", cache_format="zarr", workers=2)


@pytest.fixture(scope="module")
def columns(default: Run) -> Any:
    """What a set says of each example."""
    assert default.path is not None
    return pq.read_table(default.path / "paths.parquet")


# what lies on disk


def test_all_two_thousand_images_in_five_layers_and_three_documents(default: Run) -> None:
    assert default.path is not None
    assert_contract(default.path, 2000, WIDTHS, 5)
    numbers = [int(path.stem) for path in (SHARED / "celeba" / "img_align_celeba").glob("*.jpg")]
    assert list(paths_of(default.path)) == [f"example_{number - 1:04d}" for number in sorted(numbers)]


def test_a_cache_file_is_the_models_activation_under_the_examples_id(default: Run) -> None:
    assert default.path is not None
    record = check_model(INSTRUMENTED)
    preprocessing, _ = resolve_preprocessing(record)
    session = TapSession(instrument_model(record, preprocessing.size))
    dataset = open_celeba(SHARED)
    table = dataset.examples()
    for position in (0, 777, 1999):
        pixels = resize(dataset.read_image(table.files[position]), (64, 64))
        expected = session.run(normalise(pixels[None], preprocessing))
        for layer, shape in SHAPES.items():
            stored = np.load(default.path.parent / layer / f"{table.ids[position]}.npy")
            assert (stored.shape, stored.dtype) == (shape, np.float16)
            np.testing.assert_allclose(stored, expected.layers[layer][0], rtol=2e-3, atol=1e-4)


def test_subset_5_leaves_the_first_five_images_under_their_own_numbers(real: dict[str, Any]) -> None:
    run = succeed(**real, name="five", subset=5)
    assert run.path is not None
    files = sorted((SHARED / "celeba" / "img_align_celeba").glob("*.jpg"))[:5]
    ids = [int(file.stem) - 1 for file in files]
    for layer, shape in SHAPES.items():
        found = {path.name: np.load(path).shape for path in (run.path.parent / layer).iterdir()}
        assert found == {f"{i}.npy": shape for i in ids}
    assert_contract(run.path, 5, WIDTHS, 5)
    assert list(paths_of(run.path)) == [f"example_{i:04d}" for i in ids]


# one result, however it is made


def test_npy_with_two_workers_and_zarr_with_one_and_other_batches_give_the_same_bytes(default: Run, zarr: Run) -> None:
    assert default.path is not None
    assert zarr.path is not None
    assert_same_documents(default.path, zarr.path)


def test_another_distance_makes_the_next_set_without_running_the_model(default: Run, euclidean: Run) -> None:
    assert default.path is not None
    assert euclidean.path is not None
    assert euclidean.path.name == "set_02"
    assert euclidean.batches == 0
    assert published(euclidean).clusters != published(default).clusters


# what the paths are worth


def test_unit_preprocessing_puts_85_percent_of_images_on_the_references_paths(unit: Run) -> None:
    assert unit.path is not None
    reference = SHARED / "reference" / "CelebA" / "set_01"
    centroids = json.loads((reference / "centroids.json").read_text())
    expected = paths_of(reference)
    assert set(centroids) == {"conv3", "fc1", "fc2"}
    found = []
    for layer, rows in centroids.items():
        ids, activations = rows_of(unit.path.parent, layer)
        found.append(nearest(activations, np.array(rows)))
    paths = {f"example_{i:04d}": list(path) for i, path in zip(ids, np.column_stack(found).tolist(), strict=True)}
    assert set(paths) == set(expected)
    agreement = np.mean([paths[key] == expected[key] for key in expected])
    print(f"whole path as in the reference: {agreement:.1%}")
    assert agreement >= 0.85


def test_imagenet_predictions_are_the_single_hair_colour_of_88_percent_of_labelled_images(columns: Any) -> None:
    labels, predictions = columns["label"].to_numpy(), columns["prediction"].to_numpy()
    labelled = labels >= 0
    assert labelled.sum() == 184  # rows with exactly one hair colour among the 310
    agreement = (labels == predictions)[labelled].mean()
    print(f"prediction is the label: {agreement:.1%} of {labelled.sum()}")
    assert agreement >= 0.88


def test_the_path_of_1600_images_foretells_the_models_decision_on_the_other_400(
    default: Run, real: dict[str, Any], columns: Any
) -> None:
    fit = succeed(**real, subset=1600, layers=("fc1", "fc2"))
    assert fit.path is not None
    assert fit.batches == 0
    centroids = json.loads((fit.path / "centroids.json").read_text())
    predictions = columns["prediction"].to_numpy()
    fitted = np.array(list(paths_of(fit.path).values()))
    assert fitted.shape == (1600, 2)
    votes: dict[tuple[int, ...], list[int]] = {}
    for path, prediction in zip(fitted.tolist(), predictions[:1600].tolist(), strict=True):
        votes.setdefault(tuple(path), []).append(prediction)
    majority = {path: np.bincount(given).argmax() for path, given in votes.items()}
    assigned = [nearest(rows_of(fit.path.parent, layer)[1][1600:], centroids[layer]) for layer in ("fc1", "fc2")]
    others = np.column_stack(assigned)
    right = [majority.get(tuple(path)) == told for path, told in zip(others.tolist(), predictions[1600:], strict=True)]
    print(f"majority of the path is the model's prediction: {np.mean(right):.1%} of {len(right)}, {len(votes)} paths")
    assert len(right) == 400
    assert np.mean(right) >= 0.90


@pytest.mark.parametrize("layer", SHAPES)
def test_the_unit_centroid_nearest_to_the_raw_activation_is_the_published_cluster(
    default: Run, columns: Any, layer: str
) -> None:
    assert default.path is not None
    ids, rows = rows_of(default.path.parent, layer)
    centroids = np.array(json.loads((default.path / "centroids.json").read_text())[layer])
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=1e-5)  # float32 sums
    assert ids.tolist() == columns["id"].to_pylist()
    assert (nearest(rows, centroids) != columns[layer].to_numpy()).sum() == 0


def gram_matrix(rows: NDArray[Any]) -> NDArray[np.float64]:
    """(n, n) inner products: all that k-means depends on."""
    gram = np.zeros((len(rows), len(rows)))
    for start in range(0, rows.shape[1], 8192):
        piece = rows[:, start : start + 8192].astype(np.float32)
        gram += ssyrk(1, piece.T, trans=1)  # the upper half: in half the time
    return np.triu(gram) + np.triu(gram, 1).T


def inertia_of(gram: NDArray[np.float64], labels: NDArray[Any], *, unit_centroids: bool) -> float:
    """Sum of squared distances to the best centroids of these labels, of length 1 where asked."""
    sums = [gram[np.ix_(labels == c, labels == c)].sum() for c in np.unique(labels)]  # |sum of rows|^2 a cluster
    sizes = np.unique(labels, return_counts=True)[1]
    if unit_centroids:
        return float(gram.trace() + len(gram) - 2 * sum(np.sqrt(sums)))
    return float(gram.trace() - sum(sums / sizes))


@pytest.mark.parametrize("layer", SHAPES)
def test_inertia_is_within_1_percent_of_kmeans_with_ten_starts(default: Run, euclidean: Run, layer: str) -> None:
    """KMeans runs on the rows of the Gram matrix's Cholesky factor: the same 2,000 points, exactly as far from each
    other, in 2,000 dimensions instead of up to 65,536."""
    assert default.path is not None
    _, rows = rows_of(default.path.parent, layer)
    raw = gram_matrix(rows)
    lengths = np.sqrt(np.diag(raw))
    for run, gram in ((default, raw / np.outer(lengths, lengths)), (euclidean, raw)):
        points = rows.astype(np.float32)
        if run is default:
            points /= np.linalg.norm(points, axis=1, keepdims=True)
        if points.shape[1] > len(gram):
            points = np.linalg.cholesky(gram + np.eye(len(gram)) * 1e-7 * gram.trace() / len(gram)).astype(np.float32)
        labels = KMeans(5, n_init=10, random_state=0, algorithm="elkan").fit_predict(points)
        assert run.path is not None
        ours = pq.read_table(run.path / "paths.parquet", columns=[layer])[layer].to_numpy()
        spherical = run is default
        told = published(run).clusters[layer].inertia
        ratio = told / inertia_of(gram, labels, unit_centroids=spherical)
        around_means = inertia_of(gram, ours, unit_centroids=False) / inertia_of(gram, labels, unit_centroids=False)
        print(
            f"{layer} {published(run).distance}: published {ratio:.4f}, our labels around their means {around_means:.4f}"
        )
        assert told == pytest.approx(
            inertia_of(gram, ours, unit_centroids=spherical), rel=0.005
        )  # not a made-up figure
        assert ratio <= 1.01
        assert around_means <= 1.01


# the other models


def test_the_plain_model_instrumented_by_us_gives_the_instrumented_ones_bits() -> None:
    dataset = open_celeba(SHARED)
    files = dataset.examples().files[:64]
    records = [check_model(SHARED / "models" / name) for name in ("CelebA_CNN.onnx", "CelebA_CNN_instrumented.onnx")]
    preprocessing, _ = resolve_preprocessing(records[0])
    images = normalise(np.stack([resize(dataset.read_image(file), (64, 64)) for file in files]), preprocessing)
    ours, theirs = (TapSession(instrument_model(record, (64, 64))).run(images) for record in records)
    assert list(ours.layers) == list(theirs.layers) == list(SHAPES)
    for layer in SHAPES:
        assert ours.layers[layer].tobytes() == theirs.layers[layer].tobytes()
    assert ours.logits is not None
    assert theirs.logits is not None
    assert ours.logits.tobytes() == theirs.logits.tobytes()


def test_the_plain_model_runs_whole_and_says_which_weight_file_it_took(real: dict[str, Any]) -> None:
    plain = SHARED / "models" / "CelebA_CNN.onnx"
    run = succeed(**(real | {"model": plain}), name="plain", subset=60)
    other = succeed(**real, name="instrumented", subset=60)
    assert run.path is not None
    assert other.path is not None
    assert_same_documents(run.path, other.path)
    weights, preprocessing, *_ = [line for line in run.log if line.startswith("WARNING")]
    assert re.search(r"celeba_cnn\.onnx\.data.*CelebA_CNN\.onnx\.data", weights)
    assert "imagenet, 64x64 bilinear, from the default" in preprocessing


def test_a_model_with_a_fixed_batch_of_one_runs_and_clusters(real: dict[str, Any]) -> None:
    run = succeed(**(real | {"model": SHARED / "models" / "catdog_instrumented.onnx"}), name="catdog", subset=100, k=3)
    assert run.path is not None
    assert run.batches == 100
    record = published(run)
    assert record.preprocessing.size == (32, 32)
    assert record.num_examples == 100
    assert all(sum(summary.sizes) == 100 and not summary.empty for summary in record.clusters.values())

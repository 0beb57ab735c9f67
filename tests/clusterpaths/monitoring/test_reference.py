"""A published set as reference: its examples as if no centroid had been fitted on them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from clusterpaths.config import RunConfig
from clusterpaths.metrics.ood import held_out_scores
from clusterpaths.monitoring.reference import ENOUGH, HELD_OUT, reference_routes
from clusterpaths.pipeline import run
from clusterpaths.sets.published import PublishedSet, open_set
from tests.generated_set import generate

LAYERS = {"conv1": (2, 3, 3), "fc1": (3,)}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> PublishedSet:
    """200 drawn faces, all of them fitted, with their activations in the cache."""
    config = RunConfig(
        sample=True,
        sample_size=200,
        cache_root=str(tmp_path_factory.mktemp("cache")),
        cache_format="npy",
        evaluate=False,
        check_preprocessing=False,
    )
    published = run(config).published
    assert published
    return published


def test_a_small_set_has_each_example_where_it_would_be_if_it_were_held_out(small: PublishedSet) -> None:
    found = reference_routes(small)
    assert len(found) == 200
    moved = (found.clusters != small.clusters).mean(axis=0)
    assert 0 < moved.max() < 0.2
    assert found.predictions is small.predictions
    assert found.ood_scores.mean() > small.scores.ood.mean() + 0.05


def test_without_activations_clusters_stay_as_they_are_which_is_logged(
    small: PublishedSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(small.path, tmp_path / "removed" / small.path.name)
    published = open_set(tmp_path / "removed" / small.path.name)
    with caplog.at_level(logging.WARNING):
        found = reference_routes(published)
    assert "false alarms are somewhat more frequent" in caplog.text
    np.testing.assert_array_equal(found.clusters, small.clusters)
    expected = held_out_scores(small.clusters, small.distances, small.k, small.record.distance, small.fitted)
    np.testing.assert_array_equal(found.ood_scores, expected)


def test_a_series_stores_where_examples_are_and_later_windows_have_the_same_reference(
    small: PublishedSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(small.cache.path, tmp_path / "Faces")
    published = open_set(tmp_path / "Faces" / small.path.name)
    first = reference_routes(published, store=True)
    for layer in published.layers:
        shutil.rmtree(tmp_path / "Faces" / layer)
    again = reference_routes(open_set(published.path))
    np.testing.assert_array_equal(again.clusters, first.clusters)
    np.testing.assert_array_equal(again.ood_scores, first.ood_scores)
    assert not caplog.text
    file = published.path / HELD_OUT
    file.write_bytes(file.read_bytes()[:100])
    assert (reference_routes(open_set(published.path)).clusters == published.clusters).all()
    assert "cannot be read and is computed again" in caplog.text
    assert "false alarms are somewhat more frequent" in caplog.text


def test_activations_of_something_else_are_not_used(
    small: PublishedSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(small.cache.path, tmp_path / "changed")
    published = open_set(tmp_path / "changed" / small.path.name)
    with np.load(published.path / "centroids.npz") as file:
        turned = {layer: file[layer][::-1] for layer in file.files}
    np.savez(published.path / "centroids.npz", **turned)
    found = reference_routes(published)
    assert "no longer those it was made of" in caplog.text
    np.testing.assert_array_equal(found.clusters, small.clusters)


def test_a_large_set_is_compared_by_the_examples_outside_of_its_fit_sample(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    n = 4096 + ENOUGH  # k=4 is fitted on 4,096
    published = open_set(generate(tmp_path, n=n, layers=LAYERS, k=4, attributes=1, seed=1))
    outside = ~published.fitted.any(axis=1)
    assert outside.sum() == ENOUGH
    found = reference_routes(published)
    np.testing.assert_array_equal(found.clusters, published.clusters[outside])
    np.testing.assert_array_equal(found.predictions, published.predictions[outside])
    np.testing.assert_array_equal(found.ood_scores, published.scores.ood[outside])
    assert not caplog.text

"""Inertia of the pipeline's clusterings compared with scikit-learn's KMeans(n_init=10), on the same activations.

If a layer has more values than there are images, KMeans runs on a square root of their Gram matrix: points with the same
distances, in fewer dimensions.
"""

from __future__ import annotations

import shutil
import time
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from machine import Material
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from clusterpaths.cache.rows import LayerRows
from clusterpaths.config import RunConfig
from clusterpaths.pipeline import run
from clusterpaths.records import Distance

K = 5
DISTANCES: tuple[Distance, ...] = ("cosine", "euclidean")


def measure(material: Material, images: int, starts: int = 10) -> list[dict[str, Any]]:
    """For each distance and layer: our inertia, KMeans's, and their ratio; cosine with unit centroids for both."""
    root, out = material.images(images), material.work / "inertia"
    entries = []
    for distance in DISTANCES:
        config = RunConfig(
            evaluate=False,
            model=material.model,
            data_root=root,
            cache_root=out,
            name="R",
            distance=distance,
            k=K,
            preprocessing="imagenet",
        )
        published = run(config).published
        assert published
        ids = pq.read_table(published.path / "paths.parquet", columns=["id"])["id"].to_numpy()
        for layer, ours in published.record.clusters.items():
            gram, points = as_points(LayerRows(config.cache_dir, layer, ids), distance)
            started = time.perf_counter()
            labels = KMeans(K, n_init=starts, random_state=0).fit_predict(points)
            took = time.perf_counter() - started
            theirs = inertia_of(gram, labels, unit_centroids=distance == "cosine")
            entry = {"distance": distance, "layer": layer, "ours": ours.inertia, "kmeans": theirs}
            entries.append({**entry, "ratio": ours.inertia / theirs, "kmeans_seconds": took})
    shutil.rmtree(out)
    return entries


def as_points(rows: LayerRows, distance: Distance) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Gram matrix (n, n) of the rows, at unit length for cosine, and points (n, at most n) with just those products."""
    values = np.concatenate([block.astype(np.float16) for _, block in rows.blocks()])  # as the cache has them
    gram = np.zeros((len(values), len(values)))
    for start in range(0, rows.width, 8192):
        piece = values[:, start : start + 8192].astype(np.float32)
        gram += piece @ piece.T
    lengths = np.sqrt(np.diag(gram))
    lengths[lengths == 0] = 1  # rows without a direction stay where they are
    unit = distance == "cosine"
    if unit:
        gram /= np.outer(lengths, lengths)
    if rows.width > len(values):
        values_of, vectors = np.linalg.eigh(gram)
        return gram, (vectors * np.sqrt(np.maximum(values_of, 0))).astype(np.float32)  # rounding leaves some below 0
    points = values.astype(np.float32)
    if unit:
        points /= lengths[:, None]
    return gram, points


def inertia_of(gram: NDArray[np.float64], labels: NDArray[Any], *, unit_centroids: bool) -> float:
    """Sum of squared distances to the best centroids of these labels, of length 1 where asked."""
    sums = [gram[np.ix_(labels == c, labels == c)].sum() for c in np.unique(labels)]  # |sum of rows|^2 a cluster
    if unit_centroids:
        return float(gram.trace() + len(gram) - 2 * np.sqrt(sums).sum())
    return float(gram.trace() - (np.array(sums) / np.unique(labels, return_counts=True)[1]).sum())


def table(result: list[dict[str, Any]]) -> str:
    """The result as Markdown."""
    layers = list(dict.fromkeys(entry["layer"] for entry in result))
    lines = [f"| our inertia / KMeans(n_init=10)'s | {' | '.join(layers)} |", "|---" * (len(layers) + 1) + "|"]
    for distance in dict.fromkeys(entry["distance"] for entry in result):
        ratios = {entry["layer"]: entry["ratio"] for entry in result if entry["distance"] == distance}
        lines.append(f"| {distance} | {' | '.join(f'{ratios[layer]:.4f}' for layer in layers)} |")
    return "\n".join(lines)

"""A set of any size without a model and without images: for tests and load tests of what shows sets.

Belongs here: drawing a plausible set, and writing it as `publish.py` writes one. No expectation.

Every example has one of five hidden kinds, the hair colours; deep layers cluster by it more than the first ones, and a
cluster goes on into few clusters of the next layer, so that some paths are frequent and most are rare.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clusterpaths.datasets.drawn_faces.draw import ATTRIBUTES, HAIR
from clusterpaths.metrics.paths import count_paths, weighted_purity
from clusterpaths.records import ClusterSummary, ModelIdentity, Preprocessing, SetRecord, fingerprint
from clusterpaths.sets.maps import MAPS, LayerMap, MapRecord, write_maps

CELEBA = 202_599
SHAPES: dict[str, tuple[int, ...]] = {
    "conv1": (16, 64, 64),
    "conv2": (32, 32, 32),
    "conv3": (64, 16, 16),
    "fc1": (128,),
    "fc2": (64,),
}
CLASSES = ("Bald", "Black", "Blond", "Brown", "Gray")
SPLITS = ("train", "valid", "test")
_KINDS = (0.03, 0.30, 0.19, 0.40, 0.08)  # roughly CelebA's hair colours
_IMAGENET = Preprocessing(
    name="imagenet", size=(64, 64), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize="bilinear"
)


def generate(
    root: Path,
    *,
    n: int = CELEBA,
    layers: Mapping[str, tuple[int, ...]] = SHAPES,
    k: int = 5,
    attributes: int = 40,
    seed: int = 0,
    model: str = "CelebA",
    name: str = "set_01",
    labelled: float = 0.65,
    classes: Sequence[str] = CLASSES,
    data_root: Path | None = None,
) -> Path:
    """Write the results' folder `root` with one set of one model, and return the set's folder.

    Args:
        layers: name -> shape of its activations, which is the width of its centroids.
        labelled: share of the examples that have a label.
        classes: others than the hair colours are predicted equally often, and always right.
        data_root: where the images 000001.jpg … are said to be; by default nowhere.
    """
    draw = np.random.default_rng(seed)
    folder = root / model / name
    folder.mkdir(parents=True)
    kinds = draw.choice(len(CLASSES), size=n, p=_KINDS)  # (n,)
    clusters, distances = _paths(draw, kinds, len(layers), k)
    predictions = np.where(draw.random(n) < 0.92, kinds, draw.integers(0, len(CLASSES), n)).astype(np.int16)
    labels = np.where(draw.random(n) < labelled, kinds, -1).astype(np.int16)
    if tuple(classes) != CLASSES:
        predictions = (draw.permutation(n) % len(classes)).astype(np.int16)
        labels = np.where(labels < 0, labels, predictions)
    columns: dict[str, Any] = {
        "id": np.arange(n),
        "file": [f"{i + 1:06d}.jpg" for i in range(n)],
        "split": np.array(SPLITS)[np.searchsorted((0.803, 0.902), np.arange(n) / max(n, 1), side="right")].tolist(),
        "label": labels,
        "prediction": predictions,
    }
    _write_examples(draw, folder.parent / "examples.parquet", columns, kinds, attributes, len(classes))
    for i, layer in enumerate(layers):
        columns |= {layer: clusters[:, i], f"distance.{layer}": distances[:, i]}
    pq.write_table(pa.table(columns), folder / "paths.parquet", compression="zstd")
    centroids = _write_centroids(draw, folder, layers, k)
    paths = (f'"example_{i:04d}": {path}' for i, path in enumerate(clusters.tolist()))
    (folder / "paths.json").write_text("{" + ",\n".join(paths) + "}\n")
    path_of = count_paths(clusters).of_example
    record = SetRecord(
        set=name,
        fingerprint=fingerprint({"n": n, "k": k, "seed": seed, "layers": list(layers)}),
        model=ModelIdentity(file="Generated.onnx", sha256=fingerprint({"model": model})),
        dataset="celeba",
        data_root=str(data_root or root / "no_images"),
        preprocessing=_IMAGENET,
        layers=tuple(layers),
        tensors={layer: layer for layer in layers},
        logits="logits",
        k_per_layer=dict.fromkeys(layers, k),
        distance="cosine",
        seed=seed,
        num_examples=n,
        num_failed=0,
        class_names=tuple(classes),
        attributes=ATTRIBUTES[:attributes],
        clusters={
            layer: ClusterSummary(
                sizes=tuple(np.bincount(clusters[:, i], minlength=k).tolist()),
                empty=tuple(np.flatnonzero(np.bincount(clusters[:, i], minlength=k) == 0).tolist()),
                inertia=float(2 * distances[:, i].sum()),
                iterations=10,
            )
            for i, layer in enumerate(layers)
        },
        purity_labels=weighted_purity(path_of, labels),
        purity_predictions=weighted_purity(path_of, predictions),
        created="2026-01-02T03:04:05+00:00",
    )
    (folder / "set.json").write_text(record.model_dump_json(indent=2) + "\n")
    metadata = {
        "num_examples": n,
        "layers": list(centroids),
        "k": k,
        "distance": record.distance,
        "k_per_layer": record.k_per_layer,
        "set": name,
        "class_names": list(classes),
        "attributes": list(record.attributes),
        "created": record.created,
    }
    (folder.parent / "metadata.json").write_text(json.dumps(metadata, indent=2))
    return folder


def write_random_maps(folder: Path, layers: Mapping[str, tuple[int, ...]] = SHAPES, d: int = 16, seed: int = 0) -> None:
    """maps.parquet of a generated set: d components per layer, near together where the clusters are the same."""
    draw = np.random.default_rng(seed)
    table = pq.read_table(folder / "paths.parquet", columns=list(layers))
    maps = {}
    for layer in layers:
        centres = draw.normal(0, 2, (1 + max(table[layer].to_pylist()), d))
        components = (centres[table[layer].to_numpy()] + draw.normal(0, 1, (len(table), d))).astype(np.float32)
        maps[layer] = LayerMap(MapRecord(explained=(0.3, 0.1)), np.ascontiguousarray(components[:, :2]), components)
    write_maps(folder / MAPS, maps)


def _paths(
    draw: np.random.Generator, kinds: NDArray[np.integer], n_layers: int, k: int
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Cluster ids and distances, (n, layers) each: by kind, by the cluster before, or by lot with a few favourites."""
    n = len(kinds)
    zipf = 1 / np.arange(1, k + 1)
    clusters, distances = np.empty((n, n_layers), np.int16), np.empty((n, n_layers), np.float32)
    before = kinds
    for layer in range(n_layers):
        by_kind, by_before = draw.permutation(max(k, len(_KINDS))) % k, draw.permutation(max(k, len(_KINDS))) % k
        by_lot = draw.choice(k, size=n, p=zipf / zipf.sum())
        depth = (layer + 1) / n_layers
        which = draw.random(n)
        own = np.where(which < 0.65 * depth, by_kind[kinds], np.where(which < 0.8, by_before[before], by_lot))
        spread = draw.gamma(6.0, 0.02 + 0.01 * layer, n) * (1 + 0.5 * (own != by_kind[kinds]))
        clusters[:, layer], distances[:, layer] = own, np.minimum(spread, 1.9)
        before = own
    return clusters, distances


def _write_examples(
    draw: np.random.Generator,
    path: Path,
    columns: dict[str, Any],
    kinds: NDArray[np.integer],
    attributes: int,
    classes: int,
) -> None:
    """examples.parquet as `cache/examples.py` describes it; what an extraction would note of files is made up."""
    n = len(kinds)
    logits = draw.normal(0, 1.5, (n, classes)).astype(np.float32)
    logits[np.arange(n), columns["prediction"]] = logits.max(axis=1, initial=0) + draw.gamma(2.0, 2.0, n)
    offsets = np.arange(0, n * classes + 1, classes, dtype=np.int32)
    table = {
        "id": columns["id"],
        "file": columns["file"],
        "size": np.full(n, 7000),
        "split": columns["split"],
        "label": columns["label"],
        "shard": np.zeros(n, np.int32),
        "row": np.arange(n),
        "error": pa.nulls(n, pa.string()),
        "prediction": columns["prediction"],
        "logits": pa.ListArray.from_arrays(offsets, logits.ravel()),
        "mtime": np.zeros(n, np.int64),
        "digest": np.zeros(n, np.uint64),
    }
    for name in ATTRIBUTES[:attributes]:
        leaning = draw.normal(0, 1, len(_KINDS)) + draw.normal(-1, 1)
        has = draw.random(n) < (1 / (1 + np.exp(-leaning)))[kinds]
        if name in HAIR:
            has = kinds == HAIR.index(name)
        table[f"attr_{name}"] = np.where(has, 1, -1).astype(np.int8)
    pq.write_table(pa.table(table), path, compression="zstd")


def _write_centroids(
    draw: np.random.Generator, folder: Path, layers: Mapping[str, tuple[int, ...]], k: int
) -> dict[str, NDArray[np.float32]]:
    found = {layer: draw.random((k, int(np.prod(shape))), np.float32) for layer, shape in layers.items()}
    arrays: dict[str, Any] = dict(found)
    np.savez(folder / "centroids.npz", **arrays)
    rows = {layer: [[float(f"{x:.9g}") for x in row] for row in values.tolist()] for layer, values in found.items()}
    (folder / "centroids.json").write_text(json.dumps(rows))
    return found
